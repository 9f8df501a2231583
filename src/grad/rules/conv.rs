//! Convolution with groups, strides, padding and dilation, in any of tract's data and kernel
//! layouts.
//!
//! A patch matrix holds, for a block of outputs, the inputs under each tap ("im2col"); then the
//! output is weights times patches, the weights' cotangent is output cotangent times patches
//! transposed, and the input's cotangent is weights transposed times output cotangent, added back
//! to where the patches came from ("col2im"). Blocks bound the memory. Depthwise convolutions have
//! one input channel a group, for which matrices do not pay: see `super::depthwise`.

use std::borrow::Cow;
use std::ops::Range;

use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};

use super::depthwise;
use super::gemm::{Strides, dot, multiply_add};
use super::window::{Planes, Window};
use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
use crate::grad::walk::{Walk, dense_strides, volume};

/// Most elements of a patch matrix.
const BLOCK_ELEMENTS: usize = 1 << 20;

/// A convolution at fixed shapes.
#[derive(Debug)]
pub struct Convolution {
    groups: usize,
    /// Input and output channels of one group.
    channels_in: usize,
    channels_out: usize,
    window: Window,
    input: Planes,
    output: Planes,
    kernel_format: KernelFormat,
    bias_len: usize,
}

/// The rule of a convolution.
pub fn rule(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<Conv>()?;
    if op.q_params.is_some() || site.inputs.len() != 3 {
        return Err(Unsupported::new("a quantised convolution"));
    }
    let input = Planes::new(op.pool_spec.data_format, &site.inputs[0])?;
    let output = Planes::new(op.pool_spec.data_format, &site.output)?;
    let window = Window::new(&op.pool_spec, input.size)?;
    if window.output != output.size || op.group == 0 {
        return Err(Unsupported::new("an inconsistent geometry"));
    }
    Ok(Box::new(Convolution {
        groups: op.group,
        channels_in: input.channels / op.group,
        channels_out: output.channels / op.group,
        window,
        input,
        output,
        kernel_format: op.kernel_fmt,
        bias_len: volume(&site.inputs[2]),
    }))
}

impl Convolution {
    fn is_depthwise(&self) -> bool {
        self.channels_in == 1 && self.channels_out == 1
    }

    /// Rows of a patch matrix.
    fn patch_len(&self) -> usize {
        self.channels_in * self.window.taps()
    }

    /// Walk from the kernel as tract stores it to group, output, input, tap.
    fn kernel_walk(&self) -> Walk<2> {
        let (g, o, i) = (self.groups, self.channels_out, self.channels_in);
        let [h, w] = self.window.kernel;
        let stored = match self.kernel_format {
            KernelFormat::OIHW => [o * i * h * w, i * h * w, h * w, w, 1],
            KernelFormat::HWIO => [i * o, 1, o, w * g * i * o, g * i * o],
            KernelFormat::OHWI => [i, h * w * g * i, 1, w * g * i, g * i],
        }
        .map(|stride| stride as isize);
        let shape = [g, o, i, h, w];
        Walk::new(&shape, [&stored, &dense_strides(&shape)])
    }

