//! The sanity check of Adebayo et al. (2018): an explanation of a network must change when the
//! network forgets what it has learnt.

use std::collections::HashSet;

use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use tract_onnx::prelude::{OutletId, TypedModel};

use super::explainer::{Path, Sources, spatial_layers};
use super::{Demand, ExplainError, Explainer, Explanation, Judge, Request, explain, spearman};
use crate::base::cancel::Cancel;
use crate::grad::{Weight, replace_weight, weight_values, weights};
use crate::graph::Network;
use crate::heads::{Classifier, Head, HeadError, Kernel, Linear, Matrix, Neighbours, Perceptron};

/// Largest magnitude of the rank correlation with which a map counts as changed, once everything is
/// shuffled. Chance alone scatters it by 0.14 around zero for a map of 7x7.
pub const THRESHOLD: f64 = 0.5;
/// What the first stage is called where a head judges.
const HEAD: &str = "the head";

/// One stage of the cascade.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The node whose weights were shuffled last, or "the head"; all behind it are shuffled too.
    pub node: String,
    /// Spearman's rank correlation of the raw map with that of the intact network.
    pub correlation: f64,
}

/// What became of the map stage by stage.
#[derive(Debug, Clone, PartialEq)]
pub enum Cascade {
    /// The raw map of the intact network is the same everywhere (that of a class against itself is zero):
    /// it has no ranks that could change.
    Flat,
    /// The head or the classifier first, the layer next to the picture last.
    Stages(Vec<Stage>),
}

impl Cascade {
    /// The stages; none where the map was flat.
    pub fn stages(&self) -> &[Stage] {
        match self {
            Self::Flat => &[],
            Self::Stages(stages) => stages,
        }
    }

    /// The rank correlation with everything shuffled; 1 where there was nothing to shuffle, `None` where
    /// the map was flat.
    pub fn at_the_end(&self) -> Option<f64> {
        match self {
            Self::Flat => None,
            Self::Stages(stages) => Some(stages.last().map_or(1.0, |stage| stage.correlation)),
        }
    }

    /// Whether the map shows what the network has learnt: with everything shuffled its correlation is
    /// of a magnitude of at most [`THRESHOLD`]. `None` where the map was flat.
    pub fn changed(&self) -> Option<bool> {
        self.at_the_end().map(|correlation| correlation.abs() <= THRESHOLD)
    }
}

/// Shuffles the values of the weights from the end downwards, first those of the head or the network's
/// classifier alone, then one layer more at each stage, and compares the maps of the same class at
/// the same layers. With `most` stages (2 at least) several layers are shuffled at each after the first.
///
/// # Errors
/// As [`explain`].
pub fn cascade(
    network: &Network,
    input: &[f32],
    judge: &Judge<'_>,
    intact: &Explanation,
    request: &Request,
    most: Option<usize>,
    cancel: &Cancel,
) -> Result<Cascade, ExplainError> {
    if intact.map.raw.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(Cascade::Flat);
    }
    let demand = Demand::of(request.method);
    let by_head = judge.head.is_some();
    let names = if demand == Demand::InputGradient {
        Vec::new()
    } else {
        spatial_layers(network, &intact.layers, by_head)?
    };
    let logits = network.classifier().map(|classifier| classifier.logits);
    let embedding = network.embedding().tensor.clone();
    let mut declared = vec![embedding.as_str(), logits.as_deref().unwrap_or(&embedding)];
    declared.extend(names.iter().map(String::as_str));
    if demand == Demand::InputGradient {
        declared.push(&network.input().name);
    }
    let view = network.view(&declared)?;
    let mut model = view.model().clone();
    let mut rng = StdRng::seed_from_u64(request.seed);
    let request = Request { class: intact.score.spec(), ..request.clone() };
    let mut stages = Vec::new();
    let mut stage = |model: &TypedModel, judge: &Judge<'_>, node: &str| {
        cancel.checkpoint()?;
        let sources = Sources { network, model, view: &view, names: &names };
        let path = Path { own_plan: false, closed_form: false };
        let explainer = Explainer::compile(sources, demand, by_head, path)?;
        let other = explain(&explainer, network, input, None, judge, &request, cancel)?;
        let correlation = spearman(&intact.map.raw, &other.map.raw);
        stages.push(Stage { node: node.to_owned(), correlation });
        Ok::<_, ExplainError>(())
    };
    let shuffled = judge.head.map(|head| forgetful(head, &mut rng)).transpose()?;
    let judge = Judge { head: shuffled.as_ref(), ..*judge };
    if by_head {
        stage(&model, &judge, HEAD)?;
    }
    // The judge's target is the first tap for a head, the second for the network's own classifier.
    let target = view.taps().get(usize::from(!by_head)).ok_or(ExplainError::NoClassifier)?.outlet;
    let layers = from_the_top(&model, target);
    let (first, rest) = layers.split_at(if by_head { 0 } else { layers.len().min(1) });
    let stages_left = most.map_or(rest.len(), |most| most.max(2) - 1).max(1);
    let groups = first.chunks(1).chain(rest.chunks(rest.len().div_ceil(stages_left).max(1)));
    for group in groups {
        for weight in group.iter().flatten() {
            shuffle(&mut model, weight, &mut rng)?;
        }
        let last = group.last().and_then(|layer| layer.last());
        stage(&model, &judge, last.map_or("", |weight| weight.node.as_str()))?;
    }
    Ok(Cascade::Stages(stages))
}

