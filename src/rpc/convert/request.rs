//! What the inference service is asked.

use super::field::{FieldError, ranged};
use super::{image, target};
use crate::engine::{Subject, Target};
use crate::proto::graft::{EmbedRequest, PredictRequest};

/// The most classes that an answer may hold.
const MAXIMUM_TOP_K: u32 = 100_000;
const DEFAULT_TOP_K: u32 = 5;

/// A picture to classify.
#[derive(Debug)]
pub struct Predict {
    /// The picture.
    pub subject: Subject,
    /// Who answers.
    pub target: Target,
    /// How many classes are wanted, from 1.
    pub top_k: usize,
}

/// A picture to embed.
#[derive(Debug)]
pub struct Embed {
    /// The picture.
    pub subject: Subject,
    /// Whose embedding is wanted.
    pub target: Target,
}

impl TryFrom<PredictRequest> for Predict {
    type Error = FieldError;

    fn try_from(request: PredictRequest) -> Result<Self, FieldError> {
        Ok(Self {
            target: target::target(&request.head, &request.backbone)?,
            top_k: top_k(request.top_k)?,
            subject: image::subject(request.image)?,
        })
    }
}

impl TryFrom<EmbedRequest> for Embed {
    type Error = FieldError;

    fn try_from(request: EmbedRequest) -> Result<Self, FieldError> {
        Ok(Self {
            target: target::target(&request.head, &request.backbone)?,
            subject: image::subject(request.image)?,
        })
    }
}

/// How many classes are wanted, from the field `top_k`.
///
/// # Errors
/// Where it is out of range.
pub fn top_k(value: Option<u32>) -> Result<usize, FieldError> {
    Ok(ranged("top_k", value, 1..=MAXIMUM_TOP_K, DEFAULT_TOP_K)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_defaults_to_five_and_refuses_nonsense() {
        assert_eq!(top_k(None), Ok(5));
        assert_eq!(top_k(Some(0)).unwrap_err().to_string(), "top_k: must be 1 to 100000, not 0");
        assert!(top_k(Some(1_000_000_000)).is_err());
    }
}