    /// The kernel as group, output, input, tap.
    fn canonical<'a, T: Real>(&self, kernel: &'a [T]) -> Cow<'a, [T]> {
        if self.kernel_format == KernelFormat::OIHW {
            return Cow::Borrowed(kernel);
        }
        let mut canonical = vec![T::zero(); kernel.len()];
        self.kernel_walk().rows(|row| row.each(|[from, to]| canonical[to] = kernel[from]));
        Cow::Owned(canonical)
    }

    /// The inverse of [`Convolution::canonical`].
    fn stored<T: Real>(&self, canonical: Vec<T>) -> Vec<T> {
        if self.kernel_format == KernelFormat::OIHW {
            return canonical;
        }
        let mut kernel = vec![T::zero(); canonical.len()];
        self.kernel_walk().rows(|row| row.each(|[to, from]| kernel[to] = canonical[from]));
        kernel
    }

    /// Calls `visit` for each sample, group and block of output rows.
    fn blocks(&self, mut visit: impl FnMut(Block)) {
        let width = self.output.size[1].max(1);
        let rows = (BLOCK_ELEMENTS / (self.patch_len() * width).max(1)).max(1);
        for sample in 0..self.input.batch {
            for group in 0..self.groups {
                for first in (0..self.output.size[0]).step_by(rows) {
                    let rows = first..(first + rows).min(self.output.size[0]);
                    let first_output = self.output.plane(sample, group * self.channels_out)
                        + first * self.output.row_stride;
                    visit(Block { sample, group, pixels: rows.len() * width, rows, first_output });
                }
            }
        }
    }

    fn output_strides(&self) -> Strides {
        (self.output.channel_stride, self.output.column_stride)
    }

    /// Fills the patch matrix (patch row x pixel) of a block.
    fn gather<T: Real>(&self, block: &Block, input: &[T], patches: &mut Vec<T>) {
        patches.clear();
        patches.resize(self.patch_len() * block.pixels, T::zero());
        self.patch_spans(block, |to, from, len, step| {
            let to = &mut patches[to..to + len];
            if step == 1 {
                to.copy_from_slice(&input[from..from + len]);
            } else {
                to.iter_mut().zip(input[from..].iter().step_by(step)).for_each(|(t, f)| *t = *f);
            }
        });
    }

    /// Adds a block's patch matrix back to the inputs that its elements came from.
    fn scatter<T: Real>(&self, block: &Block, patches: &[T], input: &mut [T]) {
        self.patch_spans(block, |from, to, len, step| {
            let from = &patches[from..from + len];
            if step == 1 {
                input[to..to + len].iter_mut().zip(from).for_each(|(t, f)| *t += *f);
            } else {
                input[to..].iter_mut().step_by(step).zip(from).for_each(|(t, f)| *t += *f);
            }
        });
    }

    /// Calls `visit(patch offset, input offset, length, input step)` for every run of pixels.
    fn patch_spans(&self, block: &Block, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let step = self.window.stride[1] * self.input.column_stride;
        for channel in 0..self.channels_in {
            let plane = self.input.plane(block.sample, block.group * self.channels_in + channel);
            self.window.spans(block.rows.clone(), |span| {
                let row = channel * self.window.taps() + span.tap;
                let pixel =
                    (span.output_row - block.rows.start) * self.output.size[1] + span.output_column;
                let input = plane
                    + span.input_row * self.input.row_stride
                    + span.input_column * self.input.column_stride;
                visit(row * block.pixels + pixel, input, span.len, step);
            });
        }
    }

    fn group_kernel<'a, T>(&self, canonical: &'a [T], group: usize) -> &'a [T] {
        let len = self.channels_out * self.patch_len();
        &canonical[group * len..(group + 1) * len]
    }

    /// `output += kernel * input`.
    fn apply<T: Real>(&self, input: &[T], canonical: &[T], output: &mut [T]) {
        let mut patches = Vec::new();
        self.blocks(|block| {
            self.gather(&block, input, &mut patches);
            multiply_add(
                (self.channels_out, self.patch_len(), block.pixels),
                (self.group_kernel(canonical, block.group), (self.patch_len(), 1)),
                (&patches, (block.pixels, 1)),
                (&mut output[block.first_output..], self.output_strides()),
            );
        });
    }

    fn add_bias<T: Real>(&self, bias: &[T], output: &mut [T]) {
        for sample in 0..self.output.batch {
            for channel in 0..self.output.channels {
                let value = if self.bias_len == 1 { bias[0] } else { bias[channel] };
                let plane = self.output.plane(sample, channel);
                for pixel in 0..self.output.area() {
                    output[plane + pixel * self.output.column_stride] += value;
                }
            }
        }
    }

    fn input_cotangent<T: Real>(&self, cotangent: &[T], kernel: &[T]) -> Vec<T> {
        let canonical = self.canonical(kernel);
        let mut grad = vec![T::zero(); self.input.len()];
        if self.is_depthwise() {
            depthwise::input_cotangent(
                &self.window,
                (&self.input, &mut grad),
                (&self.output, cotangent),
                &canonical,
            );
            return grad;
        }
        let transposed: Strides = (1, self.patch_len());
        let mut patches = Vec::new();
        self.blocks(|block| {
            let shape = (self.patch_len(), self.channels_out, block.pixels);
            let left = (self.group_kernel(&canonical, block.group), transposed);
            let right = (&cotangent[block.first_output..], self.output_strides());
            if self.window.is_pointwise() {
                let first = self.input.plane(block.sample, block.group * self.channels_in)
                    + block.rows.start * self.input.row_stride;
                let strides = (self.input.channel_stride, self.input.column_stride);
                multiply_add(shape, left, right, (&mut grad[first..], strides));
            } else {
                patches.clear();
                patches.resize(shape.0 * shape.2, T::zero());
                multiply_add(shape, left, right, (&mut patches, (block.pixels, 1)));
                self.scatter(&block, &patches, &mut grad);
            }
        });
        grad
    }

    fn kernel_cotangent<T: Real>(&self, cotangent: &[T], input: &[T]) -> Vec<T> {
        let len = self.channels_out * self.patch_len();
        let mut grad = vec![T::zero(); self.groups * len];
        let mut patches = Vec::new();
        self.blocks(|block| {
            self.gather(&block, input, &mut patches);
            multiply_add(
                (self.channels_out, block.pixels, self.patch_len()),
                (&cotangent[block.first_output..], self.output_strides()),
                (&patches, (1, block.pixels)),
                (&mut grad[block.group * len..(block.group + 1) * len], (self.patch_len(), 1)),
            );
        });
        self.stored(grad)
    }

    fn bias_cotangent<T: Real>(&self, cotangent: &[T]) -> Vec<T> {
        let mut grad = vec![T::zero(); self.bias_len];
        let ones = vec![T::one(); self.output.area()];
        for sample in 0..self.output.batch {
            for channel in 0..self.output.channels {
                let plane = &cotangent[self.output.plane(sample, channel)..];
                let sum = if self.output.column_stride == 1 {
                    dot(&plane[..ones.len()], &ones)
                } else {
                    plane.iter().step_by(self.output.column_stride).take(ones.len()).copied().sum()
                };
                grad[if self.bias_len == 1 { 0 } else { channel }] += sum;
            }
        }
        grad
    }
}

