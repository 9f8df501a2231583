//! The ONNX file of a network, which is read again for each view.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::GraphError;
use crate::base::digest::Digest;

/// Where the bytes of the ONNX file are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory.
    Bytes(Cow<'static, [u8]>),
    /// On disk; read anew whenever a view is made, and its digest compared. It stays open while the
    /// network is loaded, so that it may be moved, replaced or deleted meanwhile.
    File(PathBuf),
}

/// The ONNX file of a loaded network, for reading it again.
#[derive(Debug)]
pub(super) enum OnnxFile {
    Bytes(Cow<'static, [u8]>),
    Open { path: PathBuf, file: File },
}

impl OnnxFile {
    pub(super) fn open(source: Source) -> Result<Self, GraphError> {
        Ok(match source {
            Source::Bytes(bytes) => Self::Bytes(bytes),
            Source::File(path) => {
                let file = File::open(&path).map_err(|error| unreadable(&path, &error))?;
                Self::Open { path, file }
            }
        })
    }

    /// The bytes and their digest, which has to be `expected` where that is known.
    pub(super) fn read(
        &self,
        expected: Option<Digest>,
    ) -> Result<(Cow<'static, [u8]>, Digest), GraphError> {
        let bytes = match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Open { path, file } => {
                Cow::Owned(read_whole(file).map_err(|error| unreadable(path, &error))?)
            }
        };
        let actual = Digest::of(&bytes);
        match expected.filter(|expected| *expected != actual) {
            Some(expected) => Err(GraphError::Changed { expected, actual }),
            None => Ok((bytes, actual)),
        }
    }
}

/// By positions, for several threads may read at a time.
fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> GraphError {
    GraphError::Malformed(format!("{}: {error}", path.display()))
}
