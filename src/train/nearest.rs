//! Cosine k-nearest-neighbours: nothing is fitted, the samples are the parameters.

use half::f16;
use rayon::prelude::*;

use super::blocks::{BLOCK_ROWS, read_block};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Neighbours, Transform, dot};

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
    // Row by row: all of them as f32 would take twice the memory of the head.
    let mut rows = vec![f16::ZERO; count * width];
    let blocks = rows.par_chunks_mut((BLOCK_ROWS * width).max(1)).enumerate();
    blocks.try_for_each(|(index, block)| {
        cancel.check()?;
        let mut row = vec![0.0_f32; width];
        for (offset, halves) in block.chunks_exact_mut(width).enumerate() {
            read_block(samples.rows, transform, index * BLOCK_ROWS + offset, &mut row);
            let length = dot(&row, &row).sqrt().max(1e-12);
            halves.iter_mut().zip(&row).for_each(|(half, v)| *half = f16::from_f32(v / length));
        }
        Ok::<_, TrainError>(())
    })?;
    let (labels, classes) = (samples.labels.clone(), samples.classes.len());
    Ok(Neighbours::from_unit_rows(rows, width, labels, classes, neighbours, BANDWIDTH)?)
}
