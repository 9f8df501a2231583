//! A head as data: a classifier on a backbone's embedding, applied, differentiated, saved, loaded.
//!
//! An embedding passes through the head's [`Transform`], then its [`Classifier`], and is divided by
//! the temperature: those are the logits, and softmax of them (for multi-label heads the sigmoid) is
//! the probabilities. A [`Novelty`] model beside it tells embeddings that resemble no known class.
//! How heads are fitted is the business of `train`; nothing here learns.

mod classifier;
mod error;
mod format;
mod head;
mod kernel;
mod labels;
mod linear;
mod matrix;
mod neighbours;
mod novelty;
mod onnx;
mod perceptron;
mod provenance;
mod transform;

pub use classifier::{Classifier, Kind};
pub use error::HeadError;
pub use head::{Head, LinearView, Prediction, log_sum_exp, sigmoid, softmax};
pub use kernel::Kernel;
pub use labels::{MAX_LABEL_BYTES, check_label};
pub use linear::Linear;
pub use matrix::{Matrix, dot};
pub use neighbours::Neighbours;
pub use novelty::{Mahalanobis, Novelty, NoveltyScore};
pub use onnx::ExportError;
pub use perceptron::Perceptron;
pub use provenance::{Provenance, Scores};
pub use transform::{Step, Transform};
