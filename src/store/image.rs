//! Images at rest: in the database when small, as files of their own when large.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row};

use super::error::{Result, StoreError};
use super::folder::StateFolder;
use crate::base::atomic;
use crate::base::digest::Digest;

/// Images above this many bytes become files. Below it SQLite is as fast as a file and needs no
/// flush of its own.
pub const INLINE_LIMIT: usize = 100 * 1024;

/// A stored picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Encoded as it came.
    pub bytes: Vec<u8>,
    /// Whether this is the small picture that the dataset keeps instead of the image.
    pub thumbnail: bool,
}

/// A picture on its way in. What is large is already on the medium, so that the writer thread does
/// not wait for it.
#[derive(Debug)]
pub(super) struct NewImage {
    pub(super) length: usize,
    pub(super) digest: Digest,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Inline(Vec<u8>),
    File(StagedFile),
}

impl NewImage {
    /// Prepares `bytes`; on the caller's thread.
    pub(super) fn stage(folder: &StateFolder, bytes: Vec<u8>) -> Result<Self> {
        let (length, digest) = (bytes.len(), Digest::of(&bytes));
        let body = if length > INLINE_LIMIT {
            Body::File(StagedFile::write(folder, &bytes)?)
        } else {
            Body::Inline(bytes)
        };
        Ok(Self { length, digest, body })
    }

    /// The values of the columns `file` and `bytes`.
    pub(super) fn columns(&self) -> (Option<&str>, Option<&[u8]>) {
        match &self.body {
            Body::Inline(bytes) => (None, Some(bytes)),
            Body::File(file) => (Some(&file.name), None),
        }
    }
}

/// A file that no row names yet. Dropped before its row is committed, it is removed; after a crash,
/// [`sweep`] removes it.
#[derive(Debug)]
pub(super) struct StagedFile {
    name: String,
    path: PathBuf,
    committed: bool,
}

impl StagedFile {
    fn write(folder: &StateFolder, bytes: &[u8]) -> Result<Self> {
        // A random name: files are never shared or reused, so removing one needs no counting.
        let name = format!("{:032x}", rand::random::<u128>());
        let path = folder.images().join(&name);
        atomic::write(&path, bytes).map_err(|error| StoreError::io(&path, error))?;
        Ok(Self { name, path, committed: false })
    }

    /// To be called once the row that names the file is durable.
    pub(super) fn commit(mut self) {
        self.committed = true;
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path); // what stays is swept at the next start
        }
    }
}

/// A picture as a row describes it.
pub(super) struct StoredImage {
    length: u64,
    digest: Digest,
    bytes: Option<Vec<u8>>,
    file: Option<String>,
}

impl StoredImage {
    /// Reads the columns `length, sha256, file, bytes` from `first` on.
    pub(super) fn from_row(row: &Row<'_>, first: usize) -> Result<Self> {
        Ok(Self {
            length: row.get::<_, i64>(first)?.unsigned_abs(),
            digest: Digest(row.get(first + 1)?),
            file: row.get(first + 2)?,
            bytes: row.get(first + 3)?,
        })
    }

    /// The bytes, compared with their digest.
    pub(super) fn load(self, folder: &StateFolder) -> Result<Vec<u8>> {
        let (bytes, place) = match (self.bytes, self.file) {
            (Some(bytes), _) => (bytes, "an image in the database".to_owned()),
            (None, Some(name)) => {
                let path = file_path(folder, &name)?;
                let bytes = fs::read(&path).map_err(|error| {
                    if error.kind() == std::io::ErrorKind::NotFound {
                        StoreError::Corrupt(format!("image file {name} is missing"))
                    } else {
                        StoreError::io(&path, error)
                    }
                })?;
                (bytes, format!("image file {name}"))
            }
            (None, None) => return Err(StoreError::Corrupt("an image row without image".into())),
        };
        if bytes.len() as u64 == self.length && Digest::of(&bytes) == self.digest {
            Ok(bytes)
        } else {
            Err(StoreError::Corrupt(place))
        }
    }
}

/// Removes the files of rows whose deletion is durable, and makes the removal durable.
pub(super) fn remove_files(folder: &StateFolder, names: &[String]) {
    for name in names {
        if let Ok(path) = file_path(folder, name)
            && let Err(error) = fs::remove_file(&path)
        {
            // No row names it any more: the next start removes it.
            tracing::warn!(file = %path.display(), %error, "a deleted image could not be removed");
        }
    }
    if !names.is_empty() {
        let _ = atomic::sync_folder(&folder.images().join("any"));
    }
}

/// Removes files that no row names: left by a crash between a file and its row.
pub(super) fn sweep(folder: &StateFolder, connection: &Connection) -> Result<()> {
    let images = folder.images();
    let io = |error| StoreError::io(&images, error);
    let mut entries = fs::read_dir(&images).map_err(io)?.peekable();
    if entries.peek().is_none() {
        return Ok(());
    }
    let named = named_files(connection)?;
    for entry in entries {
        let entry = entry.map_err(io)?;
        if !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
            fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// The names of all files that rows name.
pub(super) fn named_files(connection: &Connection) -> Result<HashSet<String>> {
    let mut statement = connection.prepare("SELECT file FROM images WHERE file IS NOT NULL")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(names)
}

/// The path of an image file. Names come from the database, so they are not trusted to be plain.
fn file_path(folder: &StateFolder, name: &str) -> Result<PathBuf> {
    if name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(folder.images().join(Path::new(name)))
    } else {
        Err(StoreError::Corrupt(format!("image file name {name:?}")))
    }
}
