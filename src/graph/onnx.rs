//! Decodes an ONNX file and distrusts it: whatever is wrong is found here, before tract sees it.
//!
//! Format: <https://github.com/onnx/onnx/blob/main/docs/IR.md>.

use std::collections::{HashMap, HashSet};

use half::f16;
use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use super::GraphError;
use crate::vision::TensorLayout;

/// Networks for images have hundreds of nodes; NASNet has some 1,500.
const MAX_NODES: usize = 50_000;
/// Oldest and newest operator sets that are let in. The oldest files of the ONNX zoo have set 3;
/// operators that changed their meaning since are caught by tract.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=25;

/// A checked ONNX model: one graph without subgraphs, all data inside, weights that are numbers, every tensor
/// produced once, every operator known to tract.
#[derive(Clone)]
pub(super) struct OnnxModel {
    proto: ModelProto,
    operators: tract_onnx::Onnx,
}

impl OnnxModel {
    /// Decodes and checks `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, GraphError> {
        let operators = tract_onnx::onnx().with_ignore_value_info(true);
        // tract's own reader would copy the whole file first, 14 MB for MobileNetV2.
        let proto = ModelProto::decode(bytes)
            .map_err(|error| GraphError::Malformed(format!("{error:#}")))?;
        let model = Self { proto, operators };
        model.check()?;
        Ok(model)
    }

    pub(super) fn graph(&self) -> &GraphProto {
        // `parse` has refused models without a graph.
        self.proto.graph.as_ref().expect("a checked model has a graph")
    }

    fn graph_mut(&mut self) -> &mut GraphProto {
        self.proto.graph.as_mut().expect("a checked model has a graph")
    }

    pub(super) fn proto(&self) -> &ModelProto {
        &self.proto
    }

    pub(super) fn into_proto(self) -> ModelProto {
        self.proto
    }

    pub(super) fn operators(&self) -> &tract_onnx::Onnx {
        &self.operators
    }

    /// The newest version of the standard operators that the file asks for.
    pub(super) fn opset(&self) -> i64 {
        let standard = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let versions = self.proto.opset_import.iter().filter(|o| standard(&o.domain));
        versions.map(|o| o.version).max().unwrap_or(1)
    }

    /// Removes nodes, initialisers and inputs that none of `outputs` needs, and makes `outputs` the
    /// outputs of the graph.
    pub(super) fn keep_only(&mut self, outputs: &[&str]) {
        let graph = self.graph_mut();
        let mut needed: HashSet<String> = outputs.iter().map(ToString::to_string).collect();
        // The nodes were sorted by `sort_nodes`: one backward sweep sees every consumer first.
        let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node).into_iter().rev() {
            if node.output.iter().any(|name| needed.contains(name)) {
                needed.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        graph.node = kept;
        graph.initializer.retain(|tensor| needed.contains(&tensor.name));
        let weights: HashSet<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
        graph.input.retain(|i| needed.contains(&i.name) && !weights.contains(&i.name));
        graph.output = outputs
            .iter()
            .map(|name| ValueInfoProto { name: (*name).to_owned(), ..Default::default() })
            .collect();
    }

    /// Gives the input `name` a concrete shape.
    pub(super) fn set_input_shape(&mut self, name: &str, shape: [usize; 4]) {
        let dim = shape
            .iter()
            .map(|&extent| Dimension {
                value: Some(dimension::Value::DimValue(extent as i64)),
                ..Default::default()
            })
            .collect();
        let tensor = type_proto::Tensor {
            elem_type: DataType::Float as i32,
            shape: Some(TensorShapeProto { dim }),
        };
        for input in self.graph_mut().input.iter_mut().filter(|input| input.name == name) {
            let value = Some(type_proto::Value::TensorType(tensor.clone()));
            input.r#type = Some(TypeProto { value, ..Default::default() });
        }
    }

    /// Adds a global average pooling of `input`, whose output is `output`.
    pub(super) fn add_global_average_pool(
        &mut self,
        input: &str,
        layout: TensorLayout,
        output: &str,
    ) {
        let node = |operator: &str, input: &str, output: &str| NodeProto {
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            ..Default::default()
        };
        let nodes = &mut self.graph_mut().node;
        match layout {
            TensorLayout::Nchw => nodes.push(node("GlobalAveragePool", input, output)),
            // The operator averages over all axes but the first two.
            TensorLayout::Nhwc => {
                let turned = format!("{output}.channels_first");
                let permutation = AttributeProto {
                    name: "perm".to_owned(),
                    r#type: AttributeType::Ints as i32,
                    ints: vec![0, 3, 1, 2],
                    ..Default::default()
                };
                nodes.push(NodeProto {
                    attribute: vec![permutation],
                    ..node("Transpose", input, &turned)
                });
                nodes.push(node("GlobalAveragePool", &turned, output));
            }
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        let malformed = |text: String| Err(GraphError::Malformed(text));
        let Some(graph) = &self.proto.graph else {
            return malformed("it contains no graph".into());
        };
        if graph.output.is_empty() || graph.node.is_empty() {
            return malformed("its graph has no nodes or no outputs".into());
        }
        if graph.node.len() > MAX_NODES {
            return malformed(format!("{} nodes; at most {MAX_NODES} are taken", graph.node.len()));
        }
        if !OPSETS.contains(&self.opset()) {
            let (opset, oldest, newest) = (self.opset(), OPSETS.start(), OPSETS.end());
            return malformed(format!("operator set {opset}; {oldest} to {newest} are supported"));
        }
        if !graph.sparse_initializer.is_empty() {
            return malformed("sparse weights are not supported".into());
        }
        graph.initializer.iter().try_for_each(check_tensor)?;
        graph.node.iter().try_for_each(|node| self.check_node(node))?;
        check_single_assignment(graph)
    }

    fn check_node(&self, node: &NodeProto) -> Result<(), GraphError> {
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        let known = self.operators.op_register.0.contains_key(&node.op_type);
        let has_subgraph = node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
        if !standard || !known || has_subgraph {
            let operator = match node.domain.as_str() {
                "" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            };
            return Err(GraphError::UnsupportedOperator { operator, node: node_name(node) });
        }
        node.attribute.iter().try_for_each(check_attribute)
    }
}

/// The node's own name or, where it has none, its first output.
pub(super) fn node_name(node: &NodeProto) -> String {
    if node.name.is_empty() {
        node.output.first().cloned().unwrap_or_default()
    } else {
        node.name.clone()
    }
}

/// An integer-list attribute.
pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice())
}

