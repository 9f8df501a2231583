//! Local response normalisation across channels (Krizhevsky et al., 2012, section 3.3).

use super::processor::{self, Arithmetic, Kernel};

/// The parameters of ONNX `LRN`: y = x / (bias + alpha / size * sum of squares) ^ beta, the sum
/// over `size` neighbouring channels, of which (size - 1) / 2 rounded down lie before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Weight of the neighbours.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// What is added to the sum.
    pub bias: f32,
    /// Number of channels in the sum, at least 1.
    pub size: usize,
}

/// Normalises one image: `input` and `output` are `channels` planes of equal size.
pub fn lrn(normalisation: Normalisation, channels: usize, input: &[f32], output: &mut [f32]) {
    processor::run(Lrn { normalisation, channels, input, output });
}

struct Lrn<'a> {
    normalisation: Normalisation,
    channels: usize,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Lrn<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { normalisation: Normalisation { alpha, beta, bias, size }, .. } = self;
        let plane = self.input.len() / self.channels.max(1);
        if plane == 0 {
            return;
        }
        let before = (size - 1) / 2;
        let after = size - 1 - before;
        for (channel, output) in self.output.chunks_exact_mut(plane).enumerate() {
            let first = channel.saturating_sub(before);
            let last = (channel + after).min(self.channels - 1);
            output.fill(0.0);
            for neighbour in self.input[first * plane..(last + 1) * plane].chunks_exact(plane) {
                for (sum, &value) in output.iter_mut().zip(neighbour) {
                    *sum = A::multiply_add(value, value, *sum);
                }
            }
            let values = &self.input[channel * plane..][..plane];
            let scale = alpha / size as f32;
            let each = output.iter_mut().zip(values);
            // The exponent of every published network; two square roots vectorise, a power does not.
            if beta == 0.75 {
                each.for_each(|(sum, &value)| {
                    let root = A::multiply_add(scale, *sum, bias).sqrt();
                    *sum = value / (root * root.sqrt());
                });
            } else {
                each.for_each(|(sum, &value)| {
                    *sum = value / A::multiply_add(scale, *sum, bias).powf(beta);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition_in_f64(
            channels in 1usize..9,
            plane in 1usize..40,
            size in 1usize..7,
            beta in prop::sample::select(vec![0.75f32, 0.5, 1.0]),
        ) {
            let normalisation = Normalisation { alpha: 0.3, beta, bias: 1.5, size };
            let input: Vec<f32> = (0..channels * plane)
                .map(|index| ((index * 7919) % 255) as f32 / 20.0 - 6.0)
                .collect();
            let mut output = vec![f32::NAN; input.len()];
            lrn(normalisation, channels, &input, &mut output);
            for channel in 0..channels {
                let first = channel.saturating_sub((size - 1) / 2);
                let last = (channel + size.div_ceil(2) - (size % 2)).min(channels - 1);
                for at in 0..plane {
                    let sum: f64 =
                        (first..=last).map(|c| f64::from(input[c * plane + at]).powi(2)).sum();
                    let divisor = (1.5 + f64::from(0.3f32) / size as f64 * sum).powf(beta.into());
                    let expected = f64::from(input[channel * plane + at]) / divisor;
                    let found = f64::from(output[channel * plane + at]);
                    prop_assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }
}
