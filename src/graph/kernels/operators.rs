//! The kernels as operators of tract's graph: shapes and tensors here, loops there.

use tract_onnx::tract_core::internal::*;

use super::convolution::{Clamp, Filters, convolve};
use super::lrn::{Normalisation, lrn};
use super::max_pool::max_pool;
use super::window::Window;

/// [`convolve`] of (image, weights, bias), channels first.
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    /// How it slides over the last two axes.
    pub window: Window,
    /// Input channels a group.
    pub depth: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Output channels.
    pub channels: usize,
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

impl Eq for Convolution {}

impl Op for Convolution {
    fn name(&self) -> StaticName {
        "ConvolutionKernel".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} {:?}", self.window, self.clamp)])
    }

    op_as_typed_op!();
}

impl EvalOp for Convolution {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (image, weights, bias) = args_3!(inputs);
        let Self { window, depth, groups, channels, clamp } = *self;
        let filters = Filters { depth, groups, weights: floats(&weights)?, bias: floats(&bias)? };
        map(&image, &slid(&window, channels, image.shape()), |image, output| {
            convolve(window, filters, clamp, image, output);
            Ok(())
        })
    }
}

impl TypedOp for Convolution {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        slid_fact(&self.window, self.channels.into(), inputs[0])
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
        let shape = image.shape();
        let channels = shape[shape.len() - 3];
        map(&image, &slid(&self.window, channels, shape), |image, output| {
            max_pool(self.window, image, output);
            Ok(())
        })
    }
}

impl TypedOp for MaxPool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = &inputs[0].shape;
        slid_fact(&self.window, shape[shape.len() - 3].clone(), inputs[0])
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

/// `shape` with other channels and the window's output as its last three axes.
fn slid<D: Clone + From<usize>>(window: &Window, channels: D, shape: &[D]) -> TVec<D> {
    let leading = shape[..shape.len().saturating_sub(3)].iter().cloned();
    leading.chain([channels]).chain(window.output.map(D::from)).collect()
}

fn slid_fact(window: &Window, channels: TDim, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
    Ok(tvec!(input.datum_type.fact(slid(window, channels, &input.shape.to_tvec()))))
}
