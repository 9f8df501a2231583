//! A perceptron with one hidden layer of rectified linear units.

use super::{HeadError, Linear};

/// `logits = output(max(hidden(x), 0))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Perceptron {
    hidden: Linear,
    output: Linear,
}

impl Perceptron {
    /// `hidden` maps the embedding to the hidden units, `output` those to the classes.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] unless the second layer takes what the first one gives.
    pub fn new(hidden: Linear, output: Linear) -> Result<Self, HeadError> {
        if hidden.weights().rows() != output.weights().columns() {
            return Err(HeadError::Inconsistent(format!(
                "{} hidden units but an output layer for {}",
                hidden.weights().rows(),
                output.weights().columns()
            )));
        }
        Ok(Self { hidden, output })
    }

    /// First layer: hidden units x width.
    pub fn hidden(&self) -> &Linear {
        &self.hidden
    }

    /// Second layer: classes x hidden units.
    pub fn output(&self) -> &Linear {
        &self.output
    }

    /// Scores of one transformed embedding.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        let mut hidden = self.hidden.logits(x);
        hidden.iter_mut().for_each(|v| *v = v.max(0.0));
        self.output.logits(&hidden)
    }

    /// Gradient of `sum(cotangent * logits)` with respect to the transformed embedding `x`.
    pub fn vjp(&self, x: &[f32], cotangent: &[f32]) -> Vec<f32> {
        let mut gradient = self.output.vjp(cotangent);
        for (g, before) in gradient.iter_mut().zip(self.hidden.logits(x)) {
            if before <= 0.0 {
                *g = 0.0;
            }
        }
        self.hidden.vjp(&gradient)
    }
}
