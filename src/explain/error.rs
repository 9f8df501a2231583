//! What can be wrong with an explanation.

use crate::base::cancel::Cancelled;
use crate::grad::GradError;
use crate::graph::GraphError;
use crate::heads::HeadError;

/// Why an explanation cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The layer exists, but has no height and width to draw a map on.
    #[error(
        "layer {layer:?} has shape {shape:?}, which is not spatial; choose a layer with a height \
         and width above 1 (`graftd models inspect` lists them)"
    )]
    NotSpatial {
        /// The ONNX tensor.
        layer: String,
        /// Its shape, batch included.
        shape: Vec<usize>,
    },
    /// The score does not depend on the layer.
    #[error(
        "layer {layer:?} has no part in the score: {} is computed without it; choose a layer before \
         that",
        if *by_head { "the embedding, which the head judges," } else { "the classifier's answer" }
    )]
    Behind {
        /// The ONNX tensor.
        layer: String,
        /// Whether a head judges, and not the network's own classifier.
        by_head: bool,
    },
    /// The network has no spatial layer at all.
    #[error("the network has no spatial layer; input-gradient and smooth-grad need none")]
    NoSpatialLayer,
    /// Nothing scores: a feature extractor without a head.
    #[error(
        "the backbone has no classifier of its own; name a head that was trained on it, or a \
         backbone that has one"
    )]
    NoClassifier,
    /// A class specification that is not one.
    #[error(
        "class {0:?} is neither an index (386), nor a label (label:tabby), nor a difference of two \
         (281-207)"
    )]
    BadClass(String),
    /// An index past the classifier's end.
    #[error("class {index} is out of range: the classifier has {classes} classes, from 0")]
    ClassRange {
        /// The index asked for.
        index: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A label that no class has.
    #[error("no class has the label {0:?}")]
    UnknownLabel(String),
    /// A label that several classes have.
    #[error("the label {label:?} belongs to classes {indices:?}; give the index of one of them")]
    AmbiguousLabel {
        /// The label.
        label: String,
        /// All classes that have it.
        indices: Vec<usize>,
    },
    /// A number outside its range.
    #[error("{} must be {allowed}", spoken(field))]
    Range {
        /// The option, as the wire contract calls it.
        field: &'static str,
        /// What it may be, for example "above 0 up to 1".
        allowed: &'static str,
    },
    /// An option that has no meaning for the method.
    #[error("{problem}")]
    Unsuitable {
        /// The option, as the wire contract calls it.
        field: &'static str,
        /// Why.
        problem: &'static str,
    },
    /// The network answered NaN or infinity.
    #[error("the network's {0} is not a finite number for this picture; it cannot be explained")]
    NotFinite(&'static str),
    /// A derivative that cannot be taken.
    #[error(transparent)]
    Gradient(#[from] GradError),
    /// The network.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The caller left or the deadline passed.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// An option in words.
fn spoken(field: &str) -> String {
    format!("the {}", field.replace("smoothgrad_", "SmoothGrad ").replace('_', " "))
}
