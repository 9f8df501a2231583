//! Heads.

use crate::engine::LiveHead;
use crate::heads::Kind;
use crate::proto::graft::{AnsweringHead, HeadKind};

/// What an answer says of the head that gave it.
pub fn answering(live: &LiveHead) -> AnsweringHead {
    let provenance = live.head.provenance();
    let accuracy = provenance.scores.get("accuracy").and_then(serde_json::Value::as_f64);
    AnsweringHead {
        name: live.name.to_string(),
        version: live.version,
        kind: HeadKind::from(live.head.kind()).into(),
        class_count: live.head.classes().len() as u32,
        trained_time: None,
        dataset: provenance.dataset.clone(),
        sample_count: provenance.samples,
        held_out_accuracy: accuracy.map(|accuracy| accuracy as f32),
    }
}

impl From<Kind> for HeadKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Softmax => Self::Softmax,
            Kind::Lda => Self::Lda,
            Kind::Slda => Self::Slda,
            Kind::Prototype => Self::Prototype,
            Kind::Knn => Self::Knn,
            Kind::Mlp => Self::Mlp,
            Kind::MultiLabel => Self::MultiLabel,
        }
    }
}
