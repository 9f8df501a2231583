//! Why a head could not be trained.

use crate::base::cancel::Cancelled;
use crate::heads::HeadError;

/// Why training gave no head. The messages are meant for the person who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// No samples at all.
    #[error("there are no samples to train on; add some first")]
    Empty,
    /// Nothing to tell apart.
    #[error("all samples are of one class ({0:?}); a classifier needs samples of at least two")]
    OneClass(String),
    /// More classes than a device can learn.
    #[error(
        "the samples carry {classes} different labels and a head learns at most {most}: give samples \
         that show the same the same label, or divide them among several datasets"
    )]
    TooManyClasses {
        /// How many there are.
        classes: usize,
        /// How many there may be.
        most: usize,
    },
    /// Too few samples of some class for what was asked.
    #[error("class {class:?} has {samples} samples and {needed} are needed {purpose}")]
    TooFew {
        /// Label of the class.
        class: String,
        /// How many samples it has.
        samples: usize,
        /// How many would do.
        needed: usize,
        /// What for.
        purpose: &'static str,
    },
    /// A value that no real backbone gives.
    #[error("value {column} of the embedding of sample {row} is not a finite number")]
    NotFinite {
        /// Index of the sample.
        row: usize,
        /// Index in its embedding.
        column: usize,
    },
    /// Lengths, indices or options that contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// The optimiser ran into numbers that are not finite.
    #[error("the training diverged: {0}; check the data for extreme values")]
    Diverged(&'static str),
    /// The fitted parameters do not make a head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Told to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
