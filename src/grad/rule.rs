//! What a gradient rule is: one generic kernel with a forward, a directional and a reverse
//! derivative, built for one place in a graph.

use std::fmt::Debug;

use tract_onnx::prelude::TypedOp;

use super::real::Real;

/// An operator's arithmetic at fixed shapes, for one number type.
///
/// All arrays are dense and row-major in the shapes that the rule was built for.
pub trait Kernel<T: Real>: Send + Sync {
    /// The operator itself.
    fn forward(&self, inputs: &[&[T]]) -> Vec<T>;

    /// Directional derivative: how the output moves when the inputs move along `tangents`
    /// (`None` where an input stands still).
    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T>;

    /// Reverse derivative: from the cotangent of the output to those of the `wanted` inputs.
    ///
    /// `values` holds at least what [`Rule::needs`] named for the same `wanted`.
    fn vjp(
        &self,
        values: &Values<'_, T>,
        cotangent: Vec<T>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>>;
}

/// A kernel for both number types, with the list of forward values that its reverse reads.
pub trait Rule: Kernel<f32> + Kernel<f64> + Debug {
    /// The forward values that [`Kernel::vjp`] reads when these inputs' cotangents are wanted.
    fn needs(&self, wanted: &[bool]) -> Needs;
}

/// Forward values that a rule reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// One flag an input.
    pub inputs: Vec<bool>,
    /// The operator's own output.
    pub output: bool,
}

impl Needs {
    /// Nothing: the derivative does not depend on the point.
    pub fn nothing(inputs: usize) -> Needs {
        Needs { inputs: vec![false; inputs], output: false }
    }

    /// These inputs, not the output.
    pub fn inputs(inputs: Vec<bool>) -> Needs {
        Needs { inputs, output: false }
    }

    /// The output alone.
    pub fn output(inputs: usize) -> Needs {
        Needs { inputs: vec![false; inputs], output: true }
    }
}

/// The forward values handed to a reverse kernel.
#[derive(Debug, Clone)]
pub struct Values<'a, T> {
    /// One entry an input, `None` where the rule did not ask for it.
    pub inputs: Vec<Option<&'a [T]>>,
    /// The output, where the rule asked for it.
    pub output: Option<&'a [T]>,
}

impl<'a, T> Values<'a, T> {
    /// Input `index`.
    pub(super) fn input(&self, index: usize) -> &'a [T] {
        self.inputs[index].expect("the rule named this input in `needs`")
    }

    /// The output.
    pub(super) fn output(&self) -> &'a [T] {
        self.output.expect("the rule named the output in `needs`")
    }
}

/// Where an operator stands: everything that building its rule depends on.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// The operator.
    pub op: &'a dyn TypedOp,
    /// Shapes of the inputs.
    pub inputs: Vec<Vec<usize>>,
    /// Which inputs are constants of the graph, whose values cost nothing to have.
    pub constant: Vec<bool>,
    /// Shape of the first output.
    pub output: Vec<usize>,
}

impl<'a> Site<'a> {
    /// The operator as its own type.
    pub(super) fn op_as<O: TypedOp>(&self) -> Result<&'a O, Unsupported> {
        self.op.downcast_ref::<O>().ok_or_else(|| Unsupported::new("an unexpected operator type"))
    }
}

/// A use of a known operator that its rule does not cover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

impl Unsupported {
    /// With this reason.
    pub fn new(reason: impl Into<String>) -> Unsupported {
        Unsupported(reason.into())
    }
}
