//! A feature map with its axes in a known order.

use std::borrow::Cow;

use crate::graph::Tap;
use crate::vision::TensorLayout;

/// Where channel, row and column lie in a value of the graph. tract drops the batch axis and may
/// move others, so this is worked out from the tap once for each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axes {
    /// Channels, height, width.
    pub extents: [usize; 3],
    strides: [usize; 3],
}

impl Axes {
    /// For a value of `shape` at `tap`, of an ONNX tensor with this layout. `None` where an axis
    /// of the value is none of the tensor's and longer than one.
    pub fn new(tap: &Tap, shape: &[usize], layout: TensorLayout) -> Option<Axes> {
        let roles = match layout {
            TensorLayout::Nchw => [1, 2, 3],
            TensorLayout::Nhwc => [3, 1, 2],
        };
        let mut axes = Axes { extents: [1; 3], strides: [0; 3] };
        let mut stride = 1;
        for (axis, extent) in shape.iter().enumerate().rev() {
            let role = tap.axes.get(axis)?.and_then(|onnx| roles.iter().position(|r| *r == onnx));
            match role {
                Some(role) => {
                    axes.extents[role] = *extent;
                    axes.strides[role] = stride;
                }
                None if *extent == 1 => {}
                None => return None,
            }
            stride *= extent;
        }
        Some(axes)
    }

    /// The value as channels, rows, columns.
    pub fn read<'a>(&self, value: &'a [f32]) -> FeatureMap<'a> {
        let [channels, height, width] = self.extents;
        let values = if self.in_order() {
            Cow::Borrowed(value)
        } else {
            let mut copy = Vec::with_capacity(value.len());
            for channel in 0..channels {
                copy.extend((0..height * width).map(|pixel| value[self.offset(channel, pixel)]));
            }
            Cow::Owned(copy)
        };
        FeatureMap { channels, height, width, values }
    }

    /// A value in which each channel's share of `by_channel` lies evenly on its pixels: the
    /// cotangent of a mean over space.
    pub fn spread(&self, by_channel: &[f32]) -> Vec<f32> {
        let [channels, height, width] = self.extents;
        let area = height * width;
        let mut value = vec![0.0; channels * area];
        if self.in_order() {
            for (plane, whole) in value.chunks_exact_mut(area).zip(by_channel) {
                plane.fill(whole / area as f32);
            }
            return value;
        }
        for (channel, whole) in by_channel.iter().enumerate().take(channels) {
            for pixel in 0..area {
                value[self.offset(channel, pixel)] = whole / area as f32;
            }
        }
        value
    }

    /// Whether the value lies as channels, rows, columns already.
    fn in_order(&self) -> bool {
        let [_, height, width] = self.extents;
        let dense = [height * width, width, 1];
        (0..3).all(|i| self.extents[i] == 1 || self.strides[i] == dense[i])
    }

    /// Offset of a pixel of a channel in the value.
    pub fn offset(&self, channel: usize, pixel: usize) -> usize {
        let [_, _, width] = self.extents;
        let [c, y, x] = self.strides;
        channel * c + pixel / width * y + pixel % width * x
    }
}

/// Activations or gradients: channels x rows x columns.
#[derive(Debug, Clone)]
pub struct FeatureMap<'a> {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channel by channel, row by row.
    pub values: Cow<'a, [f32]>,
}

impl FeatureMap<'_> {
    /// Pixels of one channel.
    pub fn area(&self) -> usize {
        self.height * self.width
    }

    /// One channel's plane.
    pub fn plane(&self, channel: usize) -> &[f32] {
        &self.values[channel * self.area()..(channel + 1) * self.area()]
    }

    /// All planes in order.
    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.area().max(1))
    }
}
