//! A network that was loaded: its parts, its layers, its plan.

use std::collections::{HashMap, HashSet};

use tract_onnx::model::ParseResult;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::InferenceModelExt as _;
use tract_onnx::tract_hir::infer::Factoid as _;

use super::anatomy::{self, Anatomy, EmbeddingSource, Structure};
use super::file::{OnnxFile, Source};
use super::input::{self, Input};
use super::layer::{self, Layer};
use super::onnx::{OnnxModel, integers, sort_nodes};
use super::{Ending, Extension, GraphError, Overrides, Plan, Tensor, View, layout, topology};
use crate::base::digest::Digest;

/// The name under which the mean over space of a feature map is declared where no tensor of the
/// network is the embedding.
const POOLED_EMBEDDING: &str = "graftd.embedding";

/// How to load a network.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Side of the square input, for files that leave it open; must agree with those that do not.
    pub size: Option<u32>,
    /// What to take instead of what is found by structure.
    pub overrides: Overrides,
    /// SHA-256 that the file must have, where that is known. Nothing in another file is looked at.
    pub sha256: Option<Digest>,
}

/// The network's own classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// The ONNX tensor of the logits.
    pub logits: String,
    /// Number of classes.
    pub classes: usize,
    /// What the file does to the logits at its end.
    pub ending: Ending,
}

impl Classifier {
    /// Whether each class may be there or not, whatever the others are: a probability is then the
    /// logistic function of its own logit and not the softmax over all.
    pub fn is_of_independent_classes(&self) -> bool {
        self.ending == Ending::Sigmoid
    }
}

/// The vector that heads are trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// Its name for [`Network::view`].
    pub tensor: String,
    /// Number of values.
    pub width: usize,
    /// The feature map whose mean over space it is, if it is one.
    pub pooled_from: Option<String>,
    /// Whether the network's own logits see nothing of the image but this.
    pub only_way: bool,
}

/// A loaded network: described by ONNX names, ready to run, without a copy of its file.
#[derive(Debug)]
pub struct Network {
    file: OnnxFile,
    digest: Digest,
    options: Options,
    opset: i64,
    input: Input,
    output: String,
    output_shape: Vec<usize>,
    anatomy: Anatomy,
    classes: Option<usize>,
    embedding: Embedding,
    layers: Vec<Layer>,
    last_spatial: Option<String>,
    last_spatial_of_embedding: Option<String>,
    plan: Plan,
}

/// The outputs of [`Network::plan`], in the order in which it declares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// See [`Embedding`].
    Embedding,
    /// See [`Classifier`]; where there is none, the embedding once more.
    Logits,
    /// The last spatial layer, where there is one.
    FeatureMap,
}

impl Network {
    /// Reads, checks and describes a network and makes its plan.
    ///
    /// # Errors
    /// Everything in [`GraphError`]; a file that cannot be read is [`GraphError::Malformed`].
    pub fn load(source: Source, options: &Options) -> Result<Self, GraphError> {
        let file = OnnxFile::open(source)?;
        let (bytes, digest) = file.read(options.sha256)?;
        let mut model = OnnxModel::parse(&bytes)?;
        drop(bytes);
        sort_nodes(&mut model)?;
        let opset = model.opset();
        let output = model.graph().output[0].name.clone();
        model.keep_only(&[&output]);
        let input = input::find(&mut model, options)?;
        let (parsed, shapes) = analyse(&model)?;
        let nodes = &model.graph().node;
        let layouts = layout::of_tensors(nodes, &input.name, input.layout, &shapes);
        let data = reached_from(nodes, &input.name);
        let is_weight = |name: &str| !data.contains(name);
        let constants = integers(model.graph());
        let structure = Structure {
            nodes,
            shapes: &shapes,
            layouts: &layouts,
            weights: &is_weight,
            integers: &constants,
        };
        let anatomy = anatomy::find(&structure, &output, &options.overrides)?;

        let width = |tensor: &str| shapes.get(tensor).map_or(0, |shape| shape.iter().product());
        let classes = anatomy.has_classifier.then(|| width(&anatomy.logits));
        let waists: HashSet<String> =
            topology::waists(nodes, &input.name, &anatomy.logits).into_iter().collect();
        let embedding = match &anatomy.embedding {
            EmbeddingSource::Tensor(tensor) => Embedding {
                tensor: tensor.clone(),
                width: width(tensor),
                pooled_from: anatomy::pooled_from(&structure, tensor),
                only_way: waists.contains(tensor),
            },
            EmbeddingSource::PooledMap { map, layout } => Embedding {
                tensor: POOLED_EMBEDDING.to_owned(),
                width: shapes
                    .get(map)
                    .and_then(|shape| layout::extents(*layout, shape))
                    .map_or(0, |(channels, ..)| channels),
                pooled_from: Some(map.clone()),
                only_way: false,
            },
        };
        let embedded = match &anatomy.embedding {
            EmbeddingSource::Tensor(name) | EmbeddingSource::PooledMap { map: name, .. } => name,
        };
        let mut layers = layer::describe(&structure, &data, &waists, &anatomy.logits, embedded);
        // By the waists that there are, whichever of them may be cut at.
        let last_spatial = layer::last_spatial(&layers, |layer| layer.before_logits);
        let last_spatial_of_embedding =
            layer::last_spatial(&layers, |layer| layer.before_embedding);
        keep_waists(&mut layers, &options.overrides.waists)?;
        let output_shape = shapes.get(&output).cloned().unwrap_or_default();

        let declared = declared(&embedding, &anatomy, last_spatial.as_deref());
        let view = if embedding.tensor == POOLED_EMBEDDING {
            drop(parsed);
            add_pooled_embedding(&mut model, &anatomy);
            View::declare(parse(&model)?, &declared)?
        } else {
            View::declare(parsed, &declared)?
        };
        drop(model);
        let plan = view.plan()?;
        Ok(Self {
            file,
            digest,
            options: options.clone(),
            opset,
            input,
            output,
            output_shape,
            anatomy,
            classes,
            embedding,
            layers,
            last_spatial,
            last_spatial_of_embedding,
            plan,
        })
    }

