//! The input's cotangent of a depthwise convolution (one input and one output channel a group).

use super::window::{Planes, Window};
use crate::grad::real::Real;

/// Adds to `grad` the cotangent that reaches the input through a kernel of channel x tap.
pub fn input_cotangent<T: Real>(
    window: &Window,
    (input, grad): (&Planes, &mut [T]),
    (output, cotangent): (&Planes, &[T]),
    kernel: &[T],
) {
    if input.column_stride == 1 {
        planar(window, (input, grad), (output, cotangent), kernel);
    } else {
        interleaved(window, (input, grad), (output, cotangent), kernel);
    }
}

/// Channels first. The cotangent is spread over a padded plane, one stride apart; on it the input's
/// cotangent is a correlation with the turned kernel, and because rows of both planes are equally
/// long it runs over a whole plane as one long row, whatever the plane's width.
fn planar<T: Real>(
    window: &Window,
    (input, grad): (&Planes, &mut [T]),
    (output, cotangent): (&Planes, &[T]),
    kernel: &[T],
) {
    let margin = |axis: usize| (window.kernel[axis] - 1) * window.dilation[axis];
    let extent = |axis: usize| {
        let read = window.input[axis] + window.pad[axis] + margin(axis);
        let written =
            window.output[axis].saturating_sub(1) * window.stride[axis] + margin(axis) + 1;
        read.max(written)
    };
    let (height, width) = (extent(0), extent(1));
    let [rows, columns] = input.size;
    let taps = window.taps();
    // One row more than the plane: the last row's reads run over its end into it.
    let mut padded = vec![T::zero(); (height + 1) * width];
    let mut sums = vec![T::zero(); rows * width];
    for sample in 0..input.batch {
        for channel in 0..input.channels {
            let from = &cotangent[output.plane(sample, channel)..];
            for y in 0..output.size[0] {
                let start = (y * window.stride[0] + margin(0)) * width + margin(1);
                let row = &from[y * output.row_stride..][..output.size[1]];
                if window.stride[1] == 1 {
                    padded[start..start + row.len()].copy_from_slice(row);
                } else {
                    let spread = padded[start..].iter_mut().step_by(window.stride[1]);
                    spread.zip(row).for_each(|(to, from)| *to = *from);
                }
            }
            sums.fill(T::zero());
            for (tap, weight) in kernel[channel * taps..(channel + 1) * taps].iter().enumerate() {
                let (ky, kx) = (tap / window.kernel[1], tap % window.kernel[1]);
                let dy = window.pad[0] + margin(0) - ky * window.dilation[0];
                let dx = window.pad[1] + margin(1) - kx * window.dilation[1];
                let shifted = &padded[dy * width + dx..];
                sums.iter_mut().zip(shifted).for_each(|(sum, c)| *sum += *weight * *c);
            }
            let to = &mut grad[input.plane(sample, channel)..];
            for y in 0..rows {
                let row = &mut to[y * columns..(y + 1) * columns];
                row.iter_mut().zip(&sums[y * width..]).for_each(|(to, sum)| *to += *sum);
            }
        }
    }
}

/// Channels last: each tap moves whole pixels.
fn interleaved<T: Real>(
    window: &Window,
    (input, grad): (&Planes, &mut [T]),
    (output, cotangent): (&Planes, &[T]),
    kernel: &[T],
) {
    let (channels, taps) = (input.channels, window.taps());
    let by_tap: Vec<T> =
        (0..taps * channels).map(|i| kernel[(i % channels) * taps + i / channels]).collect();
    for sample in 0..input.batch {
        window.spans(0..output.size[0], |span| {
            let weights = &by_tap[span.tap * channels..(span.tap + 1) * channels];
            for step in 0..span.len {
                let to = input.plane(sample, 0)
                    + span.input_row * input.row_stride
                    + (span.input_column + step * window.stride[1]) * input.column_stride;
                let from = output.plane(sample, 0)
                    + span.output_row * output.row_stride
                    + (span.output_column + step) * output.column_stride;
                let to = &mut grad[to..to + channels];
                let from = &cotangent[from..from + channels];
                for channel in 0..channels {
                    to[channel] += weights[channel] * from[channel];
                }
            }
        });
    }
}
