//! The kernels as operators of tract's graph: shapes and tensors here, loops there.

use tract_onnx::tract_core::internal::*;

use super::depthwise::{Clamp, depthwise};
use super::lrn::{Normalisation, lrn};
use super::max_pool::max_pool;
use super::window::Window;

/// [`depthwise`] of (image, weights by channel and tap, bias by channel), channels first.
#[derive(Clone, Debug, PartialEq)]
pub struct Depthwise {
    /// How it slides over the last two axes.
    pub window: Window,
    /// What it does to its outputs.
    pub clamp: Clamp,
}

/// [`max_pool`] of an image, channels first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// How it slides over the last two axes.
    pub window: Window,
}

/// [`lrn`] of images, whose axes are (image, channel, height, width).
#[derive(Clone, Debug, PartialEq)]
pub struct Lrn {
    /// Its parameters.
    pub normalisation: Normalisation,
}

impl Eq for Depthwise {}

impl Op for Depthwise {
    fn name(&self) -> StaticName {
        "DepthwiseKernel".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} {:?}", self.window, self.clamp)])
    }

    op_as_typed_op!();
}

impl EvalOp for Depthwise {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (image, weights, bias) = args_3!(inputs);
        map(&image, &slid(&self.window, image.shape()), |image, output| {
            depthwise(self.window, image, floats(&weights)?, floats(&bias)?, self.clamp, output);
            Ok(())
        })
    }
}

impl TypedOp for Depthwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        slid_fact(&self.window, inputs[0])
    }

    as_op!();
}

impl Op for MaxPool {
    fn name(&self) -> StaticName {
        "MaxPoolKernel".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.window)])
    }

    op_as_typed_op!();
}

impl EvalOp for MaxPool {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let image = args_1!(inputs);
        map(&image, &slid(&self.window, image.shape()), |image, output| {
            max_pool(self.window, image, output);
            Ok(())
        })
    }
}

impl TypedOp for MaxPool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        slid_fact(&self.window, inputs[0])
    }

    as_op!();
}

impl Eq for Lrn {}

impl Op for Lrn {
    fn name(&self) -> StaticName {
        "LrnKernel".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.normalisation)])
    }

    op_as_typed_op!();
}

impl EvalOp for Lrn {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let images = args_1!(inputs);
        let &[_, channels, height, width] = images.shape() else {
            bail!("local response normalisation of {:?}, four axes expected", images.shape());
        };
        let image = (channels * height * width).max(1);
        map(&images, images.shape(), |input, output| {
            for (input, output) in input.chunks_exact(image).zip(output.chunks_exact_mut(image)) {
                lrn(self.normalisation, channels, input, output);
            }
            Ok(())
        })
    }
}

impl TypedOp for Lrn {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    as_op!();
}

/// A new tensor of `shape`, which `fill` computes from the values of `input`.
fn map(
    input: &Tensor,
    shape: &[usize],
    fill: impl FnOnce(&[f32], &mut [f32]) -> TractResult<()>,
) -> TractResult<TVec<TValue>> {
    let mut output = Tensor::zero::<f32>(shape)?;
    fill(floats(input)?, output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
    Ok(tvec!(output.into_tvalue()))
}

fn floats(tensor: &Tensor) -> TractResult<&[f32]> {
    tensor.try_as_plain_ram()?.as_slice::<f32>()
}

/// `shape` with the window's output as its last two axes.
fn slid<D: Clone + From<usize>>(window: &Window, shape: &[D]) -> TVec<D> {
    let leading = shape.len().saturating_sub(2);
    shape[..leading].iter().cloned().chain(window.output.map(D::from)).collect()
}

fn slid_fact(window: &Window, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
    Ok(tvec!(input.datum_type.fact(slid(window, &input.shape.to_tvec()))))
}
