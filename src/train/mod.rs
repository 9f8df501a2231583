//! Fitting heads: pure algorithms from embeddings and labels to a [`crate::heads::Head`].
//!
//! [`fit`] is the way in: it chooses a recipe by cross-validation, calibrates, fits, and sets the
//! threshold for unknowns. Everything runs on rayon's current thread pool (a caller that wants low
//! priority installs its own), gives the same bytes on any number of threads, and looks at its
//! [`crate::base::cancel::Cancel`] at least every 100 ms.

mod blocks;
mod calibration;
mod covariance;
mod cross_validation;
pub mod doctor;
mod error;
mod fit;
mod folds;
pub mod kernel;
mod lbfgs;
pub mod lda;
mod learning_curve;
mod linear_algebra;
pub mod logistic;
mod multi_label;
pub mod nearest;
pub mod novelty;
pub mod perceptron;
mod progress;
pub mod prototypes;
mod recipe;
#[cfg(test)]
mod reference;
pub mod report;
mod rows;
mod samples;
mod selection;
mod streaming;

pub use calibration::{fit_temperature, log_loss};
pub use cross_validation::{CrossValidation, cross_validate};
pub use error::TrainError;
pub use fit::{NoveltyMethod, Options, Trained, Work, fit};
pub use folds::{split, stratified};
pub use lbfgs::Stop;
pub use learning_curve::{LearningPoint, learning_curve, learning_curve_of_sets};
pub use multi_label::{LabelSets, cross_validate_sets, evaluate_sets, fit_multi_label};
pub use progress::{Listener, Phase, Progress, share_of_iterations};
pub use recipe::{Features, Loss, Recipe};
pub use report::{CONFUSION_CLASSES, ClassScores, Comparison, Report, compare, evaluate};
pub use rows::{DenseRows, HalfRows, Rows, Subset};
pub use samples::{MAX_LEARNT_CLASSES, Samples, balanced_weights, check_class_count};
pub use selection::Trial;
pub use streaming::StreamingLda;