    /// What was taken instead of what is found by structure.
    pub fn overrides(&self) -> &Overrides {
        &self.options.overrides
    }

    /// SHA-256 of the ONNX file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Version of the standard operators that the file asks for.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The image input.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Name and shape of the ONNX file's own (first) output.
    pub fn output(&self) -> (&str, &[usize]) {
        (&self.output, &self.output_shape)
    }

    /// The network's own classifier; `None` for a pure feature extractor.
    pub fn classifier(&self) -> Option<Classifier> {
        let (logits, ending) = (self.anatomy.logits.clone(), self.anatomy.ending);
        self.classes.map(|classes| Classifier { logits, classes, ending })
    }

    /// The vector that heads are trained on.
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// Every tensor between image and logits, in the order of the computation.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The layer `name`.
    ///
    /// # Errors
    /// When the network has none of that name.
    pub fn layer(&self, name: &str) -> Result<&Layer, GraphError> {
        let layer = self.layers.iter().find(|layer| layer.name == name);
        layer.ok_or_else(|| GraphError::UnknownTensor(name.to_owned()))
    }

    /// The last spatial layer: where Grad-CAM looks by default. `None` if no layer is spatial.
    pub fn last_spatial(&self) -> Option<&Layer> {
        self.last_spatial.as_deref().and_then(|name| self.layer(name).ok())
    }

    /// The last spatial layer on which the embedding depends: where Grad-CAM looks by default when a
    /// head judges. `None` if there is none.
    pub fn last_spatial_of_embedding(&self) -> Option<&Layer> {
        self.last_spatial_of_embedding.as_deref().and_then(|name| self.layer(name).ok())
    }

    /// The plan that serves predictions; [`Network::parts`] says what its outputs are.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs one image through [`Network::plan`].
    ///
    /// # Errors
    /// As [`Plan::run`]; [`GraphError::OutputNotFinite`] for an embedding or logits that are no
    /// numbers.
    pub fn run(&self, input: &[f32]) -> Result<Vec<Tensor>, GraphError> {
        let outputs = self.plan.run(input)?;
        let answers = [&self.embedding.tensor, &self.anatomy.logits];
        for (tensor, name) in outputs.iter().zip(answers) {
            if tensor.values().iter().any(|value| !value.is_finite()) {
                return Err(GraphError::OutputNotFinite(name.clone()));
            }
        }
        Ok(outputs)
    }

