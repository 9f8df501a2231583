//! Depthwise convolution: each channel filtered by itself.

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

/// Filters every plane of `input` with its channel's taps, adds its bias and clamps.
///
/// `input` and `output` are planes of `window`, channel after channel and image after image;
/// `weights` has the window's taps for each channel, `bias` a value for each.
pub fn depthwise(
    window: Window,
    input: &[f32],
    weights: &[f32],
    bias: &[f32],
    clamp: Clamp,
    output: &mut [f32],
) {
    processor::run(Depthwise { window, input, weights, bias, clamp, output });
}

struct Depthwise<'a> {
    window: Window,
    input: &'a [f32],
    weights: &'a [f32],
    bias: &'a [f32],
    clamp: Clamp,
    output: &'a mut [f32],
}

impl Kernel for Depthwise<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { window, input, weights, bias, clamp, output } = self;
        let mut slider = Slider::new(window, 0.0);
        let channels = weights.chunks_exact(window.taps()).zip(bias).cycle();
        let planes = input
            .chunks_exact(window.input_len())
            .zip(output.chunks_exact_mut(window.output_len()));
        for ((input, output), (weights, &bias)) in planes.zip(channels) {
            slider.slide::<A, _>(&Filter { weights, bias, clamp }, input, output);
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
        fn agrees_with_the_definition_in_f64(window in any_window(), seed in 0usize..1000) {
            let (images, channels) = (2, 3);
            let number = |index: usize| ((index * 7919 + seed) % 255) as f32 / 127.0 - 1.0;
            let input: Vec<f32> =
                (0..images * channels * window.input_len()).map(number).collect();
            let weights: Vec<f32> = (0..channels * window.taps()).map(number).collect();
            let bias = [0.5, -0.25, 0.0];
            let clamp = Clamp { low: -0.5, high: 1.0 };
            let mut output = vec![f32::NAN; images * channels * window.output_len()];
            depthwise(window, &input, &weights, &bias, clamp, &mut output);

            let planes = input.chunks_exact(window.input_len());
            let outputs = output.chunks_exact(window.output_len());
            for (index, (plane, output)) in planes.zip(outputs).enumerate() {
                let channel = index % channels;
                for (at, &found) in output.iter().enumerate() {
                    let at = [at / window.output[1], at % window.output[1]];
                    let mut expected = f64::from(bias[channel]);
                    for tap in 0..window.taps() {
                        let place = [tap / window.size[1], tap % window.size[1]];
                        let value = under(&window, plane, at, place).unwrap_or(0.0);
                        let weight = weights[channel * window.taps() + tap];
                        expected += f64::from(weight) * f64::from(value);
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
        depthwise(window, &[f32::NAN; 9], &[1.0], &[0.0], clamp, &mut output);
        assert!(output.iter().all(|value| value.is_nan()));
    }
}
