//! The state folder: where its parts lie, and the lock that gives it to one writing process.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::{Result, StoreError};
use crate::base::atomic;

/// The paths of the store within the state folder.
#[derive(Clone, Debug)]
pub(super) struct StateFolder {
    root: PathBuf,
}

impl StateFolder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("graftd.sqlite")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Why the database could not be opened or written. SQLite says "disk I/O error" of a file system
    /// that turned read-only and of a used-up quota as of a broken disk, and "unable to open" of a full
    /// one; a small file of our own tells them apart.
    pub(super) fn diagnose(&self, failure: StoreError) -> StoreError {
        if !matches!(failure, StoreError::Medium(_) | StoreError::ReadOnly(_)) {
            return failure;
        }
        let probe = self.root.join("probe");
        match atomic::write(&probe, &[0; 8192]) {
            Ok(()) => {
                let _ = fs::remove_file(&probe);
                failure
            }
            Err(error) => StoreError::io(&probe, error),
        }
    }

    /// Makes the folders that are missing, durably.
    pub(super) fn create(&self) -> Result<()> {
        for folder in [self.root.clone(), self.images()] {
            if !folder.is_dir() {
                fs::create_dir_all(&folder).map_err(|error| StoreError::io(&folder, error))?;
                atomic::sync_folder(&folder).map_err(|error| StoreError::io(&folder, error))?;
            }
        }
        Ok(())
    }
}

/// The right to write to a state folder. The kernel releases it when the process ends, however it
/// ends, so there is no stale lock to clean up.
#[derive(Debug)]
pub struct StateLock {
    _file: fs::File,
}

impl StateLock {
    /// Takes the lock of `folder` or fails at once.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the process that has it; otherwise what the file system says.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let io = |error| StoreError::io(&path, error);
        // Opened without truncation: until the lock is ours the number in it is another's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut number = String::new();
                let _ = file.take(20).read_to_string(&mut number);
                let holder = match number.trim().parse::<u32>() {
                    Ok(number) => format!("process {number}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(StoreError::Locked { folder: folder.to_owned(), holder });
            }
            Err(error) => return Err(io(error.into())),
        }
        // On a full disk the number finds no room; the lock holds all the same.
        let told = file.set_len(0).and_then(|()| file.rewind());
        let _ = told.and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_folder_is_refused_and_the_error_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(folder.path()).unwrap();
        let refused = StateLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        StateLock::acquire(folder.path()).unwrap();
    }
}
