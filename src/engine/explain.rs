//! An explanation beside its prediction, on one worker, with one forward run wherever that is
//! possible.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Answer, Answerer, Engine, EngineError, Forward, Priority, Subject, Target, Ticket, Timings,
    judge, prepare,
};
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::lru::Lru;
use crate::explain::quality::{self, Pointing, Quality, Truth};
use crate::explain::{Demand, Explainer, Explanation, Judge, Request, explain};
use crate::vision::{BoundingBox, Picture, Placement};

/// Bytes of weights that prepared explainers may hold beside the networks themselves.
const EXPLAINER_BYTES: usize = 128 << 20;

/// What is asked of an explanation.
#[derive(Clone, Debug, Default)]
pub struct ExplainOptions {
    /// Method, class, evidence and so on.
    pub request: Request,
    /// Spatial layers by ONNX tensor name; the last one where empty.
    pub layers: Vec<String>,
    /// Whether the explanation's faith to the network is measured: about a hundred more runs.
    pub quality: bool,
    /// Where the object really is, on the photograph; where not empty, the pointing game is played and
    /// the energy inside measured.
    pub boxes: Vec<BoundingBox>,
}

impl ExplainOptions {
    /// Whether it takes next to nothing beside the prediction.
    fn is_cheap(&self, by: &Answerer) -> bool {
        let Request { method, flip_smoothing, eigen_smoothing, .. } = self.request;
        let demand = Demand::of(method);
        let network = &by.backbone.network;
        !flip_smoothing
            && !eigen_smoothing
            && !self.quality
            && Explainer::is_cheap(network, &self.layers, demand, by.head.is_some())
    }
}

/// For whom an explanation is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Predictions go first.
    Predictions,
    /// It belongs to a prediction: where it is cheap, it comes as quickly as that one.
    OwnPrediction,
    /// Nobody else uses the workers.
    Nobody,
}

/// A prediction and where the network looked for it.
#[derive(Debug)]
pub struct Explained {
    /// The prediction.
    pub answer: Answer,
    /// The explanation.
    pub explanation: Explanation,
    /// Label of the class explained, and of the class that it is set against.
    pub labels: (String, Option<String>),
    /// The photograph; `None` for an input that came as a tensor.
    pub picture: Option<Arc<Picture>>,
    /// Where the input lies on the photograph; the input itself where it came as a tensor.
    pub placement: Placement,
    /// Measures, where asked for and anything in the map is hot.
    pub quality: Option<Quality>,
    /// How it lies beside the true boxes, where there are some.
    pub pointing: Option<Pointing>,
    /// Time of everything after the forward run of the prediction.
    pub elapsed: Duration,
}

/// Explainers that were prepared before.
#[derive(Debug)]
pub(super) struct Explainers(Lru<Key, Explainer>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    network: Digest,
    /// Embedding and logits, which a manifest may name.
    ends: [String; 2],
    size: usize,
    layers: Vec<String>,
    demand: Demand,
    by_head: bool,
}

impl Default for Explainers {
    fn default() -> Self {
        Self(Lru::new(EXPLAINER_BYTES))
    }
}

impl Explainers {
    fn get(&self, by: &Answerer, options: &ExplainOptions) -> Result<Arc<Explainer>, EngineError> {
        let network = &by.backbone.network;
        let key = Key {
            network: network.digest(),
            ends: [
                network.embedding().tensor.clone(),
                network.classifier().map(|found| found.logits).unwrap_or_default(),
            ],
            size: network.input().size,
            layers: options.layers.clone(),
            demand: Demand::of(options.request.method),
            by_head: by.head.is_some(),
        };
        let made = self.0.get_or_make(&key, || {
            let explainer = Explainer::new(network, &key.layers, key.demand, key.by_head)?;
            // The graph's weights are shared with nobody, so each explainer counts at least a bit.
            let bytes = explainer.weight_bytes() + (1 << 20);
            Ok::<_, EngineError>((explainer, bytes))
        })?;
        Ok(made)
    }
}

impl Engine {
    /// Classifies one image and explains the answer. Explanations are background work unless a
    /// prediction brings along a cheap one: they never hold the last idle worker, and where there is but
    /// one, they give way between two forward runs.
    ///
    /// # Errors
    /// As [`Engine::predict`], and those of [`explain`].
    pub fn explain(
        self: &Arc<Self>,
        beside: Beside,
        target: &Target,
        subject: Subject,
        options: ExplainOptions,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Explained, EngineError>>, EngineError> {
        options.request.check()?;
        let by = self.registry().snapshot().resolve(target)?;
        let priority = match beside {
            Beside::Predictions => Priority::Background,
            Beside::OwnPrediction if !options.is_cheap(&by) => Priority::Background,
            Beside::OwnPrediction | Beside::Nobody => Priority::Foreground,
        };
        let engine = Arc::clone(self);
        self.run(priority, cancel, move |cancel, timings| {
            explain_one(&engine, by, subject, &options, cancel, timings)
        })
    }
}

fn explain_one(
    engine: &Engine,
    by: Answerer,
    subject: Subject,
    options: &ExplainOptions,
    cancel: &Cancel,
    mut timings: Timings,
) -> Result<Explained, EngineError> {
    let prepared = prepare(&by, subject, &engine.limits(), cancel, &mut timings)?;
    cancel.checkpoint()?;
    let explainer = engine.explainers().get(&by, options)?;
    cancel.checkpoint()?;
    let network = &by.backbone.network;
    let began = Instant::now();
    let forward = explainer.forward(network, &prepared.tensor)?;
    timings.inference = began.elapsed();
    let began = Instant::now();
    let mut answer = judge(by.clone(), Forward::of_classifier(forward.classifier_outputs()))?;
    timings.head = began.elapsed();
    answer.timings = timings;

    let began = Instant::now();
    let labels = by.labels();
    let names: Vec<&str> = labels.iter().map(String::as_str).collect();
    let head = by.head.as_deref().map(|live| &live.head);
    let judge = Judge { head, labels: &names };
    let (input, request) = (&prepared.tensor[..], &options.request);
    let explanation = explain(&explainer, network, input, Some(forward), &judge, request, cancel)?;
    let size = network.input().size;
    let placement = prepared.placement.unwrap_or_else(|| Placement::identity(size as u32));
    let truth = Truth { boxes: &options.boxes, placement: &placement };
    let pointing = (!options.boxes.is_empty()).then(|| truth.pointing(&explanation)).transpose()?;
    let quality = if options.quality {
        quality::measure(&explainer, network, input, &judge, &explanation, cancel)?
    } else {
        None
    };
    let label = |index: usize| labels.get(index).cloned().unwrap_or_default();
    let labels = (label(explanation.score.class), explanation.score.against.map(label));
    let elapsed = began.elapsed();
    let picture = prepared.picture;
    Ok(Explained { answer, explanation, labels, picture, placement, quality, pointing, elapsed })
}
