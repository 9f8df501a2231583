//! The reverse sweep: from the cotangent of one outlet to those of others.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tract_onnx::prelude::{OutletId, Tensor, TypedModel};

use super::error::GradError;
use super::real::Real;
use super::rule::{Needs, Rule, Site, Values};
use super::table::{Entry, State, operator_of};
use crate::graph::Constants;

/// Where a step reads a forward value.
#[derive(Debug)]
enum Origin {
    /// A constant of the graph.
    Constant(Arc<Tensor>),
    /// The value with this index in [`Reverse::needed`].
    Forward(usize),
}

/// The reverse of one node.
#[derive(Debug)]
struct Step {
    rule: Box<dyn Rule>,
    /// Node, for messages.
    node: String,
    output: usize,
    /// For each input the slot that its cotangent is added to, `None` where none is wanted.
    inputs: Vec<Option<usize>>,
    wanted: Vec<bool>,
    input_values: Vec<Option<Origin>>,
    output_value: Option<Origin>,
}

/// Derivatives of one outlet by others, compiled for a graph of concrete shapes.
///
/// Compiling finds everything that can be missing. Running reads the forward values that
/// [`Reverse::needed`] lists, which an optimised plan with these outlets as outputs gives.
#[derive(Debug)]
pub struct Reverse {
    steps: Vec<Step>,
    needed: Vec<OutletId>,
    needed_len: Vec<usize>,
    slots: usize,
    seed: Option<usize>,
    seed_len: usize,
    /// Slot and length of each requested cotangent; no slot where the target does not depend on it.
    requested: Vec<(Option<usize>, usize)>,
}

impl Reverse {
    /// Compiles the derivative of outlet `of` by each outlet of `by`, which may be activations,
    /// the network's input, or constants (weights).
    ///
    /// # Errors
    /// [`GradError::Missing`] names the first operator on the way that has no rule.
    pub fn new(model: &TypedModel, of: OutletId, by: &[OutletId]) -> Result<Reverse, GradError> {
        let order = model.eval_order().map_err(|error| graph_error("the graph", &error))?;
        let active = Active::trace(model, &order, of, by)?;
        let mut slots = Slots::default();
        let mut needed = Vec::new();
        let mut steps = Vec::new();
        let seed = active.contains(of).then(|| slots.of(of));
        for &id in order.iter().rev() {
            if !active.nodes[id] {
                continue;
            }
            steps.push(compile_step(model, id, &active, &mut slots, &mut needed)?);
        }
        let requested = by
            .iter()
            .map(|outlet| Ok((slots.get(*outlet), length(model, *outlet)?)))
            .collect::<Result<_, GradError>>()?;
        let needed_len =
            needed.iter().map(|outlet| length(model, *outlet)).collect::<Result<_, _>>()?;
        Ok(Reverse {
            steps,
            needed_len,
            needed,
            slots: slots.0.len(),
            seed,
            seed_len: length(model, of)?,
            requested,
        })
    }

    /// The activations whose forward values [`Reverse::run`] reads, in its order.
    pub fn needed(&self) -> &[OutletId] {
        &self.needed
    }

    /// Counts the constants that [`Reverse::run`] reads.
    pub fn count_constants(&self, constants: &mut Constants) {
        for step in &self.steps {
            for origin in step.input_values.iter().chain([&step.output_value]) {
                if let Some(Origin::Constant(tensor)) = origin {
                    constants.add(tensor);
                }
            }
        }
    }

