//! The parts of a classifier, found by structure: the softmax or sigmoid at its end, the linear layer
//! that is the classifier, the embedding that enters it.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::GraphError;
use super::layout::extents;
use super::onnx::{ints, text};
use super::topology::producers;
use crate::vision::TensorLayout;

/// What the ONNX file does to the logits at its very end. `logit` always means the value before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The file ends in logits.
    #[default]
    Logits,
    /// The file ends in a softmax, as all Keras exports do.
    Softmax,
    /// The file ends in the logarithm of a softmax.
    LogSoftmax,
    /// The file ends in the logistic function of each logit: any number of its classes may be there at
    /// once, or it has one class, that is there or not.
    Sigmoid,
}

impl Ending {
    /// The ONNX operator that the file ends in, behind the logits.
    pub fn operator(self) -> Option<&'static str> {
        match self {
            Self::Logits => None,
            Self::Softmax => Some("Softmax"),
            Self::LogSoftmax => Some("LogSoftmax"),
            Self::Sigmoid => Some("Sigmoid"),
        }
    }
}

/// ONNX tensor names that override what is found by structure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The image input.
    pub input: Option<String>,
    /// The classifier's output before softmax or sigmoid.
    pub logits: Option<String>,
    /// The vector that enters the classifier, or a spatial tensor whose mean over space does.
    pub embedding: Option<String>,
    /// The network has no classifier: its output is the embedding.
    pub no_classifier: bool,
    /// The only waists; empty for all that there are.
    pub waists: Vec<String>,
}

/// Names and kinds of the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anatomy {
    /// The output of the file as it stands.
    pub output: String,
    pub ending: Ending,
    /// The tensor before the softmax or sigmoid; for a network without a classifier the embedding.
    pub logits: String,
    pub has_classifier: bool,
    pub embedding: EmbeddingSource,
}

/// Where the embedding comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EmbeddingSource {
    /// A tensor of the network, flattened.
    Tensor(String),
    /// The mean over space of a feature map: the classifier is a 1x1 convolution before the
    /// pooling (`SqueezeNet`), so no tensor of the network is the embedding. It is the mean over all
    /// of the map, also where the network's own pooling leaves out a border.
    PooledMap {
        /// The feature map.
        map: String,
        /// The order of its axes.
        layout: TensorLayout,
    },
}

/// What the search needs to know of the graph. `nodes` are sorted.
pub(super) struct Structure<'a> {
    pub nodes: &'a [NodeProto],
    pub shapes: &'a HashMap<String, Vec<usize>>,
    pub layouts: &'a HashMap<String, TensorLayout>,
    pub weights: &'a dyn Fn(&str) -> bool,
    /// Short constant lists of whole numbers, by tensor.
    pub integers: &'a HashMap<String, Vec<i64>>,
}

/// Operators that only rename or regroup the values of their first input.
const REGROUPING: [&str; 8] =
    ["Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast", "Transpose"];
const ACTIVATIONS: [&str; 8] =
    ["Relu", "LeakyRelu", "Clip", "PRelu", "Elu", "Selu", "HardSwish", "HardSigmoid"];

/// Finds the parts below `output`.
pub(super) fn find(
    structure: &Structure<'_>,
    output: &str,
    overrides: &Overrides,
) -> Result<Anatomy, GraphError> {
    let search = Search { structure, producers: producers(structure.nodes) };
    let named = &overrides.embedding;
    let (logits, ending) = match &overrides.logits {
        Some(name) => (search.existing(name)?, search.ending_behind(name, output)),
        None if overrides.no_classifier => (output.to_owned(), Ending::Logits),
        None => search.logits(output, named.is_some()),
    };
    let found = if overrides.no_classifier { None } else { search.classifier(&logits) };
    // Whoever names the logits, or an embedding before the end of the file, says that there are classes.
    let is_named = overrides.logits.is_some() || (named.is_some() && logits != output);
    let has_classifier = !overrides.no_classifier && (found.is_some() || is_named);
    let embedding = match (named, found) {
        (Some(name), _) => search.source(search.existing(name)?),
        (None, Some(found)) => found,
        (None, None) => EmbeddingSource::Tensor(logits.clone()),
    };
    Ok(Anatomy { output: output.into(), ending, logits, has_classifier, embedding })
}

