//! A network with other operators in the place of its classifier, as a complete ONNX file.

use std::collections::HashSet;

use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use super::onnx::OnnxModel;

/// The tensor that an [`Extension`] starts from: the embedding as `[batch, width]`.
pub const EMBEDDING: &str = "embedding";

/// Operators to be appended behind the embedding. Tensors have local names, which the export makes
/// unlike any in the network; outputs keep theirs as far as the network does not use them.
#[derive(Debug, Clone, Default)]
pub struct Extension {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    outputs: Vec<(String, usize)>,
    metadata: Vec<(String, String)>,
}

impl Extension {
    /// Appends the standard operator `operator` and returns its first output, which is called
    /// `output`.
    pub fn node(&mut self, operator: &str, inputs: &[&str], output: &str) -> String {
        self.node_with(operator, inputs, &[output], &[])
    }

    /// As [`Extension::node`], with several outputs and integer attributes.
    pub fn node_with(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, i64)],
    ) -> String {
        let attribute = attributes
            .iter()
            .map(|&(name, value)| AttributeProto {
                name: name.to_owned(),
                r#type: AttributeType::Int as i32,
                i: value,
                ..Default::default()
            })
            .collect();
        self.nodes.push(NodeProto {
            op_type: operator.to_owned(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            attribute,
            ..Default::default()
        });
        outputs.first().map(ToString::to_string).unwrap_or_default()
    }

    /// Adds a constant of 32-bit floats.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, shape, DataType::Float, bytes)
    }

    /// Adds a constant of 64-bit integers.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, &[values.len()], DataType::Int64, bytes)
    }

    /// Declares an output of the file: `[batch, width]`.
    pub fn output(&mut self, name: &str, width: usize) {
        self.outputs.push((name.to_owned(), width));
    }

    /// Adds an entry to the file's metadata.
    pub fn metadata(&mut self, key: &str, value: String) {
        self.metadata.push((key.to_owned(), value));
    }

    fn constant(
        &mut self,
        name: &str,
        shape: &[usize],
        data_type: DataType,
        raw_data: Vec<u8>,
    ) -> String {
        self.constants.push(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|&extent| extent as i64).collect(),
            data_type: data_type as i32,
            raw_data,
            ..Default::default()
        });
        name.to_owned()
    }
}

/// Cuts `model` (its nodes sorted) at the tensor `embedding`, appends `extension` and encodes the
/// whole.
pub(super) fn encode(mut model: OnnxModel, embedding: &str, extension: &Extension) -> Vec<u8> {
    model.keep_only(&[embedding]);
    let mut proto = model.into_proto();
    let Some(graph) = &mut proto.graph else { return Vec::new() };
    let taken: HashSet<String> = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().cloned().chain([node.name.clone()]))
        .chain(graph.initializer.iter().map(|tensor| tensor.name.clone()))
        .chain(graph.input.iter().map(|input| input.name.clone()))
        .collect();
    let outputs: HashSet<&str> = extension.outputs.iter().map(|(name, _)| name.as_str()).collect();
    let global = |local: &str| {
        let mut name =
            if outputs.contains(local) { local.to_owned() } else { format!("head/{local}") };
        while taken.contains(&name) {
            name.push('_');
        }
        name
    };
    graph.value_info.clear();
    graph.node.push(NodeProto {
        op_type: "Flatten".to_owned(),
        name: global(EMBEDDING),
        input: vec![embedding.to_owned()],
        output: vec![global(EMBEDDING)],
        ..Default::default()
    });
    for node in &extension.nodes {
        let rename = |names: &[String]| names.iter().map(|name| global(name)).collect();
        let (input, output): (Vec<_>, Vec<_>) = (rename(&node.input), rename(&node.output));
        let name = output.first().cloned().unwrap_or_default();
        graph.node.push(NodeProto { name, input, output, ..node.clone() });
    }
    for constant in &extension.constants {
        graph.initializer.push(TensorProto { name: global(&constant.name), ..constant.clone() });
    }
    graph.output =
        extension.outputs.iter().map(|(name, width)| declare(global(name), *width)).collect();
    for (key, value) in &extension.metadata {
        proto
            .metadata_props
            .push(StringStringEntryProto { key: key.clone(), value: value.clone() });
    }
    proto.encode_to_vec()
}

fn declare(name: String, width: usize) -> ValueInfoProto {
    let dim = |value| Dimension { value: Some(value), ..Default::default() };
    let batch = dim(dimension::Value::DimParam("batch".to_owned()));
    let width = dim(dimension::Value::DimValue(width as i64));
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto { dim: vec![batch, width] }),
    };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name,
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}
