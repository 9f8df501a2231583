//! The largest value under a window.

use super::processor::{self, Arithmetic, Kernel};
use super::window::{Reduction, Slider, Window};

/// What an empty window gives, and what the padding holds: as tract has it.
const SMALLEST: f32 = f32::MIN;

/// Pools every plane of `input`; padding never wins. Planes are those of `window`, one after the
/// other.
pub fn max_pool(window: Window, input: &[f32], output: &mut [f32]) {
    processor::run(MaxPool { window, input, output });
}

struct MaxPool<'a> {
    window: Window,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for MaxPool<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { window, input, output } = self;
        let mut slider = Slider::new(window, 1, SMALLEST);
        let planes = input
            .chunks_exact(window.input_len())
            .zip(output.chunks_exact_mut(window.output_len()));
        for (input, output) in planes {
            slider.fill(input);
            slider.slide::<A, _>(&Largest, output);
        }
    }
}

struct Largest;

impl Reduction for Largest {
    #[inline(always)]
    fn start(&self) -> f32 {
        SMALLEST
    }

    /// A comparison with NaN is false, so NaN is passed over, as in tract.
    #[inline(always)]
    fn step<A: Arithmetic>(&self, _tap: usize, largest: f32, value: f32) -> f32 {
        if largest < value { value } else { largest }
    }

    #[inline(always)]
    fn finish(&self, largest: f32) -> f32 {
        largest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::window::tests::{any_window, under};
    use super::*;

    proptest! {
        #[test]
        fn is_the_largest_value_under_the_window(window in any_window(), seed in 0usize..1000) {
            // All negative: padding with zeros would win.
            let input: Vec<f32> = (0..2 * window.input_len())
                .map(|index| -1.0 - ((index * 7919 + seed) % 255) as f32)
                .collect();
            let mut output = vec![f32::NAN; 2 * window.output_len()];
            max_pool(window, &input, &mut output);
            let planes = input.chunks_exact(window.input_len());
            for (plane, output) in planes.zip(output.chunks_exact(window.output_len())) {
                for (at, &found) in output.iter().enumerate() {
                    let at = [at / window.output[1], at % window.output[1]];
                    let expected = (0..window.taps())
                        .filter_map(|tap| {
                            let place = [tap / window.size[1], tap % window.size[1]];
                            under(&window, plane, at, place)
                        })
                        .fold(SMALLEST, f32::max);
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
