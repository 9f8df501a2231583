//! Heads.

use crate::engine::LiveHead;
use crate::heads::Kind;
use crate::proto::graft::{AnsweringHead, HeadKind};

/// What an answer says of the head that gave it.
pub fn answering(live: &LiveHead) -> AnsweringHead {
    let provenance = live.head.provenance();
    // What a cross-validation found is not told as if held-out samples had.
    let scores = provenance.scores().filter(|scores| scores.folds.is_empty());
    let accuracy = scores.and_then(|scores| scores.accuracy);
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
