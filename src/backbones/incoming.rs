//! A backbone under construction: received, tried, then put in its place by one rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BackboneError, PreprocessingChoice, TensorNames};
use crate::base::atomic;
use crate::base::digest::{Digest, Hasher};
use crate::base::name::Name;

/// What a received model is to become.
#[derive(Clone, Debug)]
pub struct NewBackbone {
    /// Its id.
    pub id: Name,
    /// Its name for people; empty means its id.
    pub name: String,
    /// How a photograph becomes its input; a size may be left to the network.
    pub preprocessing: PreprocessingChoice,
    /// The text of its labels file.
    pub labels: Option<String>,
    /// The licence of its weights; empty where unknown.
    pub licence: String,
    /// Where it came from; empty where unknown.
    pub source: String,
    /// SHA-256 that the model must have.
    pub sha256: Option<Digest>,
    /// Bytes that the model must have.
    pub size_bytes: Option<u64>,
    /// Overrides of what is found by structure.
    pub tensors: TensorNames,
    /// Whether a backbone of the same id is replaced.
    pub replace: bool,
}

/// A model file on its way in, and the hidden folder that is to become its backbone's. Dropping it
/// removes that folder.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    model: PathBuf,
    /// The file that is to become the model, where it was there already. It stays in its place until
    /// all else is ready, so that a refusal, or a crash, does not cost it.
    adopted: Option<PathBuf>,
    file: Option<File>,
    hasher: Hasher,
    size: u64,
    limit: u64,
}

impl Incoming {
    pub(super) fn create(root: &Path, model: &str, limit: u64) -> Result<Self, BackboneError> {
        let folder = hidden(root, "incoming");
        fs::create_dir_all(&folder).map_err(BackboneError::io(&folder))?;
        let model = folder.join(model);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&model)
            .map_err(BackboneError::io(&model))?;
        let hasher = Hasher::default();
        Ok(Self { folder, model, adopted: None, file: Some(file), hasher, size: 0, limit })
    }

    /// Adds the next bytes of the model.
    ///
    /// # Errors
    /// [`BackboneError::TooLarge`], or what the file system says.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BackboneError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.limit {
            return Err(BackboneError::TooLarge { limit: self.limit });
        }
        self.hasher.update(bytes);
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound.into());
        file.and_then(|file| file.write_all(bytes)).map_err(BackboneError::io(&self.model))
    }

    /// Adds a whole file.
    ///
    /// # Errors
    /// As [`Incoming::push`], and if `path` cannot be read.
    pub fn copy(&mut self, path: &Path) -> Result<(), BackboneError> {
        let mut file = File::open(path).map_err(BackboneError::io(path))?;
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block).map_err(BackboneError::io(path))? {
                0 => return Ok(()),
                length => self.push(&block[..length])?,
            }
        }
    }

    /// Takes a file of the same file system as the whole model, without a copy. It leaves its place
    /// when the backbone is installed, not before.
    ///
    /// # Errors
    /// As [`Incoming::copy`].
    pub fn adopt(&mut self, path: &Path) -> Result<(), BackboneError> {
        let size = fs::metadata(path).map_err(BackboneError::io(path))?.len();
        if size > self.limit {
            return Err(BackboneError::TooLarge { limit: self.limit });
        }
        let mut file = File::open(path).map_err(BackboneError::io(path))?;
        self.hasher = Hasher::default();
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block).map_err(BackboneError::io(path))? {
                0 => break,
                length => self.hasher.update(&block[..length]),
            }
        }
        self.size = size;
        self.file = None;
        self.adopted = Some(path.to_owned());
        Ok(())
    }

    /// Ends the model: its digest and size.
    pub(super) fn finish(&mut self) -> Result<(Digest, u64), BackboneError> {
        if let Some(file) = self.file.take() {
            file.sync_all().map_err(BackboneError::io(&self.model))?;
        }
        Ok((std::mem::take(&mut self.hasher).finish(), self.size))
    }

    /// The hidden folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the model lies now.
    pub(super) fn model(&self) -> &Path {
        self.adopted.as_ref().unwrap_or(&self.model)
    }

    /// Writes another file beside the model.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), BackboneError> {
        let path = self.folder.join(name);
        atomic::write(&path, bytes).map_err(BackboneError::io(&path))
    }

    /// Makes the folder `target`, in place of what was there.
    pub(super) fn place(self, target: &Path) -> Result<(), BackboneError> {
        if let Some(adopted) = &self.adopted {
            atomic::rename(adopted, &self.model).map_err(BackboneError::io(adopted))?;
        }
        let place = if target.exists() { atomic::exchange } else { atomic::rename };
        place(&self.folder, target).map_err(BackboneError::io(target))
        // What `target` was is now the hidden folder, and goes with it.
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What cannot be removed now is removed by `clean`; after a rename there is nothing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A name beside the backbones that is no [`Name`] and that no other process or thread takes.
pub(super) fn hidden(root: &Path, purpose: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    root.join(format!(".{purpose}-{}-{number}", std::process::id()))
}

/// Removes hidden folders that nobody works on; the caller holds the lock of the state folder.
pub(super) fn clean(root: &Path) -> Result<(), BackboneError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackboneError::io(root)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(BackboneError::io(root))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".incoming-") || name.starts_with(".removed-") {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(BackboneError::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_grows_over_the_limit_is_refused_and_leaves_no_trace() {
        let root = tempfile::tempdir().unwrap();
        let mut incoming = Incoming::create(root.path(), "model.onnx", 10).unwrap();
        incoming.push(&[0; 10]).unwrap();
        assert!(matches!(incoming.push(&[0]), Err(BackboneError::TooLarge { limit: 10 })));
        drop(incoming);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn placing_replaces_the_old_folder_whole() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("mine");
        fs::create_dir(&target).unwrap();
        atomic::write(&target.join("old.txt"), b"old").unwrap();
        let mut incoming = Incoming::create(root.path(), "model.onnx", 10).unwrap();
        incoming.push(b"model").unwrap();
        assert_eq!(incoming.finish().unwrap(), (Digest::of(b"model"), 5));
        incoming.place(&target).unwrap();
        let names: Vec<_> =
            fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["model.onnx"]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_adopted_file_keeps_its_place_until_the_backbone_has_its_own() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("download");
        atomic::write(&path, b"model").unwrap();
        let adopt = || {
            let mut incoming = Incoming::create(root.path(), "model.onnx", 10).unwrap();
            incoming.adopt(&path).unwrap();
            assert_eq!(incoming.finish().unwrap(), (Digest::of(b"model"), 5));
            assert_eq!(fs::read(incoming.model()).unwrap(), b"model");
            incoming
        };
        drop(adopt());
        assert_eq!(fs::read(&path).unwrap(), b"model");
        let target = root.path().join("mine");
        adopt().place(&target).unwrap();
        assert_eq!(fs::read(target.join("model.onnx")).unwrap(), b"model");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn cleaning_removes_interrupted_work_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for name in [".incoming-1-2", ".removed-3-4", ".downloads", "mine"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        clean(root.path()).unwrap();
        assert!(root.path().join(".downloads").is_dir() && root.path().join("mine").is_dir());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }
}
