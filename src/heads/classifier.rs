//! The kinds of heads, and the parameters that they end as.

use serde::{Deserialize, Serialize};

use super::{HeadError, Kernel, Linear, Neighbours, Perceptron};

/// How a head was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Multinomial logistic regression.
    Softmax,
    /// Linear discriminant analysis with shrinkage.
    Lda,
    /// Streaming linear discriminant analysis.
    Slda,
    /// Class means as weights.
    Prototype,
    /// Cosine k-nearest-neighbours.
    Knn,
    /// Perceptron with one hidden layer.
    Mlp,
    /// Independent logistic regressions: any number of labels a sample.
    MultiLabel,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Softmax,
        Self::Lda,
        Self::Slda,
        Self::Prototype,
        Self::Knn,
        Self::Mlp,
        Self::MultiLabel,
    ];

    /// The name used in files, on the command line and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Lda => "lda",
            Self::Slda => "slda",
            Self::Prototype => "prototype",
            Self::Knn => "knn",
            Self::Mlp => "mlp",
            Self::MultiLabel => "multi-label",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The parameters of a head. Everything linear is one variant, however it was fitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Classifier {
    /// One row of weights and a bias a class.
    Linear(Linear),
    /// The training embeddings and their labels.
    Neighbours(Neighbours),
    /// Weights on a kernel's values at landmarks.
    Kernel(Kernel),
    /// Two linear layers with a rectifier between.
    Perceptron(Perceptron),
}

impl Classifier {
    /// Width of the transformed embedding.
    pub fn width(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.weights().columns(),
            Self::Neighbours(neighbours) => neighbours.width(),
            Self::Kernel(kernel) => kernel.width(),
            Self::Perceptron(perceptron) => perceptron.hidden().weights().columns(),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.bias().len(),
            Self::Neighbours(neighbours) => neighbours.classes(),
            Self::Kernel(kernel) => kernel.output().bias().len(),
            Self::Perceptron(perceptron) => perceptron.output().bias().len(),
        }
    }

    /// Scores of one transformed embedding, before the temperature.
    pub fn scores(&self, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Linear(linear) => linear.logits(x),
            Self::Neighbours(neighbours) => neighbours.logits(x),
            Self::Kernel(kernel) => kernel.logits(x),
            Self::Perceptron(perceptron) => perceptron.logits(x),
        }
    }

    /// Gradient of `sum(cotangent * scores)` with respect to the transformed embedding `x`.
    pub fn vjp(&self, x: &[f32], cotangent: &[f32]) -> Vec<f32> {
        match self {
            Self::Linear(linear) => linear.vjp(cotangent),
            Self::Neighbours(neighbours) => neighbours.vjp(x, cotangent),
            Self::Kernel(kernel) => kernel.vjp(x, cotangent),
            Self::Perceptron(perceptron) => perceptron.vjp(x, cotangent),
        }
    }

    /// Refuses parameters that are not finite numbers.
    pub(super) fn check_finite(&self) -> Result<(), HeadError> {
        let finite = |linear: &Linear| {
            linear.weights().values().iter().chain(linear.bias()).all(|v| v.is_finite())
        };
        let ok = match self {
            Self::Linear(linear) => finite(linear),
            Self::Neighbours(neighbours) => neighbours.rows().iter().all(|v| v.is_finite()),
            Self::Kernel(kernel) => {
                finite(kernel.output()) && kernel.landmarks().iter().all(|v| v.is_finite())
            }
            Self::Perceptron(perceptron) => {
                finite(perceptron.hidden()) && finite(perceptron.output())
            }
        };
        if ok {
            Ok(())
        } else {
            Err(HeadError::Inconsistent("a parameter is not a finite number".into()))
        }
    }
}
