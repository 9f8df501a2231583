//! What can be wrong with a backbone on the device.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::graph::GraphError;
use crate::vision::VisionError;

/// Why a backbone cannot be found, installed, downloaded or loaded.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// No backbone of this id is on the device.
    #[error("no backbone {0} is on this device; `graftd models list` shows those that are")]
    Unknown(Name),
    /// A backbone of this id is there already.
    #[error(
        "there is a backbone {0} already; choose another id, or replace it (graftd: --force, graftctl: --replace)"
    )]
    Exists(Name),
    /// The catalogue has no such entry.
    #[error("the catalogue has no backbone {0}; `graftd models list` shows what it has")]
    NotInCatalog(Name),
    /// A manifest or catalogue cannot be understood.
    #[error("{origin}: {reason}")]
    Manifest {
        /// The file, or what stands in for one.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is larger than allowed.
    #[error("the model has more than {limit} bytes, the limit for backbones")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is not the one that was announced.
    #[error("the model's SHA-256 is {actual}, but {expected} was expected: it is another file")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// The file has another size than was announced.
    #[error(
        "the model has {actual} bytes, but {expected} were announced: it is another file, or cut off"
    )]
    Size {
        /// What was announced, in bytes.
        expected: u64,
        /// What came, in bytes.
        actual: u64,
    },
    /// There is no room for the file.
    #[error("the storage is full: make room on the device, or delete backbones, and try again")]
    DiskFull,
    /// The model failed its trial run in a child process.
    #[error("the model was tried and refused: {0}")]
    Refused(String),
    /// The trial itself could not be held.
    #[error("the model could not be tried: {0}")]
    Trial(String),
    /// Model, preprocessing and labels do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// Every address failed.
    #[error("the download failed:{}", list(.0))]
    Download(Vec<(String, String)>),
    /// The download was given up by the user.
    #[error("the download was cancelled; it goes on where it stopped when started again")]
    Cancelled,
    /// The preprocessing makes no sense.
    #[error(transparent)]
    Preprocessing(#[from] VisionError),
    /// The network cannot be loaded.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl BackboneError {
    /// For `map_err`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        #[allow(clippy::wildcard_enum_match_arm)] // a foreign enum, most of which is one to us
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

fn list(attempts: &[(String, String)]) -> String {
    let lines: Vec<String> =
        attempts.iter().map(|(address, reason)| format!("\n  {address}: {reason}")).collect();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_storage_is_told_from_other_failures_of_the_file_system() {
        let of = |kind: io::ErrorKind| BackboneError::io(Path::new("model.onnx"))(kind.into());
        assert!(matches!(of(io::ErrorKind::StorageFull), BackboneError::DiskFull));
        assert!(matches!(of(io::ErrorKind::QuotaExceeded), BackboneError::DiskFull));
        assert!(matches!(of(io::ErrorKind::NotFound), BackboneError::Io { .. }));
    }
}
