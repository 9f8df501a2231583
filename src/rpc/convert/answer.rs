//! What the engine answered.

use std::time::{Duration, Instant};

use super::head;
use crate::engine::{self, Answer, Embedded};
use crate::proto::graft::{EmbedResponse, Novelty, PredictResponse, Prediction, Timings};

/// An answer with its `top_k` best classes. `arrived` is when the request came in.
pub fn predict_response(answer: &Answer, top_k: usize, arrived: Instant) -> PredictResponse {
    PredictResponse {
        backbone: answer.by.backbone.name.to_string(),
        head: answer.by.head.as_deref().map(head::answering),
        predictions: answer.top(top_k).into_iter().map(Prediction::from).collect(),
        novelty: novelty(answer),
        explanation: None,
        timings: Some(timings(&answer.timings, arrived)),
    }
}

/// An embedding.
pub fn embed_response(embedded: Embedded, arrived: Instant) -> EmbedResponse {
    EmbedResponse {
        backbone: embedded.by.backbone.name.to_string(),
        head: embedded.by.head.as_deref().map(head::answering),
        timings: Some(timings(&embedded.timings, arrived)),
        embedding: embedded.embedding,
    }
}

/// How strange the picture is, where the head can tell.
pub fn novelty(answer: &Answer) -> Option<Novelty> {
    let threshold = answer.by.head.as_ref()?.head.novelty()?.threshold;
    Some(Novelty { score: answer.novelty?, threshold, unknown: answer.unknown })
}

/// The stages' times, and the whole from `arrived` until now.
pub fn timings(timings: &engine::Timings, arrived: Instant) -> Timings {
    Timings {
        decode_ms: milliseconds(timings.decode),
        preprocess_ms: milliseconds(timings.preprocess),
        queue_ms: milliseconds(timings.queue),
        inference_ms: milliseconds(timings.inference),
        head_ms: milliseconds(timings.head),
        explain_ms: 0.0,
        total_ms: milliseconds(arrived.elapsed()),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl From<engine::Prediction> for Prediction {
    fn from(prediction: engine::Prediction) -> Self {
        let engine::Prediction { index, id, label, probability, logit } = prediction;
        Self { index: index as u32, id, label, probability, logit }
    }
}