/// Some output rows of one group of one sample.
#[derive(Debug)]
struct Block {
    sample: usize,
    group: usize,
    rows: Range<usize>,
    pixels: usize,
    /// Offset of the first pixel of the group's first channel.
    first_output: usize,
}

impl<T: Real> Kernel<T> for Convolution {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let mut output = vec![T::zero(); self.output.len()];
        self.apply(inputs[0], &self.canonical(inputs[1]), &mut output);
        self.add_bias(inputs[2], &mut output);
        output
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let mut output = vec![T::zero(); self.output.len()];
        if let Some(tangent) = tangents[0] {
            self.apply(tangent, &self.canonical(inputs[1]), &mut output);
        }
        if let Some(tangent) = tangents[1] {
            self.apply(inputs[0], &self.canonical(tangent), &mut output);
        }
        if let Some(tangent) = tangents[2] {
            self.add_bias(tangent, &mut output);
        }
        output
    }

    fn vjp(
        &self,
        values: &Values<'_, T>,
        cotangent: Vec<T>,
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        vec![
            wanted[0].then(|| self.input_cotangent(&cotangent, values.input(1))),
            wanted[1].then(|| self.kernel_cotangent(&cotangent, values.input(0))),
            wanted[2].then(|| self.bias_cotangent(&cotangent)),
        ]
    }
}

impl Rule for Convolution {
    fn needs(&self, wanted: &[bool]) -> Needs {
        Needs::inputs(vec![wanted[1], wanted[0], false])
    }
}
