//! What can go wrong, in words that say what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;
use rustix::io::Errno;

use super::job::JobId;
use crate::base::name::Name;

/// The store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store refused or failed. Cheap to clone, because one failed COMMIT is reported to every
/// caller whose sample was in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the state folder open for writing.
    #[error(
        "the state folder {} is held by {holder}: stop it, or send the command through the running \
         daemon with graftctl", folder.display()
    )]
    Locked {
        /// The state folder.
        folder: PathBuf,
        /// `process 1234`, or `another process` where it left no number.
        holder: String,
    },
    /// There is no store in the folder, and the caller did not want one made.
    #[error("there is no graftd state in {}: check --state-dir", folder.display())]
    NoState {
        /// The state folder.
        folder: PathBuf,
    },
    /// The database was written by a newer graftd.
    #[error("the store has schema version {found}, this graftd knows up to {known}: update graftd")]
    NewerSchema {
        /// Version in the file.
        found: i64,
        /// Newest version that this program can read.
        known: i64,
    },
    /// Files or folder cannot be written.
    #[error(
        "the state folder cannot be written ({0}): check its owner and whether it is mounted read-only"
    )]
    ReadOnly(String),
    /// The medium is full; nothing of the refused operation was kept.
    #[error(
        "the disk that holds the state folder is full: delete samples or free space, then send again"
    )]
    DiskFull,
    /// The medium fails, or a limit of the system stands against a write; nothing of the refused
    /// operation was kept.
    #[error(
        "the disk that holds the state folder fails ({0}): look at the kernel's log, and at the daemon's limit on the size of files, then send again"
    )]
    Medium(String),
    /// Stored bytes are not those that were written.
    #[error(
        "the store is damaged ({0}): run `graftd store verify`, then export what is sound and import it afresh"
    )]
    Corrupt(String),
    /// A field of the caller's data breaks a stated limit.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as a path such as `labels[2]`.
        field: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// No such dataset.
    #[error("there is no dataset {0}")]
    UnknownDataset(Name),
    /// A dataset of that name exists with other settings.
    #[error("dataset {0} already exists")]
    DatasetExists(Name),
    /// No such sample.
    #[error("dataset {dataset} has no sample {id:?}")]
    UnknownSample {
        /// Where it was looked for.
        dataset: Name,
        /// The client's id.
        id: String,
    },
    /// The id is taken by a sample with other content.
    #[error(
        "sample {id:?} is already stored with another image: use another id, or delete it first"
    )]
    SampleConflict {
        /// The client's id.
        id: String,
    },
    /// The dataset's quota does not allow the sample.
    #[error(
        "dataset {dataset} has reached its quota of {limit}: delete samples, raise the quota, or let it drop the oldest"
    )]
    QuotaExceeded {
        /// The dataset.
        dataset: Name,
        /// For example `500 samples`.
        limit: String,
    },
    /// No such head.
    #[error("there is no head {0}")]
    UnknownHead(Name),
    /// No such version of a head.
    #[error("head {head} has no version {version}")]
    UnknownHeadVersion {
        /// The head.
        head: Name,
        /// The version asked for.
        version: u32,
    },
    /// The active version cannot be deleted.
    #[error("version {version} of head {head} is the active one: activate another version first")]
    HeadVersionActive {
        /// The head.
        head: Name,
        /// The version asked for.
        version: u32,
    },
    /// There is no earlier activation to return to.
    #[error("head {0} has no earlier version to return to")]
    NothingToRollBack(Name),
    /// No such job.
    #[error("there is no job {0}")]
    UnknownJob(JobId),
    /// The store was closed while the operation waited.
    #[error("the store is closed")]
    Closed,
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// SQLite failed in a way that has no kind of its own above.
    #[error("database: {0}")]
    Database(Arc<rusqlite::Error>),
}

impl StoreError {
    pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // a foreign enum, most of which is one to us
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::ReadOnly(format!("{}: {error}", path.display()))
            }
            io::ErrorKind::FileTooLarge => Self::Medium(format!("{}: {error}", path.display())),
            _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Self::Medium(format!("{}: {error}", path.display()))
            }
            _ => Self::Io { path: path.to_owned(), source: Arc::new(error) },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    #[allow(clippy::wildcard_enum_match_arm)] // a foreign enum, most of which is one to us
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::SystemIoFailure) => Self::Medium(error.to_string()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt(error.to_string())
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::ReadOnly(error.to_string())
            }
            _ => match error {
                // The schema is STRICT, so a value of another type can only come from damage.
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..) => Self::Corrupt(error.to_string()),
                error => Self::Database(Arc::new(error)),
            },
        }
    }
}