/// An attribute that is a text.
pub(super) fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.s.as_slice())
}

/// The short lists of whole numbers that the file holds (axes, shapes), by tensor name: initialisers
/// and outputs of `Constant` nodes.
pub(super) fn integers(graph: &GraphProto) -> HashMap<String, Vec<i64>> {
    const SHORT: usize = 16;
    let read = |tensor: &TensorProto| -> Option<Vec<i64>> {
        if tensor.data_type != DataType::Int64 as i32 {
            return None;
        }
        let values = match tensor.int64_data.as_slice() {
            [] => tensor.raw_data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            values => values.to_vec(),
        };
        (values.len() <= SHORT).then_some(values)
    };
    let constants =
        graph.node.iter().filter(|node| node.op_type == "Constant").filter_map(|node| {
            let value = node.attribute.iter().find(|a| a.name == "value")?.t.as_ref()?;
            Some((node.output.first()?.clone(), read(value)?))
        });
    let weights = graph.initializer.iter();
    let weights = weights.filter_map(|tensor| Some((tensor.name.clone(), read(tensor)?)));
    weights.chain(constants).collect()
}

/// The declared shape of an input: `None` for an axis that is symbolic or not given.
pub(super) fn declared_shape(input: &ValueInfoProto) -> Option<Vec<Option<usize>>> {
    let type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    let extent = |dim: &Dimension| match &dim.value {
        Some(dimension::Value::DimValue(value)) if *value > 0 => usize::try_from(*value).ok(),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(extent).collect())
}

fn check_attribute(attribute: &AttributeProto) -> Result<(), GraphError> {
    if attribute.r#type == AttributeType::SparseTensor as i32 {
        return Err(GraphError::Malformed("sparse constants are not supported".into()));
    }
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)
}