    /// What the outputs of [`Network::plan`] are, in their order.
    pub fn parts(&self) -> &'static [Part] {
        const ALL: [Part; 3] = [Part::Embedding, Part::Logits, Part::FeatureMap];
        &ALL[..if self.last_spatial.is_some() { 3 } else { 2 }]
    }

    /// The network's ONNX file with `extension` behind the embedding, in the place of the classifier.
    ///
    /// # Errors
    /// A file that changed since it was loaded.
    pub fn export(&self, extension: &Extension) -> Result<Vec<u8>, GraphError> {
        let (bytes, _) = self.file.read(Some(self.digest))?;
        let mut model = OnnxModel::parse(&bytes)?;
        sort_nodes(&mut model)?;
        add_pooled_embedding(&mut model, &self.anatomy);
        Ok(super::export::encode(model, &self.embedding.tensor, extension))
    }

    /// Declares ONNX tensors on a fresh decluttered graph. Besides [`Layer`] names, the names of the
    /// embedding, the logits and the input are known.
    ///
    /// # Errors
    /// A name that the network does not have; a file that changed since it was loaded.
    pub fn view(&self, tensors: &[&str]) -> Result<View, GraphError> {
        let (bytes, _) = self.file.read(Some(self.digest))?;
        let mut model = OnnxModel::parse(&bytes)?;
        drop(bytes);
        sort_nodes(&mut model)?;
        model.keep_only(&[&self.output]);
        input::find(&mut model, &self.options)?;
        add_pooled_embedding(&mut model, &self.anatomy);
        View::declare(parse(&model)?, tensors)
    }
}

/// Embedding, logits, last spatial layer: the order of [`Part`].
fn declared<'a>(
    embedding: &'a Embedding,
    anatomy: &'a Anatomy,
    last: Option<&'a str>,
) -> Vec<&'a str> {
    [embedding.tensor.as_str(), anatomy.logits.as_str()].into_iter().chain(last).collect()
}

fn add_pooled_embedding(model: &mut OnnxModel, anatomy: &Anatomy) {
    if let EmbeddingSource::PooledMap { map, layout } = &anatomy.embedding {
        model.add_global_average_pool(map, *layout, POOLED_EMBEDDING);
    }
}

/// tract's reading of the model, with nothing inferred yet. tract has been seen to panic on
/// malformed files; a panic counts as an error.
fn parse(model: &OnnxModel) -> Result<ParseResult, GraphError> {
    let stage = "reading the network";
    let parsed = guarded(stage, || model.operators().parse(model.proto(), None))?;
    if parsed.unresolved_inputs.is_empty() {
        Ok(parsed)
    } else {
        let inputs = parsed.unresolved_inputs.join(", ");
        Err(GraphError::Malformed(format!("tensors {inputs} are used but never produced")))
    }
}

/// Infers the shape of every tensor.
fn analyse(model: &OnnxModel) -> Result<(ParseResult, HashMap<String, Vec<usize>>), GraphError> {
    let mut parsed = parse(model)?;
    guarded("inferring shapes", || parsed.model.analyse(false))?;
    let shape = |outlet| {
        let shape = parsed.model.outlet_fact(outlet).ok()?.shape.concretize()?;
        shape.iter().map(|dim| usize::try_from(dim.to_i64().ok()?).ok()).collect::<Option<Vec<_>>>()
    };
    let shapes = parsed
        .outlets_by_name
        .iter()
        .filter_map(|(name, &outlet)| Some((name.clone(), shape(outlet)?)))
        .collect();
    Ok((parsed, shapes))
}

fn guarded<T>(
    stage: &'static str,
    work: impl FnOnce() -> tract_onnx::prelude::TractResult<T>,
) -> Result<T, GraphError> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let panicked = GraphError::Engine { stage, message: "tract panicked on this network".into() };
    caught.map_err(|_| panicked)?.map_err(GraphError::engine(stage))
}

/// The tensors that depend on the image.
fn reached_from<'a>(nodes: &'a [NodeProto], input: &'a str) -> HashSet<&'a str> {
    let mut reached = HashSet::from([input]);
    for node in nodes {
        if node.input.iter().any(|name| reached.contains(name.as_str())) {
            reached.extend(node.output.iter().map(String::as_str));
        }
    }
    reached
}

/// Leaves those waists that are `named`, unless none is.
fn keep_waists(layers: &mut [Layer], named: &[String]) -> Result<(), GraphError> {
    for name in named {
        match layers.iter().find(|layer| layer.name == *name) {
            None => return Err(GraphError::UnknownTensor(name.clone())),
            Some(layer) if !layer.waist => return Err(GraphError::NotAWaist(name.clone())),
            Some(_) => {}
        }
    }
    if !named.is_empty() {
        layers.iter_mut().for_each(|layer| layer.waist &= named.contains(&layer.name));
    }
    Ok(())
}
