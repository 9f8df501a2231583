//! Keeping pictures that a head was not sure of, until a person labels them. Opt-in by dataset, off
//! the request path, and within a budget.

use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use serde::{Deserialize, Serialize};

use super::intake::{thumbnail, without_loss};
use super::{Learning, LearningError};
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answer, Subject};
use crate::store::{CaptureBudget, Keep, NewEmbedding, NewSample, Store};
use crate::vision::{self, Limits};

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
    keep: Keep,
    subject: Subject,
    /// Everything but the picture.
    sample: NewSample,
    budget: CaptureBudget,
}

/// The thread that keeps pictures.
pub(super) struct Capture {
    sender: Option<Sender<Item>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(super) fn start(store: Store, limits: Limits) -> Result<Self, LearningError> {
        let (sender, receiver) = bounded::<Item>(WAITING);
        let thread = std::thread::Builder::new()
            .name("graftd-capture".to_owned())
            .spawn(move || {
                for item in receiver {
                    let dataset = item.dataset.clone();
                    if let Err(error) = keep(&store, &limits, item) {
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

fn keep(store: &Store, limits: &Limits, item: Item) -> Result<(), LearningError> {
    let Item { dataset, keep, subject, mut sample, budget } = item;
    // Before the pixels are touched: most of what an unsure head sees comes after the budget is spent.
    if !store.may_capture(&dataset, budget)? {
        return Ok(());
    }
    let encoded = match &subject {
        Subject::Encoded(bytes) => Some(bytes.to_vec()),
        Subject::Frame { .. } | Subject::Picture(_) | Subject::Tensor(_) => None,
    };
    let image = match encoded {
        Some(bytes) if keep != Keep::Thumbnails => {
            (sample.width, sample.height) = vision::size(&bytes, limits).unwrap_or_default();
            bytes
        }
        encoded => {
            let picture = subject.to_picture(limits)?;
            (sample.width, sample.height) = (picture.width, picture.height);
            if keep == Keep::Thumbnails {
                sample.thumbnail = Some(thumbnail(&picture)?);
            }
            match encoded {
                Some(bytes) => bytes,
                None => without_loss(&picture)?,
            }
        }
    };
    // The same picture is kept once.
    sample.id = format!("captured-{}", Digest::of(&image));
    sample.image = Some(image);
    store.capture_sample(&dataset, sample, budget)?;
    Ok(())
}

impl Learning {
    /// Keeps the picture of a head's answer in every dataset whose settings ask for it. Never waits:
    /// what does not fit is not kept. An input that came as a tensor is no picture and not kept.
    pub fn capture(&self, answer: &Answer, subject: &Subject) {
        let Some(head) = &answer.by.head else { return };
        if matches!(subject, Subject::Tensor(_)) {
            return;
        }
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
                prediction: serde_json::to_string(&captured).ok(),
                embeddings: vec![embedding],
                ..NewSample::default()
            };
            let budget = CaptureBudget {
                hourly: settings.hourly_budget.into(),
                waiting: settings.total_budget.into(),
            };
            let (keep, subject) = (dataset.settings.keep, subject.clone());
            if let Some(sender) = &self.capture.sender {
                let _ =
                    sender.try_send(Item { dataset: dataset.name, keep, subject, sample, budget });
            }
        }
    }
}
