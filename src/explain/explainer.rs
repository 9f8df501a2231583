//! A network prepared for explaining certain layers: what to run forward, what to differentiate.

use super::feature::Axes;
use super::{ExplainError, FeatureMap, Judge, Method};
use crate::grad::{Reverse, Tail};
use crate::graph::{Constants, GraphError, Network, Plan, Tap, Tensor, View};
use tract_onnx::prelude::{OutletId, TypedModel};

/// What a method asks of the graph besides the layer's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Demand {
    /// Nothing more.
    Values,
    /// The score's gradient at the layers.
    LayerGradient,
    /// The score's gradient at the input.
    InputGradient,
    /// Runs of the part behind the layer with changed activations.
    Tail,
}

impl Demand {
    /// What `method` asks for.
    pub fn of(method: Method) -> Demand {
        match method {
            Method::GradCam
            | Method::GradCamPlusPlus
            | Method::HiResCam
            | Method::XGradCam
            | Method::LayerCam => Demand::LayerGradient,
            Method::EigenCam | Method::ScoreCam => Demand::Values,
            Method::AblationCam => Demand::Tail,
            Method::InputGradient | Method::SmoothGrad => Demand::InputGradient,
        }
    }
}

/// A layer that is explained.
#[derive(Debug)]
pub(super) struct ExplainedLayer {
    pub name: String,
    pub axes: Axes,
    /// Index among the plan's outputs.
    output: usize,
}

/// Everything that explanations of some layers of a network share. Compiled once (some tenths of a
/// second), then used by all threads.
#[derive(Debug)]
pub struct Explainer {
    layers: Vec<ExplainedLayer>,
    /// `None` where the network's own plan computes all that is needed.
    plan: Option<Plan>,
    embedding: usize,
    logits: usize,
    gradient: Gradient,
    tails: Vec<TailRun>,
}

/// How the score's gradient comes to the layers.
#[derive(Debug)]
enum Gradient {
    /// It is not asked for.
    None,
    /// By the reverse sweep from the target to all of them.
    Sweep(Sweep),
    /// In closed form: the target sees the one layer only through its mean over space, so each
    /// pixel gets the mean's gradient over their number. The sweep is from the logits to the mean,
    /// `None` where the mean itself is the target (a head judges).
    Pooled(Option<Sweep>),
}

/// A reverse sweep and where the plan puts the values that it reads.
#[derive(Debug)]
struct Sweep {
    reverse: Reverse,
    needed: Vec<usize>,
}

/// The part behind a layer, and where the plan puts what else flows into it.
#[derive(Debug)]
struct TailRun {
    plan: Plan,
    frontier: Vec<usize>,
}

/// What one forward run computed.
#[derive(Debug)]
pub struct Forward {
    outputs: Vec<Tensor>,
    embedding: usize,
    logits: usize,
}

impl Forward {
    /// The vector that enters the classifier.
    pub fn embedding(&self) -> &[f32] {
        self.outputs.get(self.embedding).map_or(&[], Tensor::values)
    }

    /// The network's own logits.
    pub fn logits(&self) -> &[f32] {
        self.outputs.get(self.logits).map_or(&[], Tensor::values)
    }
}

/// A graph with declared tensors, and which of them are explained.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub network: &'a Network,
    /// The view's graph, or a copy of it with other weights.
    pub model: &'a TypedModel,
    /// Embedding, logits, then the layers (or the input).
    pub view: &'a View,
    pub names: &'a [String],
}

/// Which short ways may be taken.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// Run the network's own plan where it gives enough.
    pub own_plan: bool,
    /// Take [`Gradient::Pooled`] where it applies.
    pub closed_form: bool,
}

impl Forward {
    /// Embedding and logits, as the network's own plan begins its outputs.
    pub fn classifier_outputs(&self) -> [Tensor; 2] {
        [self.outputs[self.embedding].clone(), self.outputs[self.logits].clone()]
    }
}

/// The outlets that a plan gives, each once.
#[derive(Default)]
struct Outlets(Vec<OutletId>);

impl Outlets {
    fn index(&mut self, outlet: OutletId) -> usize {
        self.0.iter().position(|known| *known == outlet).unwrap_or_else(|| {
            self.0.push(outlet);
            self.0.len() - 1
        })
    }
}

