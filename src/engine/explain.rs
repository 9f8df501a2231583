//! An explanation beside its prediction, on one worker, with one forward run wherever that is
//! possible.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Answer, Answerer, Drawing, Drawn, Engine, EngineError, Forward, Priority, Snapshot, Subject,
    Target, Ticket, Timings, judge, prepare,
};
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::lru::Lru;
use crate::explain::quality::{self, Pointing, Quality, Truth};
use crate::explain::{Demand, Explainer, Explanation, Judge, Request, explain};
use crate::graph::Network;
use crate::vision::{BoundingBox, Placement};

/// Bytes that prepared explainers may hold beside the networks themselves, unless a single one holds
/// more: the latest is kept in any case.
const EXPLAINER_BYTES: usize = 128 << 20;
/// Bytes of an explainer that are not constants: nodes, names, shapes, scratch memory.
const EXPLAINER_OVERHEAD: usize = 1 << 20;

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
    /// What is drawn of it.
    pub drawing: Drawing,
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
            && self.drawing.is_empty()
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

/// A prediction and where the network looked for it. The photograph stays on the worker: what is wanted
/// of it was drawn there.
#[derive(Debug)]
pub struct Explained {
    /// The prediction.
    pub answer: Answer,
    /// The explanation.
    pub explanation: Explanation,
    /// Label of the class explained, and of the class that it is set against.
    pub labels: (String, Option<String>),
    /// The network's input.
    pub tensor: Arc<[f32]>,
    /// Where the input lies on the photograph; the input itself where it came as a tensor.
    pub placement: Placement,
    /// Measures, where asked for and anything in the map is hot.
    pub quality: Option<Quality>,
    /// How it lies beside the true boxes, where there are some.
    pub pointing: Option<Pointing>,
    /// What was drawn.
    pub drawn: Drawn,
    /// Time of everything after the forward run of the prediction.
    pub elapsed: Duration,
}

/// Explainers that were prepared before.
#[derive(Debug)]
pub(super) struct Explainers(Lru<Key, Explainer>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    network: NetworkKey,
    /// As [`Explainer::chosen_layers`] gives them.
    layers: Vec<String>,
    demand: Demand,
    by_head: bool,
}

/// Networks of which it is the same are explained by the same explainers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct NetworkKey {
    digest: Digest,
    /// Embedding, the map that it is the mean of, and logits: a manifest may name others.
    ends: [String; 3],
    size: usize,
}

impl NetworkKey {
    fn of(network: &Network) -> Self {
        Self {
            digest: network.digest(),
            ends: [
                network.embedding().tensor.clone(),
                network.embedding().pooled_from.clone().unwrap_or_default(),
                network.classifier().map(|found| found.logits).unwrap_or_default(),
            ],
            size: network.input().size,
        }
    }
}

impl Default for Explainers {
    fn default() -> Self {
        Self(Lru::new(EXPLAINER_BYTES))
    }
}

impl Explainers {
    fn get(&self, by: &Answerer, options: &ExplainOptions) -> Result<Arc<Explainer>, EngineError> {
        let network = &by.backbone.network;
        let (demand, by_head) = (Demand::of(options.request.method), by.head.is_some());
        let layers = Explainer::chosen_layers(network, &options.layers, demand, by_head)?;
        let key = Key { network: NetworkKey::of(network), layers, demand, by_head };
        self.0.get_or_make(&key, || {
            let explainer = Explainer::new(network, &key.layers, demand, by_head)?;
            let bytes = explainer.constant_bytes() + EXPLAINER_OVERHEAD;
            Ok((explainer, bytes))
        })
    }

    /// Forgets those of networks that are not loaded.
    fn keep(&self, loaded: &Snapshot) {
        let loaded: HashSet<NetworkKey> =
            loaded.backbones.values().map(|backbone| NetworkKey::of(&backbone.network)).collect();
        self.0.retain(|key| loaded.contains(&key.network));
    }
}

impl Engine {
    /// Gives up what was prepared for explaining backbones that are not loaded any more.
    pub fn forget_unloaded(&self) {
        self.explainers().keep(&self.snapshot());
    }

    /// Bytes that prepared explainers hold beside the networks themselves.
    pub fn explainer_bytes(&self) -> usize {
        self.explainers().0.bytes()
    }

    /// What explains `by`. Where its backbone was unloaded meanwhile, it is not kept.
    fn explainer(
        &self,
        by: &Answerer,
        options: &ExplainOptions,
    ) -> Result<Arc<Explainer>, EngineError> {
        let explainer = self.explainers().get(by, options)?;
        let loaded = self.snapshot().backbones.get(&by.backbone.name).cloned();
        if !loaded.is_some_and(|loaded| Arc::ptr_eq(&loaded, &by.backbone)) {
            self.forget_unloaded();
        }
        Ok(explainer)
    }

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
        let by = self.registry().snapshot().resolve(target)?;
        self.explain_by(beside, by, subject, options, cancel)
    }

    /// The same by one that was resolved before.
    ///
    /// # Errors
    /// As [`Engine::predict_by`], and those of [`explain`].
    pub fn explain_by(
        self: &Arc<Self>,
        beside: Beside,
        by: Answerer,
        subject: Subject,
        options: ExplainOptions,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Explained, EngineError>>, EngineError> {
        options.request.check()?;
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
    let explainer = engine.explainer(&by, options)?;
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
    let picture = prepared.picture.as_deref();
    let drawn = options.drawing.draw(picture, &explanation.map, &placement, cancel)?;
    let (tensor, elapsed) = (prepared.tensor, began.elapsed());
    Ok(Explained {
        answer,
        explanation,
        labels,
        tensor,
        placement,
        quality,
        pointing,
        drawn,
        elapsed,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::graph::{Options, Overrides, Source};

    #[test]
    fn networks_that_pool_other_maps_of_one_file_are_explained_apart() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny/logits.onnx");
        let key = |map: &str| {
            let overrides = Overrides { embedding: Some(map.to_owned()), ..Overrides::default() };
            let options = Options { overrides, ..Options::default() };
            NetworkKey::of(&Network::load(Source::File(file.clone()), &options).unwrap())
        };
        assert_ne!(key("relu1"), key("relu2"));
        assert_eq!(key("relu2"), key("relu2"));
    }
}
