//! What can go wrong between a request and its answer.

use crate::backbones::LabelError;
use crate::base::cancel::Cancelled;
use crate::explain::ExplainError;
use crate::graph::GraphError;
use crate::heads::HeadError;
use crate::vision::VisionError;

/// Why a request was not answered. The edge maps each of these to a status.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The photograph cannot be used.
    #[error(transparent)]
    Picture(#[from] VisionError),
    /// The network cannot be loaded, or refuses the input.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The head refuses the embedding.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A label does not name one class.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The explanation cannot be made.
    #[error(transparent)]
    Explain(ExplainError),
    /// A stored version of a head cannot be read.
    #[error("{head} cannot be read from the device: {reason}")]
    HeadFile {
        /// `name@version`.
        head: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is loaded under this name.
    #[error("there is no {kind} {name:?}; {known}")]
    Unknown {
        /// `backbone` or `head`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is instead, as a sentence.
        known: String,
    },
    /// The head is there, but none of its versions was ever made live.
    #[error(
        "head {head:?} has no live version; make one live with `graftctl heads activate \
         {head}@VERSION`, or name one ({head}@VERSION)"
    )]
    NoLiveVersion {
        /// The head.
        head: String,
    },
    /// The backbone is on the device, but not in memory.
    #[error("backbone {0:?} is not loaded; load it with `graftctl backbones load {0}`")]
    NotLoaded(String),
    /// The request names nothing and there is nothing to fall back on.
    #[error("no backbone is loaded; add one with `graftd models add` or `graftd models pull`")]
    NothingLoaded,
    /// The backbone is a pure feature extractor.
    #[error(
        "backbone {0:?} has no classifier of its own; teach it your classes (`graftd train FOLDER`), \
         name a head that was trained on it, or fetch a backbone that has one (`graftd models pull \
         mobilenet-v2`)"
    )]
    NoClassifier(String),
    /// A head was trained on another network or preprocessing than the backbone's name stands for now.
    #[error(
        "head {head:?} was trained on another network or preprocessing than those of the backbone \
         {backbone:?} now; train it again or restore the backbone"
    )]
    OtherBackbone {
        /// The head.
        head: String,
        /// The backbone's name.
        backbone: String,
    },
    /// Every place in the queue is taken.
    #[error("the queue is full ({length} requests wait); try again shortly")]
    QueueFull {
        /// Places in the queue.
        length: usize,
    },
    /// The daemon is stopping.
    #[error("the daemon is stopping and takes no more requests")]
    Draining,
    /// The caller's deadline passed first.
    #[error("the deadline passed before the answer was ready")]
    DeadlineExceeded,
    /// The caller hung up.
    #[error("the caller cancelled the request")]
    Cancelled,
    /// A fault of ours; the text is for the log.
    #[error("internal fault: {0}")]
    Fault(String),
}

impl From<ExplainError> for EngineError {
    fn from(error: ExplainError) -> Self {
        #[allow(clippy::wildcard_enum_match_arm)] // those that have a home already, and the rest
        match error {
            ExplainError::Graph(error) => Self::Graph(error),
            ExplainError::Head(error) => Self::Head(error),
            ExplainError::Cancelled(reason) => reason.into(),
            other => Self::Explain(other),
        }
    }
}

impl From<Cancelled> for EngineError {
    fn from(reason: Cancelled) -> Self {
        match reason {
            Cancelled::ByCaller => Self::Cancelled,
            Cancelled::DeadlineExceeded => Self::DeadlineExceeded,
        }
    }
}
