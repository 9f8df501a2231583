//! What a model of the Open Inference Protocol takes and gives.

use crate::proto::inference::ModelMetadataResponse;
use crate::proto::inference::model_metadata_response::TensorMetadata;

/// The input by which every model takes encoded photographs.
pub const IMAGE_INPUT: &str = "image";

/// A model's inputs and outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The backbone's id or the head's name.
    pub name: String,
    /// Its versions.
    pub versions: Vec<String>,
    /// `graftd_onnx` or `graftd_head`.
    pub platform: &'static str,
    /// The ONNX input's name.
    pub input: String,
    /// The input's shape without its batch axis: [3, S, S] or [S, S, 3].
    pub row: [usize; 3],
    /// The outputs, in order.
    pub outputs: Vec<Output>,
    /// The classes' names, by index.
    pub labels: Vec<String>,
}

/// An output, FP32 of shape [rows, width].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// How many classes.
    pub width: usize,
}

impl From<Signature> for ModelMetadataResponse {
    fn from(model: Signature) -> Self {
        let tensor = |name: &str, datatype: &str, shape: Vec<i64>| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
        };
        let [a, b, c] = model.row.map(|length| length as i64);
        Self {
            inputs: vec![
                tensor(&model.input, "FP32", vec![-1, a, b, c]),
                tensor(IMAGE_INPUT, "BYTES", vec![-1]),
            ],
            outputs: model
                .outputs
                .iter()
                .map(|output| tensor(&output.name, "FP32", vec![-1, output.width as i64]))
                .collect(),
            name: model.name,
            versions: model.versions,
            platform: model.platform.to_owned(),
        }
    }
}
