//! tract's graph with chosen ONNX tensors declared on it by name.
//!
//! Decluttering folds and renames: an ONNX tensor has a counterpart in the result only if it was
//! declared as an output before. A view is made anew for each set of names (some 0.1 s for
//! `MobileNetV2`) and is then exact: the value under a name is that ONNX tensor's value.

use tract_onnx::model::ParseResult;
use tract_onnx::prelude::{InferenceModelExt as _, OutletId, TypedModel};
use tract_onnx::tract_core::ops::change_axes::AxisOp;

use super::{GraphError, Plan};

/// A decluttered graph, with the outlets of the declared tensors.
#[derive(Clone, Debug)]
pub struct View {
    model: TypedModel,
    taps: Vec<Tap>,
}

/// A declared tensor in tract's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The ONNX tensor.
    pub name: String,
    /// Where its value is found.
    pub outlet: OutletId,
    /// For each axis of the value at `outlet` the axis of the ONNX tensor that it is; `None` for an
    /// axis of extent one that the ONNX tensor does not have. tract drops the batch axis and moves
    /// others, so axes have to be told apart by this, not by their position.
    pub axes: Vec<Option<usize>>,
}

impl View {
    /// Declares `names`, in this order.
    pub(super) fn declare(mut parsed: ParseResult, names: &[&str]) -> Result<Self, GraphError> {
        let outlet = |name: &&str| {
            let found = parsed.outlets_by_name.get(*name).copied();
            found.ok_or_else(|| GraphError::UnknownTensor((*name).to_owned()))
        };
        let outlets = names.iter().map(outlet).collect::<Result<Vec<_>, _>>()?;
        let stage = "preparing the network";
        parsed.model.select_output_outlets(&outlets).map_err(GraphError::engine(stage))?;
        let mut model = parsed
            .model
            .into_typed()
            .and_then(TypedModel::into_decluttered)
            .map_err(GraphError::engine(stage))?;
        let declared: Vec<OutletId> =
            model.output_outlets().map_err(GraphError::engine(stage))?.to_vec();
        let found: Vec<(OutletId, Vec<Option<usize>>)> =
            declared.iter().map(|&outlet| before_axis_operators(&model, outlet)).collect();
        let outlets: Vec<OutletId> = found.iter().map(|(outlet, _)| *outlet).collect();
        model.select_output_outlets(&outlets).map_err(GraphError::engine(stage))?;
        let model = model.into_compact().map_err(GraphError::engine(stage))?;
        let outlets = model.output_outlets().map_err(GraphError::engine(stage))?.to_vec();
        let taps = names
            .iter()
            .zip(found)
            .zip(outlets)
            .map(|((name, (_, axes)), outlet)| Tap { name: (*name).to_owned(), outlet, axes })
            .collect();
        Ok(Self { model, taps })
    }

    /// The decluttered graph; its outputs are the taps' outlets.
    pub fn model(&self) -> &TypedModel {
        &self.model
    }

    /// The declared tensors, in the order in which they were asked for.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// The declared tensor `name`.
    ///
    /// # Errors
    /// When it was not declared.
    pub fn tap(&self, name: &str) -> Result<&Tap, GraphError> {
        let tap = self.taps.iter().find(|tap| tap.name == name);
        tap.ok_or_else(|| GraphError::UnknownTensor(name.to_owned()))
    }

    /// An optimised plan whose outputs are the taps, in their order.
    ///
    /// # Errors
    /// When tract cannot optimise the model.
    pub fn plan(&self) -> Result<Plan, GraphError> {
        let outlets: Vec<OutletId> = self.taps.iter().map(|tap| tap.outlet).collect();
        Plan::build(&self.model, &outlets)
    }
}

/// Goes back over operators that only move axes: a declared output keeps the ONNX shape by such
/// operators behind the value that the rest of the network really uses.
fn before_axis_operators(model: &TypedModel, declared: OutletId) -> (OutletId, Vec<Option<usize>>) {
    let rank = model.outlet_fact(declared).map_or(0, tract_onnx::prelude::TypedFact::rank);
    let mut axes: Vec<Option<usize>> = (0..rank).map(Some).collect();
    let mut outlet = declared;
    loop {
        let node = model.node(outlet.node);
        let Some(operator) = node.op_as::<AxisOp>() else { break };
        match *operator {
            AxisOp::Add(axis) => {
                axes.remove(axis);
            }
            AxisOp::Rm(axis) => axes.insert(axis, None),
            AxisOp::Move(from, to) => {
                let moved = axes.remove(to);
                axes.insert(from, moved);
            }
            AxisOp::Reshape(..) => break,
        }
        outlet = node.inputs[0];
    }
    (outlet, axes)
}
