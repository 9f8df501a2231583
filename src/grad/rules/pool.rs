//! Maximum and average pooling.
//!
//! Padding never wins a maximum; equal inputs give the cotangent to the first in row-major order,
//! as `PyTorch` does. An average divides by the taps within the input, or with `count_include_pad` by
//! those within the padded input (the whole kernel, except where ONNX's ceil mode lets the last
//! window hang over the padding).

use tract_onnx::tract_core::ops::cnn::{MaxPool, PaddingSpec, SumPool};

use super::window::{Planes, Window};
use crate::grad::real::Real;
use crate::grad::rule::{Kernel, Needs, Rule, Site, Unsupported, Values};

/// The geometry of either pool.
#[derive(Debug)]
struct Geometry {
    window: Window,
    input: Planes,
    output: Planes,
}

impl Geometry {
    /// Calls `visit(input offset, output offset, output pixel)` for every tap within the input, the
    /// taps of one output in row-major order.
    fn each(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let step = self.window.stride[1] * self.input.column_stride;
        for sample in 0..self.input.batch {
            for channel in 0..self.input.channels {
                let from = self.input.plane(sample, channel);
                let to = self.output.plane(sample, channel);
                self.window.spans(0..self.output.size[0], |span| {
                    let mut input = from
                        + span.input_row * self.input.row_stride
                        + span.input_column * self.input.column_stride;
                    let pixel = span.output_row * self.output.size[1] + span.output_column;
                    for step_index in 0..span.len {
                        let pixel = pixel + step_index;
                        visit(input, to + pixel * self.output.column_stride, pixel);
                        input += step;
                    }
                });
            }
        }
    }
}

/// A maximum pool at a fixed shape.
#[derive(Debug)]
pub struct Maximum {
    geometry: Geometry,
}

/// The rule of a maximum pool.
pub fn maximum(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<MaxPool>()?;
    let input = Planes::new(op.pool_spec.data_format, &site.inputs[0])?;
    let output = Planes::new(op.pool_spec.data_format, &site.output)?;
    let window = Window::new(&op.pool_spec, input.size)?;
    Ok(Box::new(Maximum { geometry: Geometry { window, input, output } }))
}

impl Maximum {
    /// For each output the offset of the input that it takes.
    fn winners<T: Real>(&self, input: &[T]) -> Vec<Option<usize>> {
        let mut winners = vec![None; self.geometry.output.len()];
        self.geometry.each(|from, to, _| {
            if winners[to].is_none_or(|best: usize| input[from] > input[best]) {
                winners[to] = Some(from);
            }
        });
        winners
    }
}

impl<T: Real> Kernel<T> for Maximum {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let value = |winner: Option<usize>| winner.map_or(T::min_value(), |at| inputs[0][at]);
        self.winners(inputs[0]).into_iter().map(value).collect()
    }

    fn jvp(&self, inputs: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        let Some(tangent) = tangents[0] else {
            return vec![T::zero(); self.geometry.output.len()];
        };
        let value = |winner: Option<usize>| winner.map_or(T::zero(), |at| tangent[at]);
        self.winners(inputs[0]).into_iter().map(value).collect()
    }

    fn vjp(&self, values: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        let input = values.input(0);
        let mut grad = vec![T::zero(); input.len()];
        for (winner, c) in self.winners(input).into_iter().zip(cotangent) {
            if let Some(at) = winner {
                grad[at] += c;
            }
        }
        vec![Some(grad)]
    }
}

impl Rule for Maximum {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::inputs(vec![true])
    }
}

/// A sum or average pool at a fixed shape: linear, each output a weight times the sum of its taps.
#[derive(Debug)]
pub struct Sum {
    geometry: Geometry,
    /// One weight an output pixel.
    weights: Vec<f64>,
}

/// The rule of a sum or average pool.
pub fn sum(site: &Site) -> Result<Box<dyn Rule>, Unsupported> {
    let op = site.op_as::<SumPool>()?;
    let input = Planes::new(op.pool_spec.data_format, &site.inputs[0])?;
    let output = Planes::new(op.pool_spec.data_format, &site.output)?;
    let window = Window::new(&op.pool_spec, input.size)?;
    let weights = if op.normalize {
        counts(&window, op.count_include_pad, &op.pool_spec.padding)
            .into_iter()
            .map(|count| if count == 0 { 0.0 } else { 1.0 / count as f64 })
            .collect()
    } else {
        vec![1.0; output.area()]
    };
    Ok(Box::new(Sum { geometry: Geometry { window, input, output }, weights }))
}

/// How many taps each output pixel's average counts.
fn counts(window: &Window, include_pad: bool, padding: &PaddingSpec) -> Vec<usize> {
    let along = |axis: usize| -> Vec<usize> {
        let outputs = 0..window.output[axis];
        let kernel = window.kernel[axis];
        if !include_pad {
            let reaches: Vec<_> = (0..kernel).map(|k| window.reach(axis, k)).collect();
            return outputs.map(|o| reaches.iter().filter(|r| r.contains(&o)).count()).collect();
        }
        let PaddingSpec::ExplicitOnnxPool(before, after, true) = padding else {
            return vec![kernel; window.output[axis]];
        };
        // A pool over one axis has only a width, whose padding stands at index 0.
        let Some(given) = (axis + before.len()).checked_sub(2) else {
            return vec![kernel; window.output[axis]];
        };
        let padded = before[given] + window.input[axis] + after[given];
        let within = |o: usize| {
            let start = o * window.stride[axis];
            (0..kernel).filter(|k| start + k * window.dilation[axis] < padded).count()
        };
        outputs.map(within).collect()
    };
    let (rows, columns) = (along(0), along(1));
    rows.iter().flat_map(|row| columns.iter().map(move |column| row * column)).collect()
}

impl<T: Real> Kernel<T> for Sum {
    fn forward(&self, inputs: &[&[T]]) -> Vec<T> {
        let mut output = vec![T::zero(); self.geometry.output.len()];
        self.geometry.each(|from, to, pixel| {
            output[to] += T::of(self.weights[pixel]) * inputs[0][from];
        });
        output
    }

    fn jvp(&self, _: &[&[T]], tangents: &[Option<&[T]>]) -> Vec<T> {
        match tangents[0] {
            Some(tangent) => self.forward(&[tangent]),
            None => vec![T::zero(); self.geometry.output.len()],
        }
    }

    fn vjp(&self, _: &Values<'_, T>, cotangent: Vec<T>, _: &[bool]) -> Vec<Option<Vec<T>>> {
        let mut grad = vec![T::zero(); self.geometry.input.len()];
        self.geometry.each(|from, to, pixel| {
            grad[from] += T::of(self.weights[pixel]) * cotangent[to];
        });
        vec![Some(grad)]
    }
}

impl Rule for Sum {
    fn needs(&self, _: &[bool]) -> Needs {
        Needs::nothing(1)
    }
}