    /// The cotangents of the requested outlets for the cotangent `seed` of the target; dense, in
    /// the outlets' own shapes, zero where the target does not depend on an outlet.
    ///
    /// # Errors
    /// [`GradError::Values`] where `values` are not those of [`Reverse::needed`].
    pub fn run<T: Real>(&self, values: &[&[T]], seed: Vec<T>) -> Result<Vec<Vec<T>>, GradError> {
        let lens = values.iter().map(|value| value.len());
        if !lens.eq(self.needed_len.iter().copied()) || seed.len() != self.seed_len {
            return Err(GradError::Values(format!(
                "{} values and a seed of {} numbers, but {} values and {} numbers are needed",
                values.len(),
                seed.len(),
                self.needed.len(),
                self.seed_len,
            )));
        }
        let mut cotangents: Vec<Option<Vec<T>>> = vec![None; self.slots];
        if let Some(slot) = self.seed {
            cotangents[slot] = Some(seed);
        }
        let kept: Vec<usize> = self.requested.iter().filter_map(|(slot, _)| *slot).collect();
        for step in &self.steps {
            let cotangent = if kept.contains(&step.output) {
                cotangents[step.output].clone()
            } else {
                cotangents[step.output].take()
            };
            let Some(cotangent) = cotangent else { continue };
            for (slot, grad) in step.inputs.iter().zip(step.reverse(values, cotangent)?) {
                let (Some(slot), Some(grad)) = (*slot, grad) else { continue };
                match &mut cotangents[slot] {
                    Some(sum) => sum.iter_mut().zip(&grad).for_each(|(s, g)| *s += *g),
                    empty @ None => *empty = Some(grad),
                }
            }
        }
        let result = self.requested.iter().map(|(slot, len)| {
            slot.and_then(|slot| cotangents[slot].clone()).unwrap_or_else(|| vec![T::zero(); *len])
        });
        Ok(result.collect())
    }
}

impl Step {
    fn reverse<T: Real>(
        &self,
        values: &[&[T]],
        cotangent: Vec<T>,
    ) -> Result<Vec<Option<Vec<T>>>, GradError> {
        let inputs: Vec<Option<Cow<'_, [T]>>> = self
            .input_values
            .iter()
            .map(|origin| self.read(origin.as_ref(), values))
            .collect::<Result<_, _>>()?;
        let output = self.read(self.output_value.as_ref(), values)?;
        let values = Values {
            inputs: inputs.iter().map(Option::as_deref).collect(),
            output: output.as_deref(),
        };
        Ok(T::kernel(self.rule.as_ref()).vjp(&values, cotangent, &self.wanted))
    }
}

impl Step {
    fn read<'a, T: Real>(
        &'a self,
        origin: Option<&'a Origin>,
        values: &[&'a [T]],
    ) -> Result<Option<Cow<'a, [T]>>, GradError> {
        match origin {
            Some(Origin::Constant(tensor)) => {
                T::read(tensor).map(Some).map_err(|error| graph_error(&self.node, &error))
            }
            Some(Origin::Forward(index)) => Ok(Some(Cow::Borrowed(values[*index]))),
            None => Ok(None),
        }
    }
}

/// The part of a graph through which a derivative flows.
struct Active {
    /// Outlets that move when one of the requested outlets moves, and that move the target.
    outlets: HashSet<OutletId>,
    /// Nodes to reverse.
    nodes: Vec<bool>,
}

impl Active {
    fn trace(
        model: &TypedModel,
        order: &[usize],
        of: OutletId,
        by: &[OutletId],
    ) -> Result<Active, GradError> {
        let count = model.nodes().len();
        for outlet in by.iter().chain([&of]) {
            if outlet.node >= count || outlet.slot >= model.node(outlet.node).outputs.len() {
                let reason = format!("it has no output {}", outlet.slot);
                return Err(GradError::Graph { node: outlet.node.to_string(), reason });
            }
        }
        let mut moved: HashSet<OutletId> = by.iter().copied().collect();
        for &id in order {
            let node = model.node(id);
            let flat =
                Entry::of(node.op.as_ref()).is_some_and(|entry| matches!(entry.state, State::Flat));
            if !flat && node.inputs.iter().any(|input| moved.contains(input)) {
                for slot in 0..node.outputs.len() {
                    moved.insert(OutletId::new(id, slot));
                }
            }
        }
        let mut active = Active { outlets: HashSet::new(), nodes: vec![false; count] };
        if moved.contains(&of) {
            active.outlets.insert(of);
        }
        for &id in order.iter().rev() {
            let node = model.node(id);
            let reached = (0..node.outputs.len())
                .any(|slot| active.outlets.contains(&OutletId::new(id, slot)));
            let inputs: Vec<OutletId> =
                node.inputs.iter().copied().filter(|input| moved.contains(input)).collect();
            if reached && !inputs.is_empty() {
                active.nodes[id] = true;
                active.outlets.extend(inputs);
            }
        }
        Ok(active)
    }

