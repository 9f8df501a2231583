//! A linear classifier: softmax regression, discriminant analysis, imprinted prototypes and
//! multi-label logistic regression all end as one.

use super::{HeadError, Matrix, dot};

/// `logit[c] = weights[c] . x + bias[c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    weights: Matrix,
    bias: Vec<f32>,
}

impl Linear {
    /// `weights` is classes x width.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] unless there is one bias a class.
    pub fn new(weights: Matrix, bias: Vec<f32>) -> Result<Self, HeadError> {
        if weights.rows() != bias.len() {
            return Err(HeadError::Inconsistent(format!(
                "{} rows of weights but {} biases",
                weights.rows(),
                bias.len()
            )));
        }
        Ok(Self { weights, bias })
    }

    /// Classes x width.
    pub fn weights(&self) -> &Matrix {
        &self.weights
    }

    /// One a class.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Scores of one transformed embedding.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        self.weights.iter_rows().zip(&self.bias).map(|(row, bias)| dot(row, x) + bias).collect()
    }

    /// Gradient of `sum(cotangent * logits)` with respect to the transformed embedding.
    pub fn vjp(&self, cotangent: &[f32]) -> Vec<f32> {
        self.weights.transpose_times(cotangent)
    }
}