impl Explainer {
    /// Prepares `network` for explaining `layers` (ONNX tensor names; where empty the last spatial
    /// layer on which the score depends), for scores of its own classifier or, with `by_head`, of a
    /// head on its embedding.
    ///
    /// # Errors
    /// A layer that is unknown, not spatial or behind what judges, an operator on the way without a
    /// gradient rule, a network without a classifier where no head judges: all before any work starts.
    pub fn new(
        network: &Network,
        layers: &[String],
        demand: Demand,
        by_head: bool,
    ) -> Result<Explainer, ExplainError> {
        let names = Explainer::chosen_layers(network, layers, demand, by_head)?;
        let logits = match network.classifier() {
            Some(classifier) => classifier.logits,
            None if by_head => network.embedding().tensor.clone(),
            None => return Err(ExplainError::NoClassifier),
        };
        let input = network.input().name.clone();
        let mut declared = vec![network.embedding().tensor.as_str(), logits.as_str()];
        declared.extend(names.iter().map(String::as_str));
        if demand == Demand::InputGradient {
            declared.push(&input);
        }
        let view = network.view(&declared)?;
        let own_plan =
            names.len() == 1 && network.last_spatial().is_some_and(|layer| layer.name == names[0]);
        let sources = Sources { network, model: view.model(), view: &view, names: &names };
        Explainer::compile(sources, demand, by_head, Path { own_plan, closed_form: true })
    }

    /// The layers that [`Explainer::new`] explains: `layers`, each once and in the order of the
    /// computation, or the default one; none for input gradients. The same layers make the same
    /// explainer.
    ///
    /// # Errors
    /// Those about layers of [`Explainer::new`].
    pub fn chosen_layers(
        network: &Network,
        layers: &[String],
        demand: Demand,
        by_head: bool,
    ) -> Result<Vec<String>, ExplainError> {
        if demand != Demand::InputGradient {
            return spatial_layers(network, layers, by_head);
        }
        if !layers.is_empty() {
            let problem = "the method explains at the input and takes no layer";
            return Err(ExplainError::Unsuitable { field: "layers", problem });
        }
        Ok(Vec::new())
    }

    /// As [`Explainer::new`], but always by the sweep through the whole tail and on a plan of its
    /// own: what the shorter ways must agree with.
    ///
    /// # Errors
    /// As [`Explainer::new`].
    pub fn by_sweep(
        network: &Network,
        layer: &str,
        by_head: bool,
    ) -> Result<Explainer, ExplainError> {
        let names = spatial_layers(network, &[layer.to_string()], by_head)?;
        let embedding = network.embedding().tensor.clone();
        let logits = network.classifier().map_or(embedding.clone(), |found| found.logits);
        let view = network.view(&[&embedding, &logits, layer])?;
        let sources = Sources { network, model: view.model(), view: &view, names: &names };
        let path = Path { own_plan: false, closed_form: false };
        Explainer::compile(sources, Demand::LayerGradient, by_head, path)
    }

