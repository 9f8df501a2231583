//! Telling an object that resembles no known class from one that does.

use half::f16;

use super::{HeadError, Matrix, Transform, dot, log_sum_exp};

/// Distance to the nearest class mean under one covariance shared by all classes (Lee et al. 2018,
/// "A simple unified framework for detecting out-of-distribution samples").
///
/// With covariance `L L'`, an embedding `x` has the score `min_c |A t(x) - m_c|^2`, where `A` is the
/// inverse of `L`, `m_c` are the class means times `A`, and `t` the model's own transform.
#[derive(Debug, Clone, PartialEq)]
pub struct Mahalanobis {
    transform: Transform,
    /// Class means after whitening, classes x width.
    means: Matrix,
    /// `A`, lower triangular, its rows one after another without the zeros.
    whitening: Vec<f16>,
}

impl Mahalanobis {
    /// `means` are the *whitened* class means, classes x width; `whitening` the lower triangle of
    /// `A` in packed rows, width x (width + 1) / 2 values.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] for sizes that do not match or values that are not finite.
    pub fn new(
        transform: Transform,
        means: Matrix,
        whitening: Vec<f16>,
    ) -> Result<Self, HeadError> {
        let width = means.columns();
        let finite =
            whitening.iter().all(|v| v.is_finite()) && means.values().iter().all(|v| v.is_finite());
        if whitening.len() != width * (width + 1) / 2 || !transform.fits(width) || !finite {
            return Err(HeadError::Inconsistent("the novelty model does not fit itself".into()));
        }
        Ok(Self { transform, means, whitening })
    }

    /// Transform of the raw embedding, apart from the classifier's.
    pub fn transform(&self) -> &Transform {
        &self.transform
    }

    /// Whitened class means, classes x width.
    pub fn means(&self) -> &Matrix {
        &self.means
    }

    /// Lower triangle of `A` in packed rows.
    pub fn whitening(&self) -> &[f16] {
        &self.whitening
    }

    /// `A x` of an embedding that is already transformed.
    pub fn whiten(&self, x: &[f32]) -> Vec<f32> {
        use half::slice::HalfFloatSliceExt;
        let mut row = vec![0.0_f32; x.len()];
        let mut start = 0;
        (1..=x.len())
            .map(|length| {
                self.whitening[start..start + length].convert_to_f32_slice(&mut row[..length]);
                start += length;
                dot(&row[..length], &x[..length])
            })
            .collect()
    }

    /// Squared distance to the nearest class, divided by the width: about 1 for a typical member of
    /// a Gaussian class. `embedding` is as wide as [`Mahalanobis::means`].
    pub fn score(&self, embedding: &[f32]) -> f32 {
        let mut x = embedding.to_vec();
        self.transform.apply(&mut x);
        let whitened = self.whiten(&x);
        let nearest = self
            .means
            .iter_rows()
            .map(|mean| mean.iter().zip(&whitened).map(|(m, z)| (z - m) * (z - m)).sum::<f32>())
            .fold(f32::INFINITY, f32::min);
        nearest / x.len() as f32
    }
}

/// What the novelty of an embedding is measured by; higher means stranger.
#[derive(Debug, Clone, PartialEq)]
pub enum NoveltyScore {
    /// Distance to the nearest class.
    Mahalanobis(Mahalanobis),
    /// `-log(sum(exp(logits)))` (Liu et al. 2020, "Energy-based out-of-distribution detection").
    Energy,
}

/// A novelty score with the threshold above which an embedding is called unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct Novelty {
    /// How novelty is measured.
    pub score: NoveltyScore,
    /// Scores above this are unknown.
    pub threshold: f32,
    /// Share of held-out samples of the known classes that lay above the threshold, 0 to 1.
    pub false_alarm_rate: f32,
}

impl Novelty {
    /// Novelty of an embedding whose logits are already known.
    pub fn score(&self, embedding: &[f32], logits: &[f32]) -> f32 {
        match &self.score {
            NoveltyScore::Mahalanobis(model) => model.score(embedding),
            NoveltyScore::Energy => -log_sum_exp(logits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_measured_in_standard_deviations() {
        // Covariance diag(4, 1): A = diag(1/2, 1); one class at (2, 0).
        let whitening = [0.5, 0.0, 1.0].map(f16::from_f32).to_vec();
        let means = Matrix::new(1, 2, vec![1.0, 0.0]).unwrap();
        let model = Mahalanobis::new(Transform::default(), means, whitening).unwrap();
        assert!((model.score(&[2.0, 0.0])).abs() < 1e-6);
        assert!((model.score(&[6.0, 0.0]) - 2.0).abs() < 1e-3);
        assert!((model.score(&[2.0, 2.0]) - 2.0).abs() < 1e-3);
    }
}
