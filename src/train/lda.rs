//! Linear discriminant analysis with shrinkage.

use super::covariance::{Scatter, add_centred, by_class, make_definite, moments};
use super::linear_algebra::{cholesky, solve_cholesky};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Linear, Matrix, Transform};

/// How the covariance is pulled towards a multiple of the identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shrinkage {
    /// By Ledoit and Wolf's intensity, each class by itself after standardising its features: what
    /// scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")` does.
    LedoitWolfByClass,
    /// By the oracle-approximating intensity of the covariance within classes. It can be had from
    /// running sums, so streaming LDA uses it.
    OracleApproximating,
    /// By this much, 0 to 1.
    Fixed(f64),
}

/// Fits the discriminant. Weights of samples count towards the priors of their classes only.
///
/// # Errors
/// [`TrainError::Diverged`] if the covariance cannot be factored, [`TrainError::Cancelled`].
pub fn fit(
    samples: &Samples<'_>,
    transform: &Transform,
    shrinkage: Shrinkage,
    cancel: &Cancel,
) -> Result<Linear, TrainError> {
    let width = samples.rows.width();
    let members = by_class(&samples.labels, samples.classes.len());
    let mut weight = vec![0.0_f64; members.len()];
    for (index, &label) in samples.labels.iter().enumerate() {
        weight[label as usize] += f64::from(samples.weight(index));
    }
    let total: f64 = weight.iter().sum();
    let priors: Vec<f64> = weight.iter().map(|w| w / total).collect();
    let mut means = Vec::with_capacity(members.len());
    let mut scatter = Scatter::new(width);
    let covariance = match shrinkage {
        Shrinkage::LedoitWolfByClass => {
            let mut pooled = vec![0.0_f64; width * width];
            for (indices, prior) in members.iter().zip(&priors) {
                let (mean, variance) = moments(samples.rows, transform, indices, cancel)?;
                // Features that never vary are left alone, as scikit-learn's scaler does.
                let deviation: Vec<f64> =
                    variance.iter().map(|v| if *v > 1e-24 { v.sqrt() } else { 1.0 }).collect();
                scatter.clear();
                add_centred(
                    &mut scatter,
                    samples.rows,
                    transform,
                    indices,
                    &mean,
                    &deviation,
                    cancel,
                )?;
                let shrunk = scatter.shrunk(scatter.ledoit_wolf());
                for i in 0..width {
                    let scale = prior * deviation[i];
                    for j in 0..=i {
                        pooled[i * width + j] += scale * deviation[j] * shrunk[i * width + j];
                    }
                }
                means.push(mean);
            }
            pooled
        }
        Shrinkage::OracleApproximating | Shrinkage::Fixed(_) => {
            for indices in &members {
                let (mean, _) = moments(samples.rows, transform, indices, cancel)?;
                add_centred(&mut scatter, samples.rows, transform, indices, &mean, &[], cancel)?;
                means.push(mean);
            }
            scatter.shrunk(intensity(&scatter, shrinkage))
        }
    };
    discriminant(&means, &priors, covariance, cancel)
}

/// The shrinkage intensity of a pooled scatter.
pub(super) fn intensity(scatter: &Scatter, shrinkage: Shrinkage) -> f64 {
    match shrinkage {
        Shrinkage::Fixed(value) => value.clamp(0.0, 1.0),
        Shrinkage::OracleApproximating => scatter.oracle_approximating(),
        Shrinkage::LedoitWolfByClass => scatter.ledoit_wolf(),
    }
}

/// `w_c = S^-1 m_c`, `b_c = -m_c' S^-1 m_c / 2 + ln(prior_c)`, from the lower triangle of `S`.
pub(super) fn discriminant(
    means: &[Vec<f64>],
    priors: &[f64],
    mut covariance: Vec<f64>,
    cancel: &Cancel,
) -> Result<Linear, TrainError> {
    let width = means.first().map_or(0, Vec::len);
    make_definite(&mut covariance, width);
    cholesky(&mut covariance, width, cancel)?;
    let mut weights = Vec::with_capacity(means.len() * width);
    let mut bias = Vec::with_capacity(means.len());
    for (mean, prior) in means.iter().zip(priors) {
        cancel.check()?;
        let mut w = mean.clone();
        solve_cholesky(&covariance, width, &mut w);
        let half: f64 = w.iter().zip(mean).map(|(w, m)| w * m).sum::<f64>() / 2.0;
        bias.push((prior.max(f64::MIN_POSITIVE).ln() - half) as f32);
        weights.extend(w.iter().map(|&w| w as f32));
    }
    Ok(Linear::new(Matrix::new(means.len(), width, weights)?, bias)?)
}
