//! The tensors between image and score, as they are listed and explained.

use std::collections::HashSet;

use super::anatomy::Structure;
use super::onnx::node_name;
use super::{layout, topology};
use crate::vision::TensorLayout;

/// A tensor that the network computes on the way from image to logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The ONNX tensor.
    pub name: String,
    /// The ONNX node that computes it.
    pub node: String,
    /// Type of that node, for example `Conv`.
    pub operator: String,
    /// Extents in the ONNX file's order of axes, batch 1 included.
    pub shape: Vec<usize>,
    /// Order of the axes, where there are four and they can be told.
    pub layout: Option<TensorLayout>,
    /// Height x width > 1: a heat map can be made.
    pub spatial: bool,
    /// Every path from image to logits passes here with this tensor alone: the network can be cut.
    pub waist: bool,
    /// The logits depend on it: what the network's own classifier says can be explained here.
    pub before_logits: bool,
    /// The embedding depends on it or is it: what a head says can be explained here. Where the
    /// classifier comes before the pooling (`SqueezeNet`), the last layers are behind the embedding.
    pub before_embedding: bool,
}

/// Every tensor between image and logits, in the order of the computation. `data` are the tensors that
/// depend on the image.
pub(super) fn describe(
    structure: &Structure<'_>,
    data: &HashSet<&str>,
    waists: &HashSet<String>,
    logits: &str,
    embedding: &str,
) -> Vec<Layer> {
    let scored = topology::ancestors(structure.nodes, logits);
    let embedded = topology::ancestors(structure.nodes, embedding);
    let mut layers = Vec::new();
    for (index, node) in structure.nodes.iter().enumerate() {
        let carries = node.input.iter().any(|name| data.contains(name.as_str()));
        if !carries || matches!(node.op_type.as_str(), "Shape" | "Size") {
            continue;
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            let Some(shape) = structure.shapes.get(name.as_str()).cloned() else { continue };
            let layout = structure.layouts.get(name.as_str()).copied();
            let extents = layout.and_then(|layout| layout::extents(layout, &shape));
            layers.push(Layer {
                name: name.clone(),
                node: node_name(node),
                operator: node.op_type.clone(),
                spatial: extents.is_some_and(|(_, height, width)| height * width > 1),
                waist: waists.contains(name.as_str()),
                before_logits: scored.contains(&index),
                before_embedding: embedded.contains(&index),
                shape,
                layout,
            });
        }
        if node.output.iter().any(|name| name == logits) {
            break;
        }
    }
    layers
}

/// The name of the last spatial layer among `those` that computes something, a waist if there is one.
pub(super) fn last_spatial(layers: &[Layer], those: impl Fn(&Layer) -> bool) -> Option<String> {
    let computes = |layer: &&Layer| {
        let renames = ["Identity", "Dropout", "Transpose", "Reshape", "Cast"];
        layer.spatial && those(layer) && !renames.contains(&layer.operator.as_str())
    };
    let mut computing = layers.iter().rev().filter(computes);
    let last = computing.clone().find(|layer| layer.waist).or_else(|| computing.next());
    last.map(|layer| layer.name.clone())
}