    /// Compiles for the sources' model, which has the view's outlets but may have other weights.
    pub(super) fn compile(
        sources: Sources<'_>,
        demand: Demand,
        by_head: bool,
        path: Path,
    ) -> Result<Explainer, ExplainError> {
        let Sources { network, model, view, names } = sources;
        let taps = view.taps();
        let [embedding, logits, others @ ..] = taps else { return Err(ExplainError::NoClassifier) };
        let target = if by_head { embedding.outlet } else { logits.outlet };
        let pooled = embedding.outlet;
        let mut outlets = Outlets::default();
        let (embedding, logits) = (outlets.index(embedding.outlet), outlets.index(logits.outlet));
        let layers = names
            .iter()
            .zip(others)
            .map(|(name, tap)| {
                Ok(ExplainedLayer {
                    name: name.clone(),
                    axes: axes(network, model, name, tap)?,
                    output: outlets.index(tap.outlet),
                })
            })
            .collect::<Result<Vec<_>, ExplainError>>()?;
        let by: Vec<OutletId> = others.iter().map(|tap| tap.outlet).collect();
        let mut sweep = |by: &[OutletId]| -> Result<Sweep, ExplainError> {
            let reverse = Reverse::new(model, target, by)?;
            let needed = reverse.needed().iter().map(|outlet| outlets.index(*outlet)).collect();
            Ok(Sweep { reverse, needed })
        };
        let is_pooled = path.closed_form && sees_only_the_mean(network, names, by_head);
        let gradient = match demand {
            Demand::LayerGradient if is_pooled && by_head => Gradient::Pooled(None),
            Demand::LayerGradient if is_pooled => Gradient::Pooled(Some(sweep(&[pooled])?)),
            Demand::LayerGradient | Demand::InputGradient => Gradient::Sweep(sweep(&by)?),
            Demand::Values | Demand::Tail => Gradient::None,
        };
        let mut tails = Vec::new();
        if demand == Demand::Tail {
            for outlet in by {
                let tail = Tail::new(model, outlet, target)?;
                let frontier = tail.frontier.iter().map(|outlet| outlets.index(*outlet)).collect();
                tails.push(TailRun { plan: tail.plan()?, frontier });
            }
        }
        // The network's own plan gives embedding, logits and last spatial layer, in this order. Where two
        // of them are one outlet, the third here may be another value, which the sweep reads.
        let in_order = logits == 1 && layers.iter().map(|layer| layer.output).eq([2]);
        let plan = if path.own_plan && in_order && outlets.0.len() == 3 {
            None
        } else {
            Some(Plan::build(model, &outlets.0)?)
        };
        Ok(Explainer { layers, plan, embedding, logits, gradient, tails })
    }

    /// Whether explaining takes next to nothing beside a prediction: the gradient comes in closed
    /// form, from what the network's own plan computes.
    pub fn is_cheap(network: &Network, layers: &[String], demand: Demand, by_head: bool) -> bool {
        let default = network.last_spatial().map(|layer| layer.name.as_str());
        let own_plan = default.is_some_and(|last| layers.iter().all(|name| name == last));
        let names = || spatial_layers(network, layers, by_head);
        demand == Demand::LayerGradient
            && own_plan
            && names().is_ok_and(|names| {
                default == names.first().map(String::as_str)
                    && sees_only_the_mean(network, &names, by_head)
            })
    }

    /// Names of the layers explained; empty for input gradients.
    pub fn layers(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.name.clone()).collect()
    }

    /// Whether [`Explainer::forward`] runs the network's own plan.
    pub fn shares_network_plan(&self) -> bool {
        self.plan.is_none()
    }

    /// Bytes of constants that this explainer holds beyond the network's own: those of its plans, packed
    /// for tract's kernels, and those that the reverse sweep reads as they are. None is shared with
    /// another explainer, since each is made from its own reading of the file.
    pub fn constant_bytes(&self) -> usize {
        let mut constants = Constants::default();
        if let Some(plan) = &self.plan {
            plan.count_constants(&mut constants);
        }
        if let Gradient::Sweep(sweep) | Gradient::Pooled(Some(sweep)) = &self.gradient {
            sweep.reverse.count_constants(&mut constants);
        }
        self.tails.iter().for_each(|tail| tail.plan.count_constants(&mut constants));
        constants.bytes()
    }

    /// Runs the network for one input.
    pub fn forward(&self, network: &Network, input: &[f32]) -> Result<Forward, ExplainError> {
        let outputs = match &self.plan {
            Some(plan) => plan.run(input)?,
            None => network.plan().run(input)?,
        };
        Ok(Forward { outputs, embedding: self.embedding, logits: self.logits })
    }

    pub(super) fn explained(&self) -> &[ExplainedLayer] {
        &self.layers
    }

    /// The activations of layer `index`.
    pub(super) fn activations<'a>(&self, index: usize, forward: &'a Forward) -> FeatureMap<'a> {
        let layer = &self.layers[index];
        layer.axes.read(forward.outputs[layer.output].values())
    }

    /// The values of layer `index` as they lie in the graph.
    pub(super) fn native<'a>(&self, index: usize, forward: &'a Forward) -> &'a [f32] {
        forward.outputs[self.layers[index].output].values()
    }

    /// The score's gradient at each layer (or at the input), as it lies in the graph.
    ///
    /// `by_logits` is the score's derivative by each logit that `judge` gives.
    pub(super) fn gradients(
        &self,
        forward: &Forward,
        judge: &Judge<'_>,
        by_logits: Vec<f32>,
    ) -> Result<Vec<Vec<f32>>, ExplainError> {
        let seed = match judge.head {
            Some(head) => head.vjp(forward.embedding(), &by_logits)?,
            None => by_logits,
        };
        let by_mean = match &self.gradient {
            Gradient::None => return Ok(Vec::new()),
            Gradient::Sweep(sweep) => return sweep.run(forward, seed),
            Gradient::Pooled(None) => seed,
            Gradient::Pooled(Some(sweep)) => sweep.run(forward, seed)?.remove(0),
        };
        let spread = |layer: &ExplainedLayer| layer.axes.spread(&by_mean);
        Ok(self.layers.iter().map(spread).collect())
    }

    /// The logits when layer `index` has the values `changed` (as they lie in the graph) and all
    /// that does not depend on it stays.
    pub(super) fn behind(
        &self,
        index: usize,
        changed: &[f32],
        forward: &Forward,
        judge: &Judge<'_>,
    ) -> Result<Vec<f32>, ExplainError> {
        let tail = &self.tails[index];
        let others = tail.frontier.iter().map(|output| forward.outputs[*output].values());
        let inputs: Vec<&[f32]> = std::iter::once(changed).chain(others).collect();
        let outputs = tail.plan.run_with(&inputs)?;
        let target = outputs.first().map_or(&[][..], Tensor::values);
        Ok(match judge.head {
            Some(head) => head.logits(target)?,
            None => target.to_vec(),
        })
    }
}

