//! The geometry that convolutions and pools share: images as strided planes, and where a sliding
//! window's taps fall.

use std::ops::Range;

use tract_onnx::tract_core::ops::cnn::PoolSpec;
use tract_onnx::tract_core::ops::nn::DataFormat;

use crate::grad::rule::Unsupported;

/// How an image of one or two spatial axes lies in memory. A missing height counts as one.
#[derive(Debug, Clone)]
pub struct Planes {
    pub batch: usize,
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub sample_stride: usize,
    pub channel_stride: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl Planes {
    pub fn new(format: DataFormat, shape: &[usize]) -> Result<Planes, Unsupported> {
        let (batch, rest) = match (format.has_n(), shape) {
            (true, [batch, rest @ ..]) => (*batch, rest),
            (_, rest) => (1, rest),
        };
        let (channels, spatial) = match (format.c_is_last(), rest) {
            (true, [spatial @ .., channels]) | (false, [channels, spatial @ ..]) => {
                (*channels, spatial)
            }
            _ => return Err(Unsupported::new("an input without a channel axis")),
        };
        let size = match spatial {
            [width] => [1, *width],
            [height, width] => [*height, *width],
            _ => return Err(Unsupported::new(format!("{} spatial axes", spatial.len()))),
        };
        let area = size[0] * size[1];
        let (channel_stride, column_stride) =
            if format.c_is_last() { (1, channels) } else { (area, 1) };
        Ok(Planes {
            batch,
            channels,
            size,
            sample_stride: channels * area,
            channel_stride,
            row_stride: size[1] * column_stride,
            column_stride,
        })
    }

    pub fn len(&self) -> usize {
        self.batch * self.sample_stride
    }

    pub fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Offset of one channel's plane in one sample.
    pub fn plane(&self, sample: usize, channel: usize) -> usize {
        sample * self.sample_stride + channel * self.channel_stride
    }
}

/// A window sliding over a plane.
#[derive(Debug, Clone)]
pub struct Window {
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Padding before the first row and column; what lies after follows from the output's size.
    pub pad: [usize; 2],
}

/// Neighbouring outputs of one row for which one tap lies within the input.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Index of the tap in the row-major kernel.
    pub tap: usize,
    pub output_row: usize,
    pub output_column: usize,
    pub input_row: usize,
    /// Input column of the first output; the next lie one column stride further each.
    pub input_column: usize,
    pub len: usize,
}

impl Window {
    pub fn new(spec: &PoolSpec, input: [usize; 2]) -> Result<Window, Unsupported> {
        let rank = spec.kernel_shape.len();
        let spatial = &input[2 - rank.clamp(1, 2)..];
        if rank != spatial.len() {
            return Err(Unsupported::new(format!("{rank} spatial axes")));
        }
        let computed = spec.computed_padding(spatial);
        let pair = |axis: &dyn Fn(usize) -> usize, default: usize| match rank {
            1 => [default, axis(0)],
            _ => [axis(0), axis(1)],
        };
        Ok(Window {
            input,
            output: pair(&|axis| computed[axis].convoluted, 1),
            kernel: pair(&|axis| spec.kernel_shape[axis], 1),
            stride: pair(&|axis| spec.stride(axis), 1),
            dilation: pair(&|axis| spec.dilation(axis), 1),
            pad: pair(&|axis| computed[axis].pad_before, 0),
        })
    }

    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether every output reads exactly the input of its own place.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.pad == [0, 0]
            && self.input == self.output
    }

    /// Outputs along one axis for which tap `k` lies within the input.
    pub fn reach(&self, axis: usize, k: usize) -> Range<usize> {
        let (stride, reach) = (self.stride[axis], k * self.dilation[axis]);
        let first = self.pad[axis].saturating_sub(reach).div_ceil(stride);
        let end = (self.input[axis] + self.pad[axis]).saturating_sub(reach).div_ceil(stride);
        first..end.min(self.output[axis]).max(first)
    }

    /// Visits all spans of the given output rows, tap by tap.
    pub fn spans(&self, rows: Range<usize>, mut visit: impl FnMut(Span)) {
        for ky in 0..self.kernel[0] {
            let reached = self.reach(0, ky);
            for kx in 0..self.kernel[1] {
                let columns = self.reach(1, kx);
                if columns.is_empty() {
                    continue;
                }
                let input_column =
                    columns.start * self.stride[1] + kx * self.dilation[1] - self.pad[1];
                for row in reached.start.max(rows.start)..reached.end.min(rows.end) {
                    visit(Span {
                        tap: ky * self.kernel[1] + kx,
                        output_row: row,
                        output_column: columns.start,
                        input_row: row * self.stride[0] + ky * self.dilation[0] - self.pad[0],
                        input_column,
                        len: columns.len(),
                    });
                }
            }
        }
    }
}
