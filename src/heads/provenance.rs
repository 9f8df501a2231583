//! Where a head came from: what it must be used with, and how to make it again.

use serde::{Deserialize, Serialize};

/// Kept with a head, so that it can be judged, reproduced, and refused on another backbone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provenance {
    /// Id of the backbone whose embedding the head takes.
    pub backbone: String,
    /// SHA-256 of the backbone's ONNX file, in hex; empty if unknown.
    pub backbone_sha256: String,
    /// SHA-256 over that file and the preprocessing before it, in hex: names the embeddings that the
    /// head takes; empty if unknown.
    pub embeddings: String,
    /// Name of the dataset, or of the folder.
    pub dataset: String,
    /// Identifies the samples trained on: SHA-256 over their ids and labels (on a device also
    /// their contents), in hex; of a version that follows a large dataset `samples=COUNT newest=KEY`.
    pub dataset_snapshot: String,
    /// Number of samples trained on.
    pub samples: u64,
    /// Seed of the training.
    pub seed: u64,
    /// Options of the training, as they were given.
    pub options: serde_json::Value,
    /// Scores on held-out samples: [`Scores`], or nothing.
    pub scores: serde_json::Value,
}

/// How good a head was found to be on samples that it had not seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// Share right, 0 to 1.
    pub accuracy: Option<f64>,
    /// Expected calibration error after the temperature, 0 to 1.
    pub ece: Option<f64>,
    /// Share right in each fold of a cross-validation, where that was the judge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folds: Vec<f64>,
}

impl Provenance {
    /// The scores, if they are known.
    pub fn scores(&self) -> Option<Scores> {
        serde_json::from_value(self.scores.clone()).ok().filter(|s: &Scores| s.accuracy.is_some())
    }
}
