//! The constants that a network has learnt, as places in its graph.

use std::sync::Arc;

use tract_onnx::prelude::{OutletId, Tensor, TractResult, TypedFact, TypedModel};
use tract_onnx::tract_core::internal::TractErrorContext as _;
use tract_onnx::tract_core::ops::konst::Const;

use super::error::GradError;
use super::reverse::{constant, graph_error};
use super::table::operator_of;

/// A weight: the kernel of a convolution or the matrix of a linear layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// The node that multiplies with it.
    pub node: String,
    /// The constant.
    pub outlet: OutletId,
}

/// All weights of the graph in the order in which they are used.
pub fn weights(model: &TypedModel) -> Vec<Weight> {
    let mut found: Vec<Weight> = Vec::new();
    for id in model.eval_order().unwrap_or_default() {
        let node = model.node(id);
        if !matches!(operator_of(node.op.as_ref()).as_str(), "Conv" | "EinSum") {
            continue;
        }
        // A convolution's third input is its bias.
        for outlet in node.inputs.iter().take(2) {
            let learnt = constant(model, *outlet)
                .is_some_and(|tensor| tensor.datum_type().is_float() && tensor.len() > 1);
            if learnt && found.iter().all(|weight| weight.outlet != *outlet) {
                found.push(Weight { node: node.name.clone(), outlet: *outlet });
            }
        }
    }
    found
}

/// The values of the constant at `outlet`, in its own order.
///
/// # Errors
/// [`GradError::Values`] where the outlet is no constant of numbers.
pub fn weight_values(model: &TypedModel, outlet: OutletId) -> Result<Vec<f32>, GradError> {
    let values = || -> TractResult<Vec<f32>> {
        let tensor = constant(model, outlet).context("it is no constant")?;
        Ok(tensor.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    };
    values().map_err(|error| GradError::Values(format!("outlet {outlet:?}: {error}")))
}

/// Gives the constant at `outlet` other values, in its own order and rounded to its own type.
///
/// # Errors
/// [`GradError::Values`] where the outlet is no constant, [`GradError::Graph`] where it has another
/// number of values.
pub fn replace_weight(
    model: &mut TypedModel,
    outlet: OutletId,
    values: &[f32],
) -> Result<(), GradError> {
    let Some(old) = constant(model, outlet) else {
        return Err(GradError::Values(format!("outlet {outlet:?} is no constant")));
    };
    let replace = |model: &mut TypedModel| -> TractResult<()> {
        let tensor = Tensor::from_shape(old.shape(), values)?;
        let tensor: Arc<Tensor> = tensor.cast_to_dt(old.datum_type())?.into_owned().into();
        let node = &mut model.nodes[outlet.node];
        node.op = Box::new(Const::new(tensor.clone())?);
        node.outputs[outlet.slot].fact = TypedFact::try_from(tensor)?;
        Ok(())
    };
    let name = model.node(outlet.node).name.clone();
    replace(model).map_err(|error| graph_error(&name, &error))
}
