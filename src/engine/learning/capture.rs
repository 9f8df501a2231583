//! Keeping pictures that a head was not sure of, until a person labels them. Opt-in by dataset, off
//! the request path, and within a budget.

use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use super::{Learning, LearningError};
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::Answer;
use crate::store::{CaptureBudget, NewEmbedding, NewSample, Store};

/// Pictures that may wait to be kept; further ones are not.
const WAITING: usize = 8;

/// Which predictions a dataset keeps for review.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureSettings {
    /// By this head; `None` for any.
    pub head: Option<Name>,
    /// Those whose best class has at most this probability.
    pub maximum_probability: f32,
    /// Those that came back as unknown too.
    pub unknown: bool,
    /// Most within one hour.
    pub hourly_budget: u32,
    /// Most that wait at one time.
    pub total_budget: u32,
}

impl Default for CaptureSettings {
    fn default() -> Self {
        Self {
            head: None,
            maximum_probability: 0.6,
            unknown: true,
            hourly_budget: 20,
            total_budget: 500,
        }
    }
}

/// What was thought of a picture when it was captured; stored with it as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// `name@version`.
    pub head: String,
    /// The most probable class.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// The novelty score, where there was one.
    pub novelty: Option<f32>,
}

struct Item {
    dataset: Name,
    sample: NewSample,
    budget: CaptureBudget,
}

/// The thread that keeps pictures.
pub(super) struct Capture {
    sender: Option<Sender<Item>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(super) fn start(store: Store) -> Result<Self, LearningError> {
        let (sender, receiver) = bounded::<Item>(WAITING);
        let thread = std::thread::Builder::new()
            .name("graftd-capture".to_owned())
            .spawn(move || {
                for Item { dataset, sample, budget } in receiver {
                    if let Err(error) = store.capture_sample(&dataset, sample, budget) {
                        tracing::warn!(%dataset, %error, "a picture was not kept for review");
                    }
                }
            })
            .map_err(|error| LearningError::Thread(error.to_string()))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Learning {
    /// Keeps the picture of a head's answer in every dataset whose settings ask for it. Never waits:
    /// what does not fit is not kept.
    pub fn capture(&self, answer: &Answer, encoded: &Bytes) {
        let Some(head) = &answer.by.head else { return };
        let Some(best) = answer.top(1).into_iter().next() else { return };
        for dataset in self.store().datasets() {
            let Some(settings) = &dataset.settings.capture else { continue };
            let Ok(settings) = serde_json::from_str::<CaptureSettings>(settings) else { continue };
            let asked = settings.head.as_ref().is_none_or(|name| *name == head.name);
            let unsure = best.probability <= settings.maximum_probability;
            if !asked || !(unsure || (settings.unknown && answer.unknown)) {
                continue;
            }
            let captured = Captured {
                head: format!("{}@{}", head.name, head.version),
                label: best.label.clone(),
                probability: best.probability,
                novelty: answer.novelty,
            };
            let embedding = NewEmbedding {
                backbone: answer.by.backbone.embedding_key(),
                values: answer.forward.embedding().to_vec(),
            };
            let sample = NewSample {
                // The same picture is kept once.
                id: format!("captured-{}", Digest::of(encoded)),
                prediction: serde_json::to_string(&captured).ok(),
                image: Some(encoded.to_vec()),
                embeddings: vec![embedding],
                ..NewSample::default()
            };
            let budget = CaptureBudget {
                hourly: settings.hourly_budget.into(),
                waiting: settings.total_budget.into(),
            };
            if let Some(sender) = &self.capture.sender {
                let _ = sender.try_send(Item { dataset: dataset.name, sample, budget });
            }
        }
    }
}
