//! Cosine k-nearest-neighbours: nothing is fitted, the samples are the parameters.

use super::blocks::read_all;
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Matrix, Neighbours, Transform};

/// Difference of similarity that divides a vote by e (Wu et al. 2018).
const BANDWIDTH: f32 = 0.07;
/// Most numbers that a head may keep: 40,000 samples of 1280.
const MAX_VALUES: usize = 51_200_000;

/// Keeps all samples, transformed, as f16; `neighbours` of them vote.
///
/// # Errors
/// [`TrainError::Invalid`] if there are too many samples to keep, [`TrainError::Cancelled`].
pub fn fit(
    samples: &Samples<'_>,
    transform: &Transform,
    neighbours: usize,
    cancel: &Cancel,
) -> Result<Neighbours, TrainError> {
    let (count, width) = (samples.len(), samples.rows.width());
    if count * width > MAX_VALUES {
        return Err(TrainError::Invalid(format!(
            "k-nearest-neighbours keeps every sample and {count} are too many; choose softmax or lda"
        )));
    }
    let rows = Matrix::new(count, width, read_all(samples.rows, transform, cancel)?)?;
    let classes = samples.classes.len();
    Ok(Neighbours::new(&rows, samples.labels.clone(), classes, neighbours, BANDWIDTH)?)
}
