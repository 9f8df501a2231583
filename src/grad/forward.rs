//! The graph evaluated node by node with the rules' own arithmetic, in either precision.
//!
//! Slow beside an optimised plan; it exists to check derivatives end to end in f64, where tract
//! has no exp or sigmoid.

use std::collections::HashMap;

use tract_onnx::prelude::{OutletId, TypedModel};

use super::error::GradError;
use super::real::Real;
use super::reverse::{constant, graph_error};
use super::rule::Site;
use super::table::{Entry, State, operator_of};

/// The values of `outputs` when the outlets in `given` hold these numbers.
///
/// # Errors
/// [`GradError::Missing`] where the way passes an operator without a rule.
pub fn evaluate<T: Real>(
    model: &TypedModel,
    given: Vec<(OutletId, Vec<T>)>,
    outputs: &[OutletId],
) -> Result<Vec<Vec<T>>, GradError> {
    let mut values: HashMap<OutletId, Vec<T>> = given.into_iter().collect();
    for outlet in outputs {
        compute(model, *outlet, &mut values)?;
    }
    Ok(outputs.iter().filter_map(|outlet| values.get(outlet).cloned()).collect())
}

/// Computes `outlet` and what it depends on, without recursion: networks are deep.
fn compute<T: Real>(
    model: &TypedModel,
    outlet: OutletId,
    values: &mut HashMap<OutletId, Vec<T>>,
) -> Result<(), GradError> {
    let mut pending = vec![outlet];
    while let Some(&next) = pending.last() {
        if values.contains_key(&next) {
            pending.pop();
            continue;
        }
        let node = model.node(next.node);
        if let Some(tensor) = constant(model, next) {
            let numbers = T::read(&tensor).map_err(|error| graph_error(&node.name, &error))?;
            values.insert(next, numbers.into_owned());
            continue;
        }
        let before = pending.len();
        pending.extend(node.inputs.iter().filter(|input| !values.contains_key(input)));
        if pending.len() > before {
            continue;
        }
        let missing = |reason: String| GradError::Missing {
            operator: operator_of(node.op.as_ref()),
            node: node.name.clone(),
            reason,
        };
        let Some(Entry { state: State::Rule(build), .. }) = Entry::of(node.op.as_ref()) else {
            return Err(missing(String::new()));
        };
        let rule =
            build(&Site::at(model, next.node)?).map_err(|error| missing(format!(": {error}")))?;
        let inputs: Vec<&[T]> = node.inputs.iter().map(|input| values[input].as_slice()).collect();
        let output = T::kernel(rule.as_ref()).forward(&inputs);
        values.insert(next, output);
    }
    Ok(())
}