struct Search<'a> {
    structure: &'a Structure<'a>,
    producers: HashMap<&'a str, usize>,
}

impl<'a> Search<'a> {
    fn producer(&self, tensor: &str) -> Option<&'a NodeProto> {
        self.producers.get(tensor).map(|&index| &self.structure.nodes[index])
    }

    fn shape(&self, tensor: &str) -> &[usize] {
        self.structure.shapes.get(tensor).map_or(&[], Vec::as_slice)
    }

    fn existing(&self, tensor: &str) -> Result<String, GraphError> {
        match self.producer(tensor) {
            Some(_) => Ok(tensor.to_owned()),
            None => Err(GraphError::UnknownTensor(tensor.to_owned())),
        }
    }

    /// Height x width > 1.
    fn is_spatial(&self, tensor: &str) -> bool {
        let layout = self.structure.layouts.get(tensor);
        layout
            .and_then(|&layout| extents(layout, self.shape(tensor)))
            .is_some_and(|(_, height, width)| height * width > 1)
    }

    /// The tensor whose values `tensor` carries under another name or shape.
    fn through_regrouping<'t>(&self, mut tensor: &'t str) -> &'t str
    where
        'a: 't,
    {
        while let Some(node) = self.producer(tensor) {
            let transposes_space = node.op_type == "Transpose" && self.is_spatial(tensor);
            if transposes_space || !REGROUPING.contains(&node.op_type.as_str()) {
                break;
            }
            let Some(input) = node.input.first() else { break };
            tensor = input;
        }
        tensor
    }

    /// A tensor as an embedding: itself, or its mean over space.
    fn source(&self, tensor: String) -> EmbeddingSource {
        match self.structure.layouts.get(&tensor) {
            Some(&layout) if self.is_spatial(&tensor) => {
                EmbeddingSource::PooledMap { map: tensor, layout }
            }
            _ => EmbeddingSource::Tensor(tensor),
        }
    }

    /// What the last operator before `output` does to the tensor that enters it.
    fn ending(&self, output: &str) -> Option<(&'a str, Ending)> {
        let node = self.producer(self.through_regrouping(output))?;
        let ending = match node.op_type.as_str() {
            "Softmax" => Ending::Softmax,
            "LogSoftmax" => Ending::LogSoftmax,
            "Sigmoid" => Ending::Sigmoid,
            _ => return None,
        };
        Some((node.input.first()?, ending))
    }

    /// The logits below `output`. Features may end in a sigmoid too: it is the end of a classifier where
    /// one `is_known` to be there or is found before it.
    fn logits(&self, output: &str, is_known: bool) -> (String, Ending) {
        match self.ending(output) {
            Some((before, ending))
                if ending != Ending::Sigmoid || is_known || self.classifier(before).is_some() =>
            {
                (before.to_owned(), ending)
            }
            _ => (output.to_owned(), Ending::Logits),
        }
    }

    /// The ending that lies between logits given by name and the output.
    fn ending_behind(&self, logits: &str, output: &str) -> Ending {
        match self.ending(output) {
            Some((before, ending))
                if self.through_regrouping(before) == self.through_regrouping(logits) =>
            {
                ending
            }
            _ => Ending::Logits,
        }
    }

    fn classifier(&self, logits: &str) -> Option<EmbeddingSource> {
        let end = self.through_regrouping(logits);
        let node = self.producer(end)?;
        if let Some(data) = self.data_of_linear(node) {
            return Some(EmbeddingSource::Tensor(data.to_owned()));
        }
        // A 1x1 convolution, perhaps an activation, then an average over space.
        let pooled = self.averaged_by_channel(node)?;
        let mut map = self.through_regrouping(pooled);
        while let Some(node) = self.producer(map) {
            if !ACTIVATIONS.contains(&node.op_type.as_str()) {
                break;
            }
            map = self.through_regrouping(node.input.first()?);
        }
        let convolution = self.producer(map).filter(|node| node.op_type == "Conv")?;
        let pointwise = self.shape(convolution.input.get(1)?).iter().skip(2).all(|&k| k == 1);
        let source = convolution.input.first()?;
        (pointwise && self.is_spatial(source)).then(|| self.source(source.clone()))
    }

    /// The data that enters a fully connected layer.
    fn data_of_linear(&self, node: &'a NodeProto) -> Option<&'a str> {
        let is_weight = |name: &str| (self.structure.weights)(name);
        let [first, second, ..] = node.input.as_slice() else { return None };
        match node.op_type.as_str() {
            "Gemm" | "MatMul" if is_weight(second) => Some(first),
            "Add" if is_weight(second) => {
                let inner = self.producer(self.through_regrouping(first))?;
                (inner.op_type != "Add").then(|| self.data_of_linear(inner)).flatten()
            }
            "Add" if is_weight(first) => {
                let inner = self.producer(self.through_regrouping(second))?;
                (inner.op_type != "Add").then(|| self.data_of_linear(inner)).flatten()
            }
            // A convolution that sees the whole map at once is a fully connected layer.
            "Conv" if !self.is_spatial(node.output.first()?) => Some(first),
            _ => None,
        }
    }

    /// The map that `node` averages to one number a channel, over all of space or, where an
    /// `AveragePool` does not reach the border, over a part of it.
    fn averaged_by_channel(&self, node: &'a NodeProto) -> Option<&'a str> {
        let input = node.input.first()?;
        let layout = *self.structure.layouts.get(input.as_str())?;
        let (channels, height, width) = extents(layout, self.shape(input))?;
        let values: usize = self.shape(node.output.first()?).iter().product();
        let averages = match node.op_type.as_str() {
            "GlobalAveragePool" | "AveragePool" => layout == TensorLayout::Nchw,
            "ReduceMean" => self.reduces_space(node, layout),
            _ => false,
        };
        (averages && height * width > 1 && values == channels).then_some(input.as_str())
    }

    /// The map of which `node` is the mean over all of space.
    fn input_of_global_pool(&self, node: &'a NodeProto) -> Option<&'a str> {
        let input = self.averaged_by_channel(node)?;
        (node.op_type != "AveragePool" || covers(node, self.shape(input))).then_some(input)
    }

    /// Whether a `ReduceMean` goes over height and width and nothing else.
    fn reduces_space(&self, node: &NodeProto, layout: TensorLayout) -> bool {
        let listed = node.input.get(1).and_then(|name| self.structure.integers.get(name));
        let Some(axes) = ints(node, "axes").or(listed.map(Vec::as_slice)) else { return false };
        let mut axes: Vec<i64> = axes.iter().map(|a| if *a < 0 { a + 4 } else { *a }).collect();
        axes.sort_unstable();
        match layout {
            TensorLayout::Nchw => axes == [2, 3],
            TensorLayout::Nhwc => axes == [1, 2],
        }
    }

    /// The map whose mean over space is `tensor`, if it is one.
    fn pooled_from(&self, tensor: &str) -> Option<&'a str> {
        self.input_of_global_pool(self.producer(self.through_regrouping(tensor))?)
    }
}

/// Whether the window of an `AveragePool` lies on the whole of a map [1, channels, height, width]: the
/// one place of a kernel as large as the map, with nothing padded.
fn covers(pool: &NodeProto, map: &[usize]) -> bool {
    let kernel = ints(pool, "kernel_shape").unwrap_or_default();
    let is = |name: &str, value: i64| {
        ints(pool, name).unwrap_or_default().iter().all(|number| *number == value)
    };
    let fits = map.get(2..).is_some_and(|space| {
        kernel.iter().map(|k| usize::try_from(*k).ok()).eq(space.iter().map(|side| Some(*side)))
    });
    let pads_itself = text(pool, "auto_pad").is_some_and(|mode| mode.starts_with(b"SAME"));
    fits && !pads_itself && is("pads", 0) && is("dilations", 1)
}

/// The feature map whose mean over space is the tensor `embedding`, if it is one: then a linear
/// classifier behind it has a closed form for Grad-CAM.
pub(super) fn pooled_from(structure: &Structure<'_>, embedding: &str) -> Option<String> {
    let search = Search { structure, producers: producers(structure.nodes) };
    search.pooled_from(embedding).map(ToOwned::to_owned)
}
