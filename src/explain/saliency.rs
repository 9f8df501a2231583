//! Input gradients and `SmoothGrad`: how the score moves with each pixel.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::occlusion::Subject;
use super::{ExplainError, SmoothGrad};
use crate::vision::TensorLayout;

/// The gradient of the score by the input tensor.
pub(super) fn input_gradient(subject: Subject<'_>) -> Result<Vec<f32>, ExplainError> {
    let logits = subject.judge.logits(subject.forward)?;
    let seed = subject.score.gradient(&logits);
    let gradients = subject.explainer.gradients(subject.forward, subject.judge, seed)?;
    Ok(gradients.into_iter().next().unwrap_or_default())
}

/// The mean of that gradient over copies of the input with Gaussian noise, whose standard deviation
/// is `settings.noise` times the input's range. The class is that of the input without noise.
pub(super) fn smooth_gradient(
    subject: Subject<'_>,
    settings: SmoothGrad,
    seed: u64,
) -> Result<Vec<f32>, ExplainError> {
    let input = subject.input;
    let low = input.iter().copied().fold(f32::INFINITY, f32::min);
    let high = input.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let deviation = settings.noise * (high - low);
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut noisy = vec![0.0; input.len()];
    let mut sum = vec![0.0; input.len()];
    for _ in 0..settings.samples {
        subject.cancel.checkpoint()?;
        for (pair, from) in noisy.chunks_mut(2).zip(input.chunks(2)) {
            let (a, b) = normal_pair(&mut rng);
            for ((to, from), noise) in pair.iter_mut().zip(from).zip([a, b]) {
                *to = from + deviation * noise;
            }
        }
        let forward = subject.explainer.forward(subject.network, &noisy)?;
        subject.cancel.checkpoint()?;
        let gradient = input_gradient(Subject { forward: &forward, ..subject })?;
        sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g);
    }
    let count = settings.samples as f32;
    sum.iter_mut().for_each(|s| *s /= count);
    Ok(sum)
}

/// Two independent normal numbers (Box and Muller 1958).
fn normal_pair(rng: &mut Pcg64Mcg) -> (f32, f32) {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
    (radius * cos, radius * sin)
}

/// One number a pixel: the largest magnitude over the colour channels (Simonyan et al. 2013,
/// section 3.1).
pub(super) fn over_channels(gradient: &[f32], channels: usize, layout: TensorLayout) -> Vec<f32> {
    let pixels = gradient.len() / channels.max(1);
    let at = |pixel: usize, channel: usize| match layout {
        TensorLayout::Nchw => channel * pixels + pixel,
        TensorLayout::Nhwc => pixel * channels + channel,
    };
    let largest = |pixel: usize| {
        (0..channels).fold(0.0_f32, |most, channel| {
            let g = gradient[at(pixel, channel)];
            // A comparison that keeps NaN, so that it is noticed.
            if g.abs() <= most { most } else { g.abs() }
        })
    };
    (0..pixels).map(largest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_mean_zero_and_deviation_one() {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let numbers: Vec<f32> =
            (0..20_000).flat_map(|_| <[f32; 2]>::from(normal_pair(&mut rng))).collect();
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        let square = numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03, "{mean} {square}");
    }

    #[test]
    fn the_largest_channel_counts_in_both_layouts() {
        let planar = [1.0, -2.0, -3.0, 0.5];
        assert_eq!(over_channels(&planar, 2, TensorLayout::Nchw), [3.0, 2.0]);
        assert_eq!(over_channels(&planar, 2, TensorLayout::Nhwc), [2.0, 3.0]);
    }
}
