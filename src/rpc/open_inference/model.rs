//! Backbones and heads as models of the protocol.

use std::sync::Arc;

use super::signature::{Output, Signature};
use crate::engine::{Answer, Answerer, Snapshot, Target};
use crate::rpc::convert::field::FieldError;
use crate::rpc::error::RpcError;
use crate::rpc::resolve::resolve;
use crate::vision::TensorLayout;

/// The only version of a backbone.
const BACKBONE_VERSION: &str = "1";
/// What a head answers, in this order.
const HEAD_OUTPUTS: [&str; 2] = ["logits", "probabilities"];

/// A model and what it takes and gives.
#[derive(Clone, Debug)]
pub struct Model {
    /// Who answers.
    pub by: Answerer,
    /// The version that answers.
    pub version: String,
}

/// The model called `name`: a head of that name comes before a backbone.
///
/// # Errors
/// An unknown name or version.
pub async fn find(snapshot: &Arc<Snapshot>, name: &str, version: &str) -> Result<Model, RpcError> {
    let is_head = snapshot.heads.contains_key(name);
    let unknown_version = || FieldError::new("model_version", format!("there is no {version:?}"));
    let target = if is_head {
        let version = match version {
            "" => None,
            digits => Some(digits.parse().map_err(|_| unknown_version())?),
        };
        Target::Head { name: name.to_owned(), version }
    } else if matches!(version, "" | BACKBONE_VERSION) {
        Target::Backbone(name.to_owned())
    } else {
        return Err(unknown_version().into());
    };
    let by = resolve(Arc::clone(snapshot), &target).await?;
    let version = by.head.as_ref().map_or(BACKBONE_VERSION.to_owned(), |h| h.version.to_string());
    Ok(Model { by, version })
}

impl Model {
    /// What the model takes and gives.
    pub fn signature(&self, snapshot: &Snapshot) -> Signature {
        let backbone = &self.by.backbone;
        let input = backbone.network.input();
        let row = match input.layout {
            TensorLayout::Nchw => [input.channels, input.size, input.size],
            TensorLayout::Nhwc => [input.size, input.size, input.channels],
        };
        let mut signature = Signature {
            name: backbone.name.to_string(),
            versions: vec![BACKBONE_VERSION.to_owned()],
            platform: "graftd_onnx",
            input: input.name.clone(),
            row,
            outputs: vec![self.file_output()],
            labels: Vec::new(),
        };
        let Some(head) = &self.by.head else {
            let labels = &backbone.labels;
            signature.labels = (0..labels.len()).map(|index| labels.get(index).text).collect();
            return signature;
        };
        let versions = snapshot.heads.get(&head.name).map(|found| found.versions.keys());
        let width = head.head.classes().len();
        signature.name = head.name.to_string();
        signature.versions = versions.into_iter().flatten().map(u32::to_string).collect();
        signature.platform = "graftd_head";
        signature.outputs =
            HEAD_OUTPUTS.map(|name| Output { name: name.to_owned(), width }).to_vec();
        signature.labels = head.head.classes().to_vec();
        signature
    }

    /// The ONNX file's own output.
    fn file_output(&self) -> Output {
        let network = &self.by.backbone.network;
        let classes = network.classifier().map(|classifier| classifier.classes);
        Output {
            name: network.output().0.to_owned(),
            width: classes.unwrap_or(network.embedding().width),
        }
    }

    /// Whether the model is a backbone that only extracts features.
    pub fn is_extractor(&self) -> bool {
        self.by.head.is_none() && self.by.backbone.network.classifier().is_none()
    }
}

/// The values of an answer, in the order of [`Signature::outputs`].
pub fn values(answer: &Answer) -> Vec<Vec<f32>> {
    match answer.by.head {
        Some(_) => vec![answer.logits.clone(), answer.probabilities.clone()],
        None => vec![answer.file_output()],
    }
}