impl Sweep {
    fn run(&self, forward: &Forward, seed: Vec<f32>) -> Result<Vec<Vec<f32>>, ExplainError> {
        let values: Vec<&[f32]> =
            self.needed.iter().map(|index| forward.outputs[*index].values()).collect();
        Ok(self.reverse.run(&values, seed)?)
    }
}

/// Whether the one layer reaches the score through the embedding alone, which is its mean.
fn sees_only_the_mean(network: &Network, names: &[String], by_head: bool) -> bool {
    let embedding = network.embedding();
    let [name] = names else { return false };
    // A head sees nothing else. The network's own logits may: a branch beside the embedding, or, where
    // the classifier comes before the pooling (SqueezeNet), the map itself.
    embedding.pooled_from.as_ref() == Some(name) && (by_head || embedding.only_way)
}

/// The layers asked for, each spatial and before what judges, once and in the order of the computation;
/// the last such one where none is asked for.
pub(super) fn spatial_layers(
    network: &Network,
    layers: &[String],
    by_head: bool,
) -> Result<Vec<String>, ExplainError> {
    if layers.is_empty() {
        let last =
            if by_head { network.last_spatial_of_embedding() } else { network.last_spatial() };
        return Ok(vec![last.ok_or(ExplainError::NoSpatialLayer)?.name.clone()]);
    }
    let mut names: Vec<String> = Vec::with_capacity(layers.len());
    for name in layers {
        let layer = network.layer(name)?;
        if !layer.spatial {
            let (layer, shape) = (name.clone(), layer.shape.clone());
            return Err(ExplainError::NotSpatial { layer, shape });
        }
        if !(if by_head { layer.before_embedding } else { layer.before_logits }) {
            return Err(ExplainError::Behind { layer: name.clone(), by_head });
        }
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.sort_by_cached_key(|name| network.layers().iter().position(|layer| layer.name == *name));
    Ok(names)
}

fn axes(
    network: &Network,
    model: &TypedModel,
    name: &str,
    tap: &Tap,
) -> Result<Axes, ExplainError> {
    let layer = network.layer(name)?;
    let not_spatial =
        || ExplainError::NotSpatial { layer: name.to_string(), shape: layer.shape.clone() };
    let fact = model.outlet_fact(tap.outlet).map_err(|error| GraphError::Engine {
        stage: "finding a layer",
        message: error.to_string(),
    })?;
    let shape = fact.shape.as_concrete().ok_or_else(not_spatial)?;
    let layout = layer.layout.ok_or_else(not_spatial)?;
    Axes::new(tap, shape, layout).ok_or_else(not_spatial)
}
