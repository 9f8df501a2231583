//! What can be wrong with a network.

use crate::base::digest::Digest;

/// Why a network cannot be loaded, described or run.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The bytes are not an ONNX model, or one that contradicts itself.
    #[error("not a usable ONNX file: {0}")]
    Malformed(String),
    /// The network asks for an operator that is not known here.
    #[error(
        "operator {operator} at node {node:?} is not supported; export the network with standard \
         ONNX operators (opset 7 to 21, float32 or float16)"
    )]
    UnsupportedOperator {
        /// Domain (if not the standard one) and type, for example `com.microsoft.QLinearAdd`.
        operator: String,
        /// The ONNX node's name.
        node: String,
    },
    /// The file keeps its weights in other files.
    #[error(
        "tensor {0:?} keeps its data in another file; save the model as one file \
         (onnx.save(model, path, save_as_external_data=False))"
    )]
    ExternalData(String),
    /// A weight is not a number.
    #[error("weight {0:?} contains NaN or infinite values; the network was not saved correctly")]
    NotFinite(String),
    /// The network computes no numbers for an image.
    #[error(
        "tensor {0:?} is NaN or infinite for this image: the network is damaged, or the image is not \
         prepared as it was trained"
    )]
    OutputNotFinite(String),
    /// The file is not the one that was installed or loaded.
    #[error(
        "the ONNX file has the SHA-256 {actual}, not {expected}: it was changed; install it again"
    )]
    Changed {
        /// What it should have.
        expected: Digest,
        /// What it has.
        actual: Digest,
    },
    /// The image input could not be told.
    #[error("cannot tell the image input: {reason}; the inputs are {inputs}")]
    Input {
        /// What was expected.
        reason: String,
        /// All inputs that matter, with their shapes.
        inputs: String,
    },
    /// A tensor that a manifest or a request names is not in the network.
    #[error("the network has no tensor {0:?}; `graftd models inspect` lists them")]
    UnknownTensor(String),
    /// A tensor that is named as a waist is none.
    #[error(
        "the network cannot be cut at tensor {0:?}: not every path from the image to the logits \
         passes through it alone"
    )]
    NotAWaist(String),
    /// tract refuses the network or fails while running it.
    #[error("{stage}: {message}")]
    Engine {
        /// What was being done.
        stage: &'static str,
        /// tract's own words.
        message: String,
    },
    /// A tensor that is to be fed has another size.
    #[error("the input has {actual} values, the network takes {expected}")]
    InputLength {
        /// Values that the network takes.
        expected: usize,
        /// Values that were given.
        actual: usize,
    },
}

impl GraphError {
    /// For `map_err`: tract's chain of reasons on one line.
    pub(super) fn engine<E: std::fmt::Display>(stage: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Engine { stage, message: one_line(&format!("{error:#}")) }
    }
}

fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}