    fn contains(&self, outlet: OutletId) -> bool {
        self.outlets.contains(&outlet)
    }
}

/// Numbers for outlets that hold a cotangent.
#[derive(Default)]
struct Slots(HashMap<OutletId, usize>);

impl Slots {
    fn of(&mut self, outlet: OutletId) -> usize {
        let next = self.0.len();
        *self.0.entry(outlet).or_insert(next)
    }

    fn get(&self, outlet: OutletId) -> Option<usize> {
        self.0.get(&outlet).copied()
    }
}

fn compile_step(
    model: &TypedModel,
    id: usize,
    active: &Active,
    slots: &mut Slots,
    needed: &mut Vec<OutletId>,
) -> Result<Step, GradError> {
    let node = model.node(id);
    let missing = |reason: String| GradError::Missing {
        operator: operator_of(node.op.as_ref()),
        node: node.name.clone(),
        reason,
    };
    let Some(Entry { state: State::Rule(build), .. }) = Entry::of(node.op.as_ref()) else {
        return Err(missing(String::new()));
    };
    if (1..node.outputs.len()).any(|slot| active.contains(OutletId::new(id, slot))) {
        return Err(missing(": only its first output is covered".to_string()));
    }
    let site = Site::at(model, id)?;
    let rule = build(&site).map_err(|unsupported| missing(format!(": {unsupported}")))?;
    let wanted: Vec<bool> = node.inputs.iter().map(|input| active.contains(*input)).collect();
    let Needs { inputs, output } = rule.needs(&wanted);
    let mut origin = |outlet: OutletId, wanted: bool| -> Option<Origin> {
        if !wanted {
            return None;
        }
        if let Some(constant) = constant(model, outlet) {
            return Some(Origin::Constant(constant));
        }
        let index = needed.iter().position(|known| *known == outlet).unwrap_or_else(|| {
            needed.push(outlet);
            needed.len() - 1
        });
        Some(Origin::Forward(index))
    };
    let input_values =
        node.inputs.iter().zip(&inputs).map(|(outlet, wanted)| origin(*outlet, *wanted)).collect();
    let output_value = origin(OutletId::new(id, 0), output);
    Ok(Step {
        rule,
        node: node.name.clone(),
        output: slots.of(OutletId::new(id, 0)),
        inputs: node
            .inputs
            .iter()
            .zip(&wanted)
            .map(|(input, wanted)| wanted.then(|| slots.of(*input)))
            .collect(),
        wanted,
        input_values,
        output_value,
    })
}

/// The value of an outlet that is a constant of the graph.
pub(super) fn constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    model.outlet_fact(outlet).ok()?.konst.clone()
}

impl<'a> Site<'a> {
    /// Node `id` of a graph with concrete shapes.
    ///
    /// # Errors
    /// [`GradError::Graph`] where a shape is not concrete.
    pub fn at(model: &'a TypedModel, id: usize) -> Result<Site<'a>, GradError> {
        let node = model.node(id);
        Ok(Site {
            op: node.op.as_ref(),
            inputs: node.inputs.iter().map(|i| shape(model, *i)).collect::<Result<_, _>>()?,
            constant: node.inputs.iter().map(|i| constant(model, *i).is_some()).collect(),
            output: shape(model, OutletId::new(id, 0))?,
        })
    }
}

/// The concrete shape of an outlet.
pub(super) fn shape(model: &TypedModel, outlet: OutletId) -> Result<Vec<usize>, GradError> {
    let name = &model.node(outlet.node).name;
    let fact = model.outlet_fact(outlet).map_err(|error| graph_error(name, &error))?;
    fact.shape.as_concrete().map(<[usize]>::to_vec).ok_or_else(|| GradError::Graph {
        node: name.clone(),
        reason: format!("its shape {:?} is not concrete", fact.shape),
    })
}

fn length(model: &TypedModel, outlet: OutletId) -> Result<usize, GradError> {
    Ok(shape(model, outlet)?.iter().product())
}

pub(super) fn graph_error(node: &str, error: &dyn std::fmt::Display) -> GradError {
    GradError::Graph { node: node.to_string(), reason: error.to_string() }
}