fn check_tensor(tensor: &TensorProto) -> Result<(), GraphError> {
    let name = || tensor.name.chars().take(200).collect::<String>();
    let malformed = |text: &str| Err(GraphError::Malformed(format!("tensor {:?} {text}", name())));
    let external = tensor.data_location == Some(DataLocation::External as i32);
    if external || !tensor.external_data.is_empty() {
        return Err(GraphError::ExternalData(name()));
    }
    let count = tensor
        .dims
        .iter()
        .try_fold(1_usize, |product, &extent| product.checked_mul(usize::try_from(extent).ok()?));
    let Some(count) = count else { return malformed("has a negative or immense shape") };
    let Ok(data_type) = DataType::try_from(tensor.data_type) else {
        return malformed("has an unknown data type");
    };
    #[allow(clippy::wildcard_enum_match_arm, clippy::match_same_arms)]
    // a closed list of what is let in
    let (width, unpacked) = match data_type {
        DataType::Float => (4, tensor.float_data.len()),
        DataType::Double => (8, tensor.double_data.len()),
        DataType::Float16 => (2, tensor.int32_data.len()),
        DataType::Bool | DataType::Uint8 | DataType::Int8 => (1, tensor.int32_data.len()),
        DataType::Uint16 | DataType::Int16 => (2, tensor.int32_data.len()),
        DataType::Int32 | DataType::Uint32 => (4, tensor.int32_data.len()),
        DataType::Int64 | DataType::Uint64 => (8, tensor.int64_data.len()),
        _ => return malformed("has a data type that image networks do not need"),
    };
    let available =
        if tensor.raw_data.is_empty() { unpacked } else { tensor.raw_data.len() / width };
    if available != count || !tensor.raw_data.len().is_multiple_of(width) {
        return malformed(&format!("declares {count} values but carries {available}"));
    }
    if all_numbers(tensor, data_type, count) { Ok(()) } else { Err(GraphError::NotFinite(name())) }
}

/// Whether no value is NaN, and none of several is infinite. A single value may be: it is what a pooling
/// is padded with, or the open end of a clip.
fn all_numbers(tensor: &TensorProto, data_type: DataType, count: usize) -> bool {
    let raw = &tensor.raw_data;
    let fits = |value: f64| value.is_finite() || count == 1 && !value.is_nan();
    #[allow(clippy::wildcard_enum_match_arm)] // every other type holds integers
    match data_type {
        DataType::Float => {
            let (words, _) = raw.as_chunks::<4>();
            words.iter().all(|word| fits(f32::from_le_bytes(*word).into()))
                && tensor.float_data.iter().all(|&value| fits(value.into()))
        }
        DataType::Double => {
            let (words, _) = raw.as_chunks::<8>();
            words.iter().all(|word| fits(f64::from_le_bytes(*word)))
                && tensor.double_data.iter().all(|&value| fits(value))
        }
        DataType::Float16 => {
            let (words, _) = raw.as_chunks::<2>();
            words.iter().all(|word| fits(f16::from_le_bytes(*word).into()))
                && tensor.int32_data.iter().all(|&bits| fits(f16::from_bits(bits as u16).into()))
        }
        _ => true,
    }
}

fn check_single_assignment(graph: &GraphProto) -> Result<(), GraphError> {
    let malformed = |text: String| Err(GraphError::Malformed(text));
    let mut produced = HashSet::new();
    for tensor in &graph.initializer {
        if !produced.insert(tensor.name.as_str()) {
            return malformed(format!("weight {:?} is there twice", tensor.name));
        }
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        if !inputs.insert(input.name.as_str()) {
            return malformed(format!("input {:?} is there twice", input.name));
        }
        produced.insert(&input.name);
    }
    let mut nodes = HashSet::new();
    for node in &graph.node {
        if !node.name.is_empty() && !nodes.insert(node.name.as_str()) {
            return malformed(format!("two nodes are called {:?}", node.name));
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if !produced.insert(output) {
                return malformed(format!("tensor {output:?} is produced twice"));
            }
        }
    }
    let missing = graph
        .node
        .iter()
        .flat_map(|node| &node.input)
        .chain(graph.output.iter().map(|output| &output.name))
        .find(|name| !name.is_empty() && !produced.contains(name.as_str()));
    missing.map_or(Ok(()), |name| malformed(format!("tensor {name:?} is used but never produced")))
}

/// Puts the nodes into an order in which every tensor is produced before it is used.
pub(super) fn sort_nodes(model: &mut OnnxModel) -> Result<(), GraphError> {
    let graph = model.graph_mut();
    let order = super::topology::order(&graph.node)?;
    let mut nodes: Vec<Option<NodeProto>> =
        std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    graph.node = order.into_iter().filter_map(|index| nodes[index].take()).collect();
    Ok(())
}
