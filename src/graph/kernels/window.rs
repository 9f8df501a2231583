//! A window that slides over planes, with everything it reads made consecutive.
//!
//! A window of stride 2 reads every second number, which no vector load does. So a plane is first
//! rearranged into its phases: phase (y, x) holds the rows y, y + stride, ... of the padded plane
//! and of these the columns x, x + stride, .... Then every tap of the window, whatever its stride
//! and dilation, reads one phase from a fixed offset on, a number per output, and the outputs of a
//! row, or of the whole plane where rows are short, are computed as one run.

use std::ops::Range;

use super::processor::Arithmetic;

/// Rows at least this long are runs by themselves. Shorter ones are joined to a single run over the
/// whole plane; what falls between the rows is thrown away.
const LONG_ROW: usize = 48;

/// How a window of `size` slides over a plane, all as (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Extents of the plane that is read.
    pub input: [usize; 2],
    /// Extents of the plane that is written.
    pub output: [usize; 2],
    /// Taps.
    pub size: [usize; 2],
    /// Steps from one output to the next.
    pub stride: [usize; 2],
    /// Steps from one tap to the next.
    pub dilation: [usize; 2],
    /// Rows and columns of padding before the plane; behind it there is as much as is needed.
    pub before: [usize; 2],
}

/// What becomes of the numbers under a window.
pub trait Reduction {
    /// Before the first tap.
    fn start(&self) -> f32;
    /// With one tap more.
    fn step<A: Arithmetic>(&self, tap: usize, sum: f32, value: f32) -> f32;
    /// The output.
    fn finish(&self, sum: f32) -> f32;
}

/// A plane in phases, and room for a run. Made once a call, used for one plane after the other.
pub struct Slider {
    window: Window,
    /// Rows and columns of a phase.
    rows: usize,
    pitch: usize,
    /// The phases that some tap reads, as (vertical, horizontal).
    phases: Vec<[usize; 2]>,
    /// Where in `values` each tap begins to read, row-major.
    offsets: Vec<usize>,
    /// The phases one after the other; what is padding is written once and stays.
    values: Vec<f32>,
    /// The run over a whole plane, where rows are short.
    joined: Vec<f32>,
}

