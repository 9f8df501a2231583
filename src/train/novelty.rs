//! Fitting the novelty model, and choosing its threshold on samples of the known classes alone.

use half::f16;

use super::blocks::read_block;
use super::covariance::{Scatter, add_centred, by_class, make_definite, moments};
use super::linear_algebra::{cholesky, invert_lower};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Mahalanobis, Matrix, Step, Transform};

/// Class means and the Ledoit-Wolf covariance within classes, on embeddings of length 1.
///
/// # Errors
/// [`TrainError::Diverged`] if the covariance cannot be factored, [`TrainError::Cancelled`].
pub fn fit(samples: &Samples<'_>, cancel: &Cancel) -> Result<Mahalanobis, TrainError> {
    let width = samples.rows.width();
    let transform = Transform::new(vec![Step::UnitLength])?;
    let mut scatter = Scatter::new(width);
    let mut means: Vec<Vec<f64>> = Vec::new();
    for indices in by_class(&samples.labels, samples.classes.len()) {
        if indices.is_empty() {
            continue;
        }
        let (mean, _) = moments(samples.rows, &transform, &indices, cancel)?;
        add_centred(&mut scatter, samples.rows, &transform, &indices, &mean, &[], cancel)?;
        means.push(mean);
    }
    let mut factor = scatter.shrunk(scatter.ledoit_wolf());
    drop(scatter);
    make_definite(&mut factor, width);
    cholesky(&mut factor, width, cancel)?;
    let inverse = invert_lower(&factor, width, cancel)?;
    drop(factor);
    // f16 reaches from 6e-8 to 65504; a covariance of extreme scale must not leave that range.
    let largest = inverse.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    if !(largest.is_finite() && largest < 60_000.0) {
        return Err(TrainError::Diverged("the embeddings hardly vary within their classes"));
    }
    let mut whitening = Vec::with_capacity(width * (width + 1) / 2);
    for (row, values) in inverse.chunks_exact(width).enumerate() {
        whitening.extend(values[..=row].iter().map(|&v| f16::from_f64(v)));
    }
    // The means are whitened by the rounded factor, so that rounding cancels in the distances.
    let zeros = Matrix::zeros(1, width);
    let whitener = Mahalanobis::new(transform.clone(), zeros, whitening)?;
    let mut whitened = Vec::with_capacity(means.len() * width);
    for mean in &means {
        cancel.check()?;
        let mean: Vec<f32> = mean.iter().map(|&v| v as f32).collect();
        whitened.extend(whitener.whiten(&mean));
    }
    let means = Matrix::new(means.len(), width, whitened)?;
    Ok(Mahalanobis::new(transform, means, whitener.whitening().to_vec())?)
}

/// Scores of samples, one each.
///
/// # Errors
/// [`TrainError::Cancelled`].
pub fn scores(
    model: &Mahalanobis,
    samples: &Samples<'_>,
    cancel: &Cancel,
) -> Result<Vec<f32>, TrainError> {
    let mut row = vec![0.0_f32; samples.rows.width()];
    (0..samples.len())
        .map(|index| {
            cancel.check()?;
            read_block(samples.rows, &Transform::default(), index, &mut row);
            Ok(model.score(&row))
        })
        .collect()
}

/// The least threshold above which at most `rate` (0 to 1) of `held_out` scores lie.
pub fn threshold(mut held_out: Vec<f32>, rate: f32) -> f32 {
    if held_out.is_empty() {
        return f32::MAX;
    }
    held_out.sort_unstable_by(f32::total_cmp);
    let allowed = (f64::from(rate.clamp(0.0, 1.0)) * held_out.len() as f64).floor() as usize;
    held_out[held_out.len().saturating_sub(allowed + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    #[test]
    fn the_threshold_lets_through_the_chosen_share_of_the_known() {
        let scores: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let limit = threshold(scores.clone(), 0.05);
        assert_eq!(scores.iter().filter(|s| **s > limit).count(), 5);
        assert_eq!(threshold(Vec::new(), 0.05), f32::MAX);
    }

    #[test]
    fn what_resembles_no_class_scores_above_what_does() {
        let noise = |i: usize, j: usize| ((i * 131 + j * 71) % 97) as f32 / 97.0 * 0.2;
        let values: Vec<f32> = (0..60)
            .flat_map(|i| (0..8).map(move |j| noise(i, j) + f32::from(j == i % 2)))
            .collect();
        let rows = DenseRows::new(&values, 8).unwrap();
        let labels = (0..60).map(|i| (i % 2) as u32).collect();
        let samples = Samples::new(&rows, labels, vec!["a".into(), "b".into()]);
        let model = fit(&samples, &Cancel::default()).unwrap();
        let known = scores(&model, &samples, &Cancel::default()).unwrap();
        let strange = model.score(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(known.iter().all(|k| *k < strange));
    }
}
