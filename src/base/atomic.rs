//! Files that are either wholly there or not there at all, also after a power cut.
//!
//! The protocol is the usual one: write a temporary file beside the target, flush it to the medium,
//! rename it over the target, flush the folder. It assumes that a rename within a folder is atomic
//! and that `fsync` returns only once the data is on the medium.

#![allow(clippy::disallowed_methods)] // the one place where files are created and renamed

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Replaces `path` with `bytes`: readers see the old content or the new, never a mixture.
///
/// # Errors
/// Whatever the file system answers; the old content is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.commit()
}

/// Moves a finished file or folder to its place and makes the move durable.
///
/// # Errors
/// Whatever the file system answers, for example when the two lie on different file systems.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to)
}

/// Exchanges two files or folders of one file system in a single step, so that at no time either
/// path is empty, and makes that durable.
///
/// A file system that has no such step gets three renames. A failure in their midst is undone, but a
/// power cut may then leave `old` under a name beside it that ends in `.aside`.
///
/// # Errors
/// Whatever the file system answers; both are then as they were.
#[cfg(feature = "daemon")]
pub fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    // Whatever is wrong beside that the step is missing, the renames say it too.
    if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_err() {
        exchange_by_renames(new, old)?;
    }
    sync_folder(old)
}

#[cfg(feature = "daemon")]
fn exchange_by_renames(new: &Path, old: &Path) -> io::Result<()> {
    let mut aside = old.as_os_str().to_owned();
    aside.push(".aside");
    fs::rename(old, &aside)?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(&aside, old)?;
        return Err(error);
    }
    fs::rename(&aside, new)
}

/// A file under construction. Dropping it without [`File::commit`] removes what was written.
#[derive(Debug)]
pub struct File {
    inner: Option<fs::File>,
    temporary: PathBuf,
    target: PathBuf,
}

impl File {
    /// Begins to write what will become `target`.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written, or `target` has no file name.
    pub fn create(target: &Path) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
        // Two processes, or two threads of one, must not share a temporary file.
        let unique = format!("{}-{}", std::process::id(), sequence());
        let temporary =
            target.with_file_name(format!(".{}.{unique}.partial", name.to_string_lossy()));
        let inner = fs::OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        Ok(Self { inner: Some(inner), temporary, target: target.to_owned() })
    }

    /// Flushes the data to the medium and puts the file in its place.
    ///
    /// # Errors
    /// Whatever the file system answers; the target is then as it was before.
    pub fn commit(mut self) -> io::Result<()> {
        if let Some(file) = &self.inner {
            file.sync_all()?;
        }
        fs::rename(&self.temporary, &self.target)?;
        self.inner = None;
        sync_folder(&self.target)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.as_mut().map_or_else(|| Err(io::ErrorKind::NotFound.into()), |f| f.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.inner.take().is_some() {
            // The file is useless whether or not it can be removed.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a creation, renaming or removal within the folder of `path` durable.
///
/// # Errors
/// When the folder cannot be opened or flushed.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(folder)?.sync_all()
}

fn sequence() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_committed_leaves_the_old_content_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest");
        write(&path, b"old").unwrap();
        let mut file = File::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn an_exchange_swaps_two_folders_and_one_that_fails_changes_nothing() {
        for exchange in [exchange, exchange_by_renames] {
            let folder = tempfile::tempdir().unwrap();
            let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
            for path in [&one, &two] {
                fs::create_dir(path).unwrap();
                write(&path.join("name"), path.as_os_str().as_encoded_bytes()).unwrap();
            }
            let holds = |path: &Path, what: &Path| {
                fs::read(path.join("name")).unwrap() == what.as_os_str().as_encoded_bytes()
            };
            exchange(&one, &two).unwrap();
            assert!(holds(&one, &two) && holds(&two, &one));
            exchange(&folder.path().join("absent"), &two).unwrap_err();
            assert!(holds(&two, &one));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn a_committed_file_replaces_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