impl Window {
    /// Number of values in the plane that is read.
    pub fn input_len(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Number of values in the plane that is written.
    pub fn output_len(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Where tap `index` of `axis` begins to read, before division into phases.
    fn reach(&self, axis: usize, index: usize) -> usize {
        index * self.dilation[axis]
    }

    /// Positions of a phase that some tap reads along `axis`.
    fn phase_len(&self, axis: usize) -> usize {
        self.output[axis] + self.reach(axis, self.size[axis] - 1) / self.stride[axis]
    }

    /// The positions of `phase` along `axis` that lie on the plane and not in the padding.
    fn inside(&self, axis: usize, phase: usize) -> Range<usize> {
        let (before, stride) = (self.before[axis], self.stride[axis]);
        let start = before.saturating_sub(phase).div_ceil(stride);
        let end = (self.input[axis] + before).saturating_sub(phase).div_ceil(stride);
        start..end.min(self.phase_len(axis)).max(start)
    }
}

impl Slider {
    /// For planes of `window`, whose sizes and strides are at least 1; `padding` is what the window
    /// reads outside of them.
    pub fn new(window: Window, padding: f32) -> Self {
        let (rows, pitch) = (window.phase_len(0), window.phase_len(1));
        let [stride_y, stride_x] = window.stride;
        let mut phases = Vec::new();
        let mut offsets = Vec::with_capacity(window.taps());
        for y in (0..window.size[0]).map(|index| window.reach(0, index)) {
            for x in (0..window.size[1]).map(|index| window.reach(1, index)) {
                let phase = [y % stride_y, x % stride_x];
                let known = phases.iter().position(|known| *known == phase);
                let position = known.unwrap_or(phases.len());
                if known.is_none() {
                    phases.push(phase);
                }
                offsets.push((position * rows + y / stride_y) * pitch + x / stride_x);
            }
        }
        let values = vec![padding; phases.len() * rows * pitch];
        let joined = if window.output[1] < LONG_ROW && window.output_len() > 0 {
            vec![0.0; (window.output[0] - 1) * pitch + window.output[1]]
        } else {
            Vec::new()
        };
        Self { window, rows, pitch, phases, offsets, values, joined }
    }

    /// Slides over `input`, a plane of [`Window::input_len`] values, and writes every output into
    /// `output`, a plane of [`Window::output_len`].
    #[inline(always)]
    pub fn slide<A: Arithmetic, R: Reduction>(
        &mut self,
        reduction: &R,
        input: &[f32],
        output: &mut [f32],
    ) {
        self.fill(input);
        let width = self.window.output[1];
        if width == 0 {
            return;
        }
        let Self { offsets, values, joined, pitch, .. } = self;
        if joined.is_empty() {
            for (index, row) in output.chunks_exact_mut(width).enumerate() {
                run::<A, R>(reduction, offsets, &values[index * *pitch..], row);
            }
        } else {
            run::<A, R>(reduction, offsets, values, joined);
            for (index, row) in output.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(&joined[index * *pitch..][..width]);
            }
        }
    }

    /// Takes a plane apart into its phases.
    #[inline(always)]
    fn fill(&mut self, plane: &[f32]) {
        let Window { input: [_, width], stride, before, .. } = self.window;
        let phase_len = self.rows * self.pitch;
        for (phase, values) in self.phases.iter().zip(self.values.chunks_exact_mut(phase_len)) {
            let rows = self.window.inside(0, phase[0]);
            let columns = self.window.inside(1, phase[1]);
            if columns.is_empty() {
                continue;
            }
            for row in rows {
                let from = (row * stride[0] + phase[0] - before[0]) * width
                    + (columns.start * stride[1] + phase[1] - before[1]);
                let target = &mut values[row * self.pitch..][columns.clone()];
                // Constant strides become shuffles of whole vectors.
                match stride[1] {
                    1 => target.copy_from_slice(&plane[from..][..target.len()]),
                    2 => gather::<2>(&plane[from..], target),
                    other => {
                        let source = plane[from..].iter().step_by(other);
                        target.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
}

/// Every `STRIDE`th value of `source`, from the first on.
#[inline(always)]
fn gather<const STRIDE: usize>(source: &[f32], target: &mut [f32]) {
    let Some((last, head)) = target.split_last_mut() else { return };
    for (to, from) in head.iter_mut().zip(source.chunks_exact(STRIDE)) {
        *to = from[0];
    }
    // Behind the last value the plane may end.
    *last = source[head.len() * STRIDE];
}

/// Computes consecutive outputs: output i reads `values[offset + i]` for each tap's offset.
#[inline(always)]
fn run<A: Arithmetic, R: Reduction>(
    reduction: &R,
    offsets: &[usize],
    values: &[f32],
    output: &mut [f32],
) {
    match output.len() {
        64.. => run_by::<A, R, 64>(reduction, offsets, values, output),
        32.. => run_by::<A, R, 32>(reduction, offsets, values, output),
        8.. => run_by::<A, R, 8>(reduction, offsets, values, output),
        _ => run_by::<A, R, 1>(reduction, offsets, values, output),
    }
}

/// [`run`] in steps of `LANES`; the last step overlaps the one before.
#[inline(always)]
fn run_by<A: Arithmetic, R: Reduction, const LANES: usize>(
    reduction: &R,
    offsets: &[usize],
    values: &[f32],
    output: &mut [f32],
) {
    let mut at = 0;
    while at + LANES <= output.len() {
        step::<A, R, LANES>(reduction, offsets, values, at, output);
        at += LANES;
    }
    if at < output.len() {
        step::<A, R, LANES>(reduction, offsets, values, output.len() - LANES, output);
    }
}

/// `LANES` outputs from `at` on, their sums in registers.
#[inline(always)]
fn step<A: Arithmetic, R: Reduction, const LANES: usize>(
    reduction: &R,
    offsets: &[usize],
    values: &[f32],
    at: usize,
    output: &mut [f32],
) {
    let mut sums = [reduction.start(); LANES];
    for (tap, offset) in offsets.iter().enumerate() {
        let taken = &values[offset + at..][..LANES];
        for lane in 0..LANES {
            sums[lane] = reduction.step::<A>(tap, sums[lane], taken[lane]);
        }
    }
    for (output, sum) in output[at..][..LANES].iter_mut().zip(sums) {
        *output = reduction.finish(sum);
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any window that fits on its plane, small enough to check by hand.
    pub fn any_window() -> impl Strategy<Value = Window> {
        fn axis() -> impl Strategy<Value = [usize; 6]> {
            (1usize..=5, 1usize..=3, 1usize..=3, 0usize..=3, 0usize..=3, 0usize..=70).prop_map(
                |(size, stride, dilation, before, after, more)| {
                    let reach = (size - 1) * dilation + 1;
                    let input = reach.saturating_sub(before + after).max(1) + more;
                    let output = (input + before + after - reach) / stride + 1;
                    [input, output, size, stride, dilation, before]
                },
            )
        }
        (axis(), axis()).prop_map(|(y, x)| {
            let pair = |index: usize| [y[index], x[index]];
            Window {
                input: pair(0),
                output: pair(1),
                size: pair(2),
                stride: pair(3),
                dilation: pair(4),
                before: pair(5),
            }
        })
    }

    /// What the tap at (`ky`, `kx`) of the output at (`y`, `x`) reads; `None` in the padding.
    pub fn under(window: &Window, plane: &[f32], at: [usize; 2], tap: [usize; 2]) -> Option<f32> {
        let position = |axis: usize| {
            (at[axis] * window.stride[axis] + tap[axis] * window.dilation[axis])
                .checked_sub(window.before[axis])
                .filter(|position| *position < window.input[axis])
        };
        Some(plane[position(0)? * window.input[1] + position(1)?])
    }

    /// Adds up, each tap with another weight, so that a tap in the wrong place shows.
    struct Sum;

    impl Reduction for Sum {
        fn start(&self) -> f32 {
            0.0
        }

        fn step<A: Arithmetic>(&self, tap: usize, sum: f32, value: f32) -> f32 {
            sum + (tap + 1) as f32 * value
        }

        fn finish(&self, sum: f32) -> f32 {
            sum
        }
    }

    struct Exact;

    impl Arithmetic for Exact {
        fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
            a * b + c
        }
    }

    proptest! {
        #[test]
        fn every_output_is_what_lies_under_the_window(window in any_window()) {
            // Small whole numbers: sums are exact in any order.
            let plane = |shift: usize| -> Vec<f32> {
                (0..window.input_len()).map(|index| ((index * 31 + shift) % 17) as f32).collect()
            };
            let mut slider = Slider::new(window, 0.0);
            // The second plane must not see the first.
            for plane in [plane(0), plane(5)] {
                let mut found = vec![f32::NAN; window.output_len()];
                slider.slide::<Exact, _>(&Sum, &plane, &mut found);
                for y in 0..window.output[0] {
                    for x in 0..window.output[1] {
                        let mut expected = 0.0;
                        for tap in 0..window.taps() {
                            let place = [tap / window.size[1], tap % window.size[1]];
                            let value = under(&window, &plane, [y, x], place).unwrap_or(0.0);
                            expected += (tap + 1) as f32 * value;
                        }
                        prop_assert_eq!(found[y * window.output[1] + x], expected);
                    }
                }
            }
        }
    }
}
