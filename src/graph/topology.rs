//! Order and cuts of the graph of ONNX nodes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use tract_onnx::pb::NodeProto;

use super::GraphError;
use super::onnx::node_name;

/// An order of node indices in which every tensor is produced before it is used (Kahn 1962). Nodes
/// keep the file's order as far as it allows.
///
/// # Errors
/// A cycle, naming one of its nodes.
pub(super) fn order(nodes: &[NodeProto]) -> Result<Vec<usize>, GraphError> {
    let producers = producers(nodes);
    let mut waiting: Vec<usize> = vec![0; nodes.len()];
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.input {
            if let Some(&producer) = producers.get(input.as_str()) {
                consumers[producer].push(index);
                waiting[index] += 1;
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &consumer in &consumers[index] {
            waiting[consumer] -= 1;
            if waiting[consumer] == 0 {
                ready.push(Reverse(consumer));
            }
        }
    }
    match waiting.iter().position(|&count| count > 0) {
        Some(stuck) => {
            let name = node_name(&nodes[stuck]);
            Err(GraphError::Malformed(format!("the graph has a cycle through node {name:?}")))
        }
        None => Ok(order),
    }
}

/// Which node produces a tensor.
pub(super) fn producers(nodes: &[NodeProto]) -> HashMap<&str, usize> {
    let outputs = |(index, node)| {
        let node: &NodeProto = node;
        node.output.iter().filter(|name| !name.is_empty()).map(move |name| (name.as_str(), index))
    };
    nodes.iter().enumerate().flat_map(outputs).collect()
}

/// The tensors through which, one at a time, everything passes that `output` learns of `input`, in
/// the order of the computation, without `input` itself and ending with `output`. `nodes` must be
/// sorted.
///
/// Shapes are constants here (the input's size is fixed), so what passes through `Shape` is none of
/// the data.
///
/// Why one sweep suffices: every node on a path from `input` to `output` lies before or behind a
/// waist, so in any topological order the waist is, right after it was produced, the only tensor
/// that somebody still waits for.
pub(super) fn waists(nodes: &[NodeProto], input: &str, output: &str) -> Vec<String> {
    let reaching = ancestors(nodes, output);
    let mut carries_data: HashSet<&str> = HashSet::from([input]);
    let on_path: Vec<usize> = (0..nodes.len())
        .filter(|&index| {
            let node = &nodes[index];
            let fed = node.input.iter().any(|name| carries_data.contains(name.as_str()));
            let carries = fed && !matches!(node.op_type.as_str(), "Shape" | "Size");
            if carries {
                carries_data.extend(node.output.iter().map(String::as_str));
            }
            carries && reaching.contains(&index)
        })
        .collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for &index in &on_path {
        for name in nodes[index].input.iter().filter(|name| carries_data.contains(name.as_str())) {
            *uses.entry(name).or_default() += 1;
        }
    }
    *uses.entry(output).or_default() += 1;
    let mut open: HashMap<&str, usize> =
        HashMap::from([(input, uses.get(input).copied().unwrap_or(0))]);
    let mut waists = Vec::new();
    for &index in &on_path {
        for name in &nodes[index].input {
            if let Some(left) = open.get_mut(name.as_str()) {
                *left -= 1;
                if *left == 0 {
                    open.remove(name.as_str());
                }
            }
        }
        for name in &nodes[index].output {
            if let Some(&count) = uses.get(name.as_str()) {
                open.insert(name, count);
            }
        }
        if open.len() == 1 {
            waists.extend(open.keys().map(ToString::to_string));
        }
    }
    waists.dedup();
    waists
}

/// The nodes that `output` depends on, by index.
pub(super) fn ancestors(nodes: &[NodeProto], output: &str) -> HashSet<usize> {
    let producers = producers(nodes);
    let mut seen = HashSet::new();
    let mut pending: Vec<usize> = producers.get(output).copied().into_iter().collect();
    while let Some(index) = pending.pop() {
        if seen.insert(index) {
            pending
                .extend(nodes[index].input.iter().filter_map(|name| producers.get(name.as_str())));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_residual_branch_hides_its_inside_from_the_waists() {
        let nodes = [
            node("Conv", &["x", "w"], "stem"),
            node("Conv", &["stem", "w"], "inside"),
            node("Add", &["stem", "inside"], "sum"),
            node("Relu", &["sum"], "relu"),
        ];
        assert_eq!(waists(&nodes, "x", "relu"), ["stem", "sum", "relu"]);
    }

    #[test]
    fn a_shape_computation_is_not_a_second_way() {
        let nodes = [
            node("Conv", &["x", "w"], "map"),
            node("Shape", &["map"], "shape"),
            node("Relu", &["map"], "relu"),
            node("Reshape", &["relu", "shape"], "flat"),
        ];
        assert_eq!(waists(&nodes, "x", "flat"), ["map", "relu", "flat"]);
    }

    #[test]
    fn two_branches_that_meet_only_at_the_end_have_no_waist_between() {
        let nodes = [
            node("Conv", &["x", "w"], "a"),
            node("Conv", &["x", "w"], "b"),
            node("Concat", &["a", "b"], "c"),
        ];
        assert_eq!(waists(&nodes, "x", "c"), ["c"]);
    }

    #[test]
    fn a_cycle_is_an_error_that_names_a_node() {
        let nodes = [node("Relu", &["b"], "a"), node("Relu", &["a"], "b")];
        let error = order(&nodes).unwrap_err().to_string();
        assert!(error.contains("cycle") && error.contains("\"a\""), "{error}");
    }

    #[test]
    fn nodes_in_any_order_of_the_file_are_sorted() {
        let nodes = [node("Relu", &["a"], "b"), node("Relu", &["x"], "a")];
        assert_eq!(order(&nodes).unwrap(), [1, 0]);
    }
}
