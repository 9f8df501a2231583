//! What can be wrong with a head, or with what it is asked.

/// Why a head could not be built, read or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The embedding comes from another backbone, or from another layer of it.
    #[error(
        "the embedding is {found} wide but this head takes {expected}; is it the backbone the head was trained on?"
    )]
    Width {
        /// Width that the head was trained on.
        expected: usize,
        /// Width that came in.
        found: usize,
    },
    /// One number a class is wanted.
    #[error("{found} numbers were given for {expected} classes")]
    Classes {
        /// Number of classes of the head.
        expected: usize,
        /// How many numbers came in.
        found: usize,
    },
    /// NaN or an infinity in an embedding.
    #[error("value {index} of the embedding is not a finite number")]
    NotFinite {
        /// Position in the embedding, from 0.
        index: usize,
    },
    /// A label that no class may have.
    #[error("the label {label:?} {reason}")]
    Label {
        /// The label, shortened.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The parts of a head contradict each other.
    #[error("the head is inconsistent: {0}")]
    Inconsistent(String),
    /// Bytes that are not a head.
    #[error("this is not a graftd head file: {0}")]
    Format(String),
}
