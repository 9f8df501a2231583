//! ONNX files made by a test: nodes named after their outputs, weights from a fixed pattern.

use std::borrow::Cow;

use graftd::graph::{GraphError, Network, Options, Overrides, Source};
use prost::Message as _;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

/// A node with one output, called `<output>_node`.
pub fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{output}_node"),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

/// The node with an attribute more.
pub trait With {
    fn with_int(self, name: &str, value: i64) -> Self;
    fn with_ints(self, name: &str, values: &[i64]) -> Self;
    fn with_text(self, name: &str, value: &str) -> Self;
}

impl With for NodeProto {
    fn with_int(mut self, name: &str, value: i64) -> Self {
        self.attribute.push(AttributeProto { i: value, ..attribute(name, AttributeType::Int) });
        self
    }

    fn with_ints(mut self, name: &str, values: &[i64]) -> Self {
        self.attribute
            .push(AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) });
        self
    }

    fn with_text(mut self, name: &str, value: &str) -> Self {
        self.attribute
            .push(AttributeProto { s: value.into(), ..attribute(name, AttributeType::String) });
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind as i32, ..Default::default() }
}

/// Numbers from -0.3 to 0.3.
pub fn weights(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>() as usize;
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: (0..count).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect(),
        ..Default::default()
    }
}

/// Whole numbers.
pub fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

/// An input of the graph.
pub fn image(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim =
        |&extent: &i64| Dimension { value: Some(Value::DimValue(extent)), ..Default::default() };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

/// A model of the input `image` with this shape; its output is that of the last node.
pub fn model(shape: &[i64], nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> ModelProto {
    let output = nodes.last().map(|node| node.output[0].clone()).unwrap_or_default();
    let graph = GraphProto {
        node: nodes,
        initializer: weights,
        input: vec![image("image", shape)],
        output: vec![ValueInfoProto { name: output, ..Default::default() }],
        ..Default::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
        graph: Some(graph),
        ..Default::default()
    }
}

/// A network that can be worked out by hand: its only feature map, `map`, is the red channel; of its two
/// classes the first has the logit `slope` times the mean of that, the second 0.
pub fn brightness(slope: f32, side: i64) -> ModelProto {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv"),
        node("Relu", &["conv"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let mut kernel = weights("kernel", &[1, 3, 1, 1]);
    kernel.float_data = vec![1.0, 0.0, 0.0];
    let mut matrix = weights("matrix", &[1, 2]);
    matrix.float_data = vec![slope, 0.0];
    model(&[1, 3, side, side], nodes, vec![kernel, matrix])
}

/// Loads it as the daemon does.
pub fn load(model: &ModelProto) -> Result<Network, GraphError> {
    load_bytes(model.encode_to_vec())
}

/// Loads it with parts named by its user.
pub fn load_with(model: &ModelProto, overrides: Overrides) -> Result<Network, GraphError> {
    let source = Source::Bytes(Cow::Owned(model.encode_to_vec()));
    Network::load(source, &Options { overrides, ..Options::default() })
}

/// Loads a file.
pub fn load_bytes(bytes: Vec<u8>) -> Result<Network, GraphError> {
    Network::load(Source::Bytes(Cow::Owned(bytes)), &Options::default())
}
