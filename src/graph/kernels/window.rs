//! A window that slides over planes, with everything it reads made consecutive.
//!
//! A window of stride 2 reads every second number, which no vector load does. So each plane is first
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

/// Planes in phases, and room for a run. Made once a call, filled anew for each group of planes.
pub struct Slider {
    window: Window,
    /// Rows and columns of a phase.
    rows: usize,
    pitch: usize,
    /// The phases that some tap reads, as (vertical, horizontal).
    phases: Vec<[usize; 2]>,
    /// Where in `values` each tap begins to read, plane by plane and row-major in each.
    offsets: Vec<usize>,
    /// The phases of one plane after the other; what is padding is written once and stays.
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
    /// For groups of `depth` planes of `window`, whose sizes and strides are at least 1; `padding` is
    /// what the window reads outside of them.
    pub fn new(window: Window, depth: usize, padding: f32) -> Self {
        let (rows, pitch) = (window.phase_len(0), window.phase_len(1));
        let [stride_y, stride_x] = window.stride;
        let mut phases = Vec::new();
        let mut offsets = Vec::with_capacity(depth * window.taps());
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
        let plane = phases.len() * rows * pitch;
        for further in window.taps()..depth * window.taps() {
            offsets.push(offsets[further - window.taps()] + plane);
        }
        let joined = if window.output[1] < LONG_ROW {
            vec![0.0; (window.output[0] - 1) * pitch + window.output[1]]
        } else {
            Vec::new()
        };
        Self { window, rows, pitch, phases, offsets, values: vec![padding; depth * plane], joined }
    }

    /// Takes the planes of a group apart into their phases.
    #[inline(always)]
    pub fn fill(&mut self, planes: &[f32]) {
        let Self { window, rows, pitch, ref phases, ref mut values, .. } = *self;
        let Window { input: [_, width], stride, before, .. } = window;
        let planes = planes.chunks_exact(window.input_len());
        for (plane, values) in planes.zip(values.chunks_exact_mut(phases.len() * rows * pitch)) {
            for (phase, values) in phases.iter().zip(values.chunks_exact_mut(rows * pitch)) {
                let columns = window.inside(1, phase[1]);
                if columns.is_empty() {
                    continue;
                }
                for row in window.inside(0, phase[0]) {
                    let from = (row * stride[0] + phase[0] - before[0]) * width
                        + (columns.start * stride[1] + phase[1] - before[1]);
                    let target = &mut values[row * pitch..][columns.clone()];
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

    /// Slides over what [`Slider::fill`] took, and writes every output into `output`, a plane of
    /// [`Window::output_len`].
    #[inline(always)]
    pub fn slide<A: Arithmetic, R: Reduction>(&mut self, reduction: &R, output: &mut [f32]) {
        let Self { window, pitch, ref offsets, ref values, ref mut joined, .. } = *self;
        let rows = output.chunks_exact_mut(window.output[1]).enumerate();
        if joined.is_empty() {
            for (index, row) in rows {
                run::<A, R>(reduction, offsets, &values[index * pitch..], row);
            }
        } else {
            run::<A, R>(reduction, offsets, values, joined);
            for (index, row) in rows {
                row.copy_from_slice(&joined[index * pitch..][..window.output[1]]);
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
            let mut slider = Slider::new(window, 2, 0.0);
            // The second group must not see the first.
            for group in [[plane(0), plane(1)], [plane(5), plane(6)]] {
                let mut found = vec![f32::NAN; window.output_len()];
                slider.fill(&group.concat());
                slider.slide::<Exact, _>(&Sum, &mut found);
                for y in 0..window.output[0] {
                    for x in 0..window.output[1] {
                        let mut expected = 0.0;
                        for tap in 0..2 * window.taps() {
                            let (plane, tap_of_plane) = (tap / window.taps(), tap % window.taps());
                            let place =
                                [tap_of_plane / window.size[1], tap_of_plane % window.size[1]];
                            let value = under(&window, &group[plane], [y, x], place);
                            expected += (tap + 1) as f32 * value.unwrap_or(0.0);
                        }
                        prop_assert_eq!(found[y * window.output[1] + x], expected);
                    }
                }
            }
        }
    }
}
