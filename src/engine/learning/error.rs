//! What can go wrong while learning.

use crate::base::cancel::Cancelled;
use crate::base::name::InvalidName;
use crate::engine::EngineError;
use crate::heads::{ExportError, HeadError};
use crate::store::{JobId, StoreError};
use crate::train::TrainError;

/// Why something was not learnt. The edge maps each of these to a status.
#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    /// What is stored, or cannot be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backbone's part.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The training itself.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A head's bytes.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A head that cannot be written as ONNX.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A name that cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Too many jobs wait.
    #[error("{waiting} jobs wait already; wait for one to end or cancel one")]
    JobQueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// Only a job that has ended can be started again.
    #[error("job {0} has not ended: cancel it first, or let it end")]
    JobNotEnded(JobId),
    /// Heads that follow their dataset keep their statistics in memory.
    #[error("{maximum} heads follow their dataset already; train one of them without following")]
    TooManyFollow {
        /// How many may.
        maximum: usize,
    },
    /// One dataset is examined at a time.
    #[error("another dataset is being examined; ask again once that is done")]
    Examining,
    /// An imported head fits no backbone that is loaded.
    #[error(
        "the head was trained on the backbone with SHA-256 {sha256}, which is not loaded here, or \
         with another preprocessing; add that backbone with the preprocessing that it has there"
    )]
    ForeignHead {
        /// What the head remembers.
        sha256: String,
    },
    /// Nothing to learn from or to judge on.
    #[error("{0}")]
    NoSamples(String),
    /// A piece of what was stored as JSON cannot be read back.
    #[error("a stored record cannot be read: {0}")]
    Record(String),
    /// The system grants no thread.
    #[error("the system grants no thread: {0}")]
    Thread(String),
}

impl LearningError {
    /// Whether the work ended because it was told to.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Train(TrainError::Cancelled(_)) | Self::Engine(EngineError::Cancelled))
    }
}

impl From<Cancelled> for LearningError {
    fn from(reason: Cancelled) -> Self {
        Self::Engine(reason.into())
    }
}

impl From<serde_json::Error> for LearningError {
    fn from(error: serde_json::Error) -> Self {
        Self::Record(error.to_string())
    }
}
