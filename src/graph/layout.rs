//! Which axes of a tensor are height and width.
//!
//! ONNX's convolutions and poolings know only one layout (batch, channels, height, width), but
//! exports from TensorFlow enter with channels last and transpose on the way. The layout of every
//! tensor follows from its producer and from what it was made of.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::onnx::ints;
use crate::vision::TensorLayout;

/// Operators whose output is by definition batch, channels, height, width.
const CHANNELS_FIRST: [&str; 12] = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "BatchNormalization",
    "InstanceNormalization",
    "LRN",
    "DepthToSpace",
    "SpaceToDepth",
];

/// The layout of the network's input: three (or one) channels in front or at the end; if both or
/// neither could be, what the first operator that takes it expects.
pub(super) fn of_input(
    shape: &[Option<usize>],
    nodes: &[NodeProto],
    input: &str,
) -> Option<TensorLayout> {
    let channels = |axis: usize| matches!(shape.get(axis), Some(Some(1 | 3)));
    match (channels(1), channels(3)) {
        (true, false) => return Some(TensorLayout::Nchw),
        (false, true) => return Some(TensorLayout::Nhwc),
        _ => {}
    }
    let consumer = nodes.iter().find(|node| node.input.iter().any(|name| name == input))?;
    if CHANNELS_FIRST.contains(&consumer.op_type.as_str()) {
        Some(TensorLayout::Nchw)
    } else if consumer.op_type == "Transpose" && ints(consumer, "perm") == Some(&[0, 3, 1, 2]) {
        Some(TensorLayout::Nhwc)
    } else {
        None
    }
}

/// The layouts of all tensors with four axes for which one can be told. `nodes` must be sorted.
pub(super) fn of_tensors(
    nodes: &[NodeProto],
    input: &str,
    input_layout: TensorLayout,
    shapes: &HashMap<String, Vec<usize>>,
) -> HashMap<String, TensorLayout> {
    // What a tensor was made of, also where it has for a while another number of axes (a channel
    // shuffle reshapes to five and back).
    let mut origin: HashMap<&str, (TensorLayout, Vec<usize>)> = HashMap::new();
    let rank_four = |name: &str| shapes.get(name).filter(|shape| shape.len() == 4);
    if let Some(shape) = rank_four(input) {
        origin.insert(input, (input_layout, shape.clone()));
    }
    let mut layouts = HashMap::from([(input.to_owned(), input_layout)]);
    for node in nodes {
        let source = node.input.iter().find_map(|name| origin.get(name.as_str())).cloned();
        for output in &node.output {
            let Some(shape) = rank_four(output) else {
                origin.extend(source.clone().map(|source| (output.as_str(), source)));
                continue;
            };
            let layout = if CHANNELS_FIRST.contains(&node.op_type.as_str()) {
                Some(TensorLayout::Nchw)
            } else {
                source.as_ref().and_then(|(layout, from)| inherit(node, *layout, from, shape))
            };
            if let Some(layout) = layout {
                layouts.insert(output.clone(), layout);
                origin.insert(output, (layout, shape.clone()));
            }
        }
    }
    layouts
}

fn inherit(
    node: &NodeProto,
    layout: TensorLayout,
    from: &[usize],
    to: &[usize],
) -> Option<TensorLayout> {
    match node.op_type.as_str() {
        "Transpose" => match (layout, ints(node, "perm")?) {
            (_, [0, 1, 2, 3]) => Some(layout),
            (TensorLayout::Nchw, [0, 2, 3, 1]) => Some(TensorLayout::Nhwc),
            (TensorLayout::Nhwc, [0, 3, 1, 2]) => Some(TensorLayout::Nchw),
            _ => None,
        },
        "Reshape" => (space(layout, from) == space(layout, to)).then_some(layout),
        _ => Some(layout),
    }
}

/// Height and width.
fn space(layout: TensorLayout, shape: &[usize]) -> (usize, usize) {
    match layout {
        TensorLayout::Nchw => (shape[2], shape[3]),
        TensorLayout::Nhwc => (shape[1], shape[2]),
    }
}

/// Channels, height and width of a tensor with four axes.
pub(super) fn extents(layout: TensorLayout, shape: &[usize]) -> Option<(usize, usize, usize)> {
    let (height, width) = (shape.len() == 4).then(|| space(layout, shape))?;
    let channels = match layout {
        TensorLayout::Nchw => shape[1],
        TensorLayout::Nhwc => shape[3],
    };
    Some((channels, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::AttributeProto;

    fn node(op: &str, input: &str, output: &str, perm: &[i64]) -> NodeProto {
        let attribute =
            AttributeProto { name: "perm".into(), ints: perm.to_vec(), ..Default::default() };
        NodeProto {
            op_type: op.into(),
            input: vec![input.into()],
            output: vec![output.into()],
            attribute: vec![attribute],
            ..Default::default()
        }
    }

    #[test]
    fn a_transpose_turns_channels_last_into_channels_first_and_back() {
        let nodes = [
            node("Transpose", "x", "first", &[0, 3, 1, 2]),
            node("Conv", "first", "map", &[]),
            node("Transpose", "map", "last", &[0, 2, 3, 1]),
            node("Relu", "last", "relu", &[]),
        ];
        let shape = |s: [usize; 4]| s.to_vec();
        let shapes = HashMap::from([
            ("x".into(), shape([1, 8, 8, 3])),
            ("first".into(), shape([1, 3, 8, 8])),
            ("map".into(), shape([1, 5, 8, 8])),
            ("last".into(), shape([1, 8, 8, 5])),
            ("relu".into(), shape([1, 8, 8, 5])),
        ]);
        let layouts = of_tensors(&nodes, "x", TensorLayout::Nhwc, &shapes);
        assert_eq!(layouts["first"], TensorLayout::Nchw);
        assert_eq!(layouts["map"], TensorLayout::Nchw);
        assert_eq!(layouts["relu"], TensorLayout::Nhwc);
    }

    #[test]
    fn a_channel_shuffle_through_five_axes_keeps_the_layout() {
        let nodes = [
            node("Conv", "x", "map", &[]),
            node("Reshape", "map", "five", &[]),
            node("Transpose", "five", "swapped", &[0, 2, 1, 3, 4]),
            node("Reshape", "swapped", "shuffled", &[]),
            node("Reshape", "shuffled", "flat", &[]),
        ];
        let shapes = HashMap::from([
            ("x".into(), vec![1, 3, 8, 8]),
            ("map".into(), vec![1, 4, 8, 8]),
            ("five".into(), vec![1, 2, 2, 8, 8]),
            ("swapped".into(), vec![1, 2, 2, 8, 8]),
            ("shuffled".into(), vec![1, 4, 8, 8]),
            ("flat".into(), vec![1, 256, 1, 1]),
        ]);
        let layouts = of_tensors(&nodes, "x", TensorLayout::Nchw, &shapes);
        assert_eq!(layouts.get("shuffled"), Some(&TensorLayout::Nchw));
        assert_eq!(layouts.get("flat"), None);
    }

    #[test]
    fn three_channels_tell_the_layout_of_the_input() {
        assert_eq!(of_input(&[None, Some(3), None, None], &[], "x"), Some(TensorLayout::Nchw));
        assert_eq!(of_input(&[None, None, None, Some(3)], &[], "x"), Some(TensorLayout::Nhwc));
        let conv = [node("Conv", "x", "y", &[])];
        assert_eq!(of_input(&[None; 4], &conv, "x"), Some(TensorLayout::Nchw));
    }
}
