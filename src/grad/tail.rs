//! The part of a graph between an outlet and a target, as a graph of its own.
//!
//! Occluding methods change a feature map and ask what becomes of the score; with the tail they do
//! not pay for the trunk again. The outlet need not be a waist: what else flows into the tail
//! (skip connections from further up) becomes further inputs, held at the values of the first run.

use std::collections::{HashMap, HashSet};

use tract_onnx::prelude::{OutletId, TractResult, TypedModel};
use tract_onnx::tract_core::model::SpecialOps;

use super::error::GradError;
use super::reverse::graph_error;
use crate::graph::{GraphError, Plan};

/// A graph from some outlets of another one to a target.
#[derive(Debug, Clone)]
pub struct Tail {
    /// The graph: its first input is the outlet, then those of [`Tail::frontier`]; its output is
    /// the target.
    pub model: TypedModel,
    /// The other outlets of the whole graph that flow in, in input order after the first.
    pub frontier: Vec<OutletId>,
}

impl Tail {
    /// Cuts `model` at `from`, which may be `to` itself; everything that does not depend on `from` stays
    /// outside.
    ///
    /// # Errors
    /// [`GradError::Graph`] where `to` does not depend on `from`.
    pub fn new(model: &TypedModel, from: OutletId, to: OutletId) -> Result<Tail, GradError> {
        let name = &model.node(from.node).name;
        let order = model.eval_order().map_err(|error| graph_error(name, &error))?;
        let mut inside: HashSet<usize> = HashSet::new();
        for &id in &order {
            let reads = |input: &OutletId| *input == from || inside.contains(&input.node);
            if model.node(id).inputs.iter().any(reads) {
                inside.insert(id);
            }
        }
        if to != from && !inside.contains(&to.node) {
            return Err(graph_error(name, &"the score does not depend on it"));
        }
        let needed = ancestors(model, to, &inside);
        build(model, from, to, order.into_iter().filter(|id| needed.contains(id)))
            .map_err(|error| graph_error(name, &error))
    }

    /// Optimises the tail for running: its inputs are the outlet and the frontier, its one output the
    /// target.
    ///
    /// # Errors
    /// Where tract cannot.
    pub fn plan(&self) -> Result<Plan, GraphError> {
        Plan::build(&self.model, &self.model.outputs)
    }
}

/// Nodes of `inside` that `to` depends on.
fn ancestors(model: &TypedModel, to: OutletId, inside: &HashSet<usize>) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut pending = vec![to.node];
    while let Some(id) = pending.pop() {
        if inside.contains(&id) && found.insert(id) {
            pending.extend(model.node(id).inputs.iter().map(|input| input.node));
        }
    }
    found
}

fn build(
    model: &TypedModel,
    from: OutletId,
    to: OutletId,
    nodes: impl Iterator<Item = usize>,
) -> TractResult<Tail> {
    let mut tail = TypedModel::default();
    let mut frontier = Vec::new();
    let mut wires: HashMap<OutletId, OutletId> = HashMap::new();
    let source = |tail: &mut TypedModel, outlet: OutletId| {
        let name = format!("{}.{}", model.node(outlet.node).name, outlet.slot);
        tail.add_source(name, model.outlet_fact(outlet)?.without_value())
    };
    wires.insert(from, source(&mut tail, from)?);
    for id in nodes {
        let node = model.node(id);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            let constant = &model.outlet_fact(*input)?.konst;
            let wire = if let Some(wire) = wires.get(input) {
                *wire
            } else if let Some(constant) = constant {
                let name = format!("{}.{}", model.node(input.node).name, input.slot);
                tail.add_const(name, constant.clone())?
            } else {
                frontier.push(*input);
                source(&mut tail, *input)?
            };
            wires.insert(*input, wire);
            inputs.push(wire);
        }
        let outputs = tail.wire_node(&node.name, node.op.clone(), &inputs)?;
        for (slot, wire) in outputs.into_iter().enumerate() {
            wires.insert(OutletId::new(id, slot), wire);
        }
    }
    tail.select_output_outlets(&[wires[&to]])?;
    Ok(Tail { model: tail, frontier })
}
