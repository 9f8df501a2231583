//! Direct convolution, for sums over few numbers: depthwise, and a network's first layer.
//!
//! Where a sum runs over many channels, a matrix product is faster; there tract does well.

use super::processor::{self, Arithmetic, Kernel};
use super::window::{Reduction, Slider, Window};

/// What is kept of each output: a rectifier behind the convolution, in the same pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// No output is smaller.
    pub low: f32,
    /// No output is larger.
    pub high: f32,
}

impl Clamp {
    /// Keeps everything.
    pub const NONE: Clamp = Clamp { low: f32::NEG_INFINITY, high: f32::INFINITY };
}

/// The weights of a convolution: each output channel sees the `depth` input channels of its group.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'a> {
    /// Input channels a group, at least 1.
    pub depth: usize,
    /// Groups of channels, at least 1.
    pub groups: usize,
    /// By output channel, input channel of its group, and tap, row-major.
    pub weights: &'a [f32],
    /// By output channel.
    pub bias: &'a [f32],
}

/// Filters every image of `input`, adds the biases and clamps. `input` and `output` are planes of
/// `window`, channel after channel and image after image.
pub fn convolve(window: Window, filters: Filters, clamp: Clamp, input: &[f32], output: &mut [f32]) {
    processor::run(Convolution { window, filters, clamp, input, output });
}

struct Convolution<'a> {
    window: Window,
    filters: Filters<'a>,
    clamp: Clamp,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Convolution<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { window, filters: Filters { depth, groups, weights, bias }, clamp, .. } = self;
        let mut slider = Slider::new(window, depth, 0.0);
        let outputs = bias.len() / groups;
        let filters = weights.chunks_exact(depth * window.taps()).zip(bias).collect::<Vec<_>>();
        let inputs = self.input.chunks_exact(depth * window.input_len());
        let outputs_of_groups = self.output.chunks_exact_mut(outputs * window.output_len());
        let filters_of_groups = filters.chunks_exact(outputs).cycle();
        for ((input, output), filters) in inputs.zip(outputs_of_groups).zip(filters_of_groups) {
            slider.fill(input);
            let planes = output.chunks_exact_mut(window.output_len());
            for (output, &(weights, &bias)) in planes.zip(filters) {
                slider.slide::<A, _>(&Filter { weights, bias, clamp }, output);
            }
        }
    }
}

struct Filter<'a> {
    weights: &'a [f32],
    bias: f32,
    clamp: Clamp,
}

impl Reduction for Filter<'_> {
    #[inline(always)]
    fn start(&self) -> f32 {
        self.bias
    }

    #[inline(always)]
    fn step<A: Arithmetic>(&self, tap: usize, sum: f32, value: f32) -> f32 {
        A::multiply_add(self.weights[tap], value, sum)
    }

    /// As tract's maximum and minimum with a constant: NaN stays NaN.
    #[inline(always)]
    fn finish(&self, sum: f32) -> f32 {
        let sum = if sum < self.clamp.low { self.clamp.low } else { sum };
        if sum > self.clamp.high { self.clamp.high } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::window::tests::{any_window, under};
    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition_in_f64(
            window in any_window(),
            depth in 1usize..=3,
            groups in 1usize..=3,
            outputs in 1usize..=2,
            seed in 0usize..1000,
        ) {
            let images = 2;
            let number = |index: usize| ((index * 7919 + seed) % 255) as f32 / 127.0 - 1.0;
            let numbers = |len: usize| (0..len).map(number).collect::<Vec<f32>>();
            let input = numbers(images * groups * depth * window.input_len());
            let weights = numbers(groups * outputs * depth * window.taps());
            let bias = numbers(groups * outputs);
            let clamp = Clamp { low: -0.5, high: 1.0 };
            let mut output = vec![f32::NAN; images * groups * outputs * window.output_len()];
            let filters = Filters { depth, groups, weights: &weights, bias: &bias };
            convolve(window, filters, clamp, &input, &mut output);

            for (index, output) in output.chunks_exact(window.output_len()).enumerate() {
                let channel = index % (groups * outputs);
                let planes = &input[index / outputs * depth * window.input_len()..];
                for (at, &found) in output.iter().enumerate() {
                    let at = [at / window.output[1], at % window.output[1]];
                    let mut expected = f64::from(bias[channel]);
                    for plane in 0..depth {
                        for tap in 0..window.taps() {
                            let place = [tap / window.size[1], tap % window.size[1]];
                            let values = &planes[plane * window.input_len()..];
                            let value = under(&window, values, at, place).unwrap_or(0.0);
                            let weight = weights[(channel * depth + plane) * window.taps() + tap];
                            expected += f64::from(weight) * f64::from(value);
                        }
                    }
                    let expected = expected.clamp(-0.5, 1.0);
                    prop_assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn nan_is_not_clamped_away() {
        let window = Window {
            input: [3, 3],
            output: [3, 3],
            size: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            before: [0, 0],
        };
        let mut output = [0.0; 9];
        let clamp = Clamp { low: 0.0, high: 6.0 };
        let filters = Filters { depth: 1, groups: 1, weights: &[1.0], bias: &[0.0] };
        convolve(window, filters, clamp, &[f32::NAN; 9], &mut output);
        assert!(output.iter().all(|value| value.is_nan()));
    }
}
