//! Methods that change what the network sees and watch the score: Score-CAM and Ablation-CAM.

use super::explainer::Forward;
use super::{ExplainError, Explainer, FeatureMap, Judge, Score};
use crate::base::cancel::Cancel;
use crate::graph::Network;
use crate::heads::softmax;
use crate::vision::TensorLayout;

/// Keeps Score-CAM's masks finite (pytorch-grad-cam's value).
const MASK_EPSILON: f32 = 1e-8;

/// One input under explanation.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub explainer: &'a Explainer,
    pub network: &'a Network,
    pub input: &'a [f32],
    pub forward: &'a Forward,
    pub judge: &'a Judge<'a>,
    pub score: Score,
    pub cancel: &'a Cancel,
}

/// Score-CAM's weight of each channel of a layer: the softmax over the channels of the score that
/// remains when the input is multiplied with the channel's activations, enlarged and brought to
/// 0 to 1. Channels that are not among the `most` active ones weigh nothing.
pub(super) fn score_cam(
    subject: Subject<'_>,
    activations: &FeatureMap<'_>,
    most: Option<usize>,
) -> Result<Vec<f32>, ExplainError> {
    let size = subject.network.input().size;
    let chosen = most_active(activations, most);
    let mut masked = vec![0.0; subject.input.len()];
    let mut scores = Vec::with_capacity(chosen.len());
    for channel in &chosen {
        subject.cancel.checkpoint()?;
        let (height, width) = (activations.height, activations.width);
        let mut mask = enlarge_aligned(activations.plane(*channel), (height, width), size);
        stretch(&mut mask);
        mask_input(subject.network, subject.input, &mask, &mut masked);
        let forward = subject.explainer.forward(subject.network, &masked)?;
        scores.push(subject.score.value(&subject.judge.logits(&forward)?));
    }
    let mut weights = vec![0.0; activations.channels];
    for (channel, weight) in chosen.iter().zip(softmax(&scores)) {
        weights[*channel] = weight;
    }
    Ok(weights)
}

/// Ablation-CAM's weight of each channel: the share of the score that is lost without it.
pub(super) fn ablation_cam(
    subject: Subject<'_>,
    layer: usize,
    activations: &FeatureMap<'_>,
    most: Option<usize>,
) -> Result<Vec<f32>, ExplainError> {
    let Subject { explainer, forward, judge, score, .. } = subject;
    let whole = score.value(&judge.logits(forward)?);
    let mut weights = vec![0.0; activations.channels];
    let native = explainer.native(layer, forward);
    let axes = &explainer.explained()[layer].axes;
    let mut changed = native.to_vec();
    for channel in most_active(activations, most) {
        subject.cancel.checkpoint()?;
        let offsets = || (0..activations.area()).map(|pixel| axes.offset(channel, pixel));
        offsets().for_each(|at| changed[at] = 0.0);
        let left = score.value(&explainer.behind(layer, &changed, forward, judge)?);
        offsets().for_each(|at| changed[at] = native[at]);
        if whole != 0.0 {
            weights[channel] = (whole - left) / whole;
        }
    }
    Ok(weights)
}

/// The channels with the largest mean activation, in channel order.
fn most_active(activations: &FeatureMap<'_>, most: Option<usize>) -> Vec<usize> {
    let mut channels: Vec<usize> = (0..activations.channels).collect();
    if let Some(most) = most {
        let sums: Vec<f32> = activations.planes().map(|plane| plane.iter().sum()).collect();
        channels.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
        channels.truncate(most);
        channels.sort_unstable();
    }
    channels
}

/// Bilinear enlargement with the corner cells on the corners (`align_corners=True`), as
/// pytorch-grad-cam enlarges Score-CAM's masks; everything else here aligns cell borders.
fn enlarge_aligned(plane: &[f32], (height, width): (usize, usize), size: usize) -> Vec<f32> {
    let taps = |cells: usize| -> Vec<(usize, usize, f32)> {
        let step = (cells - 1) as f32 / (size.max(2) - 1) as f32;
        let tap = |i: usize| {
            let at = i as f32 * step;
            let first = (at as usize).min(cells - 1);
            (first, (first + 1).min(cells - 1), at - first as f32)
        };
        (0..size).map(tap).collect()
    };
    let (rows, columns) = (taps(height), taps(width));
    let mut enlarged = Vec::with_capacity(size * size);
    for (top, bottom, down) in rows {
        let along = |row: usize, (left, right, share): (usize, usize, f32)| {
            let (a, b) = (plane[row * width + left], plane[row * width + right]);
            a + (b - a) * share
        };
        enlarged.extend(columns.iter().map(|column| {
            let (a, b) = (along(top, *column), along(bottom, *column));
            a + (b - a) * down
        }));
    }
    enlarged
}

/// To 0 to 1.
fn stretch(mask: &mut [f32]) {
    let low = mask.iter().copied().fold(f32::INFINITY, f32::min);
    let high = mask.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in mask {
        *value = (*value - low) / (high - low + MASK_EPSILON);
    }
}

/// `masked = input * mask`, the mask having one value a pixel.
pub(super) fn mask_input(network: &Network, input: &[f32], mask: &[f32], masked: &mut [f32]) {
    let channels = network.input().channels;
    for (at, (to, from)) in masked.iter_mut().zip(input).enumerate() {
        let pixel = match network.input().layout {
            TensorLayout::Nchw => at % mask.len(),
            TensorLayout::Nhwc => at / channels,
        };
        *to = from * mask[pixel];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_enlargement_agrees_with_pytorchs_upsampling_bilinear_2d() {
        // torch.nn.UpsamplingBilinear2d(size=(4, 4))(torch.tensor([[[[0., 1.], [2., 4.]]]]))
        let enlarged = enlarge_aligned(&[0.0, 1.0, 2.0, 4.0], (2, 2), 4);
        let third = 1.0 / 3.0;
        let expected = [
            0.0,
            third,
            2.0 * third,
            1.0,
            2.0 * third,
            10.0 / 9.0,
            14.0 / 9.0,
            2.0,
            4.0 * third,
            17.0 / 9.0,
            22.0 / 9.0,
            3.0,
            2.0,
            8.0 * third,
            10.0 * third,
            4.0,
        ];
        for (a, b) in enlarged.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{enlarged:?}");
        }
    }

    #[test]
    fn a_flat_mask_stretches_to_zero_and_not_to_nan() {
        let mut mask = [5.0; 9];
        stretch(&mut mask);
        assert_eq!(mask, [0.0; 9]);
    }
}