/// The weights on which `target` depends, layer by layer from the one next to it.
fn from_the_top(model: &TypedModel, target: OutletId) -> Vec<Vec<Weight>> {
    let mut reaching = HashSet::new();
    let mut pending = vec![target.node];
    while let Some(id) = pending.pop() {
        if reaching.insert(id) {
            pending.extend(model.node(id).inputs.iter().map(|input| input.node));
        }
    }
    let mut layers: Vec<Vec<Weight>> = Vec::new();
    for weight in weights(model).into_iter().rev() {
        if !reaching.contains(&weight.outlet.node) {
            continue;
        }
        match layers.last_mut().filter(|layer| layer[0].node == weight.node) {
            Some(layer) => layer.push(weight),
            None => layers.push(vec![weight]),
        }
    }
    layers
}

fn shuffle(model: &mut TypedModel, weight: &Weight, rng: &mut StdRng) -> Result<(), ExplainError> {
    let mut values = weight_values(model, weight.outlet)?;
    values.shuffle(rng);
    Ok(replace_weight(model, weight.outlet, &values)?)
}

/// The head with all that it has learnt of its classes shuffled.
fn forgetful(head: &Head, rng: &mut StdRng) -> Result<Head, HeadError> {
    let mut linear = |part: &Linear| {
        let mut values = part.weights().values().to_vec();
        values.shuffle(rng);
        let matrix = Matrix::new(part.weights().rows(), part.weights().columns(), values)?;
        Linear::new(matrix, part.bias().to_vec())
    };
    let classifier = match head.classifier() {
        Classifier::Linear(part) => Classifier::Linear(linear(part)?),
        Classifier::Kernel(part) => Classifier::Kernel(Kernel::new(
            part.landmarks().to_vec(),
            part.width(),
            part.bandwidth(),
            linear(part.output())?,
        )?),
        Classifier::Perceptron(part) => {
            Classifier::Perceptron(Perceptron::new(linear(part.hidden())?, linear(part.output())?)?)
        }
        Classifier::Neighbours(part) => {
            let mut labels = part.labels().to_vec();
            labels.shuffle(rng);
            Classifier::Neighbours(Neighbours::from_unit_rows(
                part.rows().to_vec(),
                part.width(),
                labels,
                part.classes(),
                part.neighbours(),
                part.bandwidth(),
            )?)
        }
    };
    let (kind, classes) = (head.kind(), head.classes().to_vec());
    Head::new(kind, classes, head.transform().clone(), classifier)?
        .with_temperature(head.temperature())
}
