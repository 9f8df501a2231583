//! Heat maps: enlarged, and blended over the photograph that they explain.

use super::{ColorMap, Picture, Placement, VisionError};

/// How much of the heat map's colour covers the photograph unless told otherwise.
pub const DEFAULT_STRENGTH: f32 = 0.4;
/// Pixels drawn in one piece: a few milliseconds.
const PIECE: usize = 1 << 18;

/// A heat map over the whole input of a network, row by row; its cells tile the input evenly.
#[derive(Clone, Copy, Debug)]
pub struct HeatMap<'a> {
    height: usize,
    width: usize,
    values: &'a [f32],
}

impl<'a> HeatMap<'a> {
    /// A map of `height` rows by `width` columns.
    ///
    /// # Errors
    /// [`VisionError::HeatMapSize`] if a side is zero or `values` has another length.
    pub fn new(height: usize, width: usize, values: &'a [f32]) -> Result<Self, VisionError> {
        let expected = height.saturating_mul(width);
        if expected == 0 || values.len() != expected {
            let actual = values.len();
            return Err(VisionError::HeatMapSize { height, width, expected, actual });
        }
        Ok(Self { height, width, values })
    }

    /// The map enlarged (or sampled down) to `height` x `width` cells: bilinear between cell
    /// centres, the border cells continued outwards; as `torch.nn.functional.interpolate` with
    /// `align_corners=False` and OpenCV's `INTER_LINEAR`.
    pub fn resize(&self, height: usize, width: usize) -> Vec<f32> {
        let taps = |cells: usize, of: usize| -> Vec<Tap> {
            let step = cells as f64 / of as f64;
            (0..of).map(|i| Tap::at((i as f64 + 0.5) * step, cells)).collect()
        };
        let (columns, rows) = (taps(self.width, width), taps(self.height, height));
        let mut values = Vec::with_capacity(width.saturating_mul(height));
        for row in rows {
            values.extend(columns.iter().map(|&column| self.sample(row, column)));
        }
        values
    }

    fn sample(&self, row: Tap, column: Tap) -> f32 {
        let line = |y: usize| {
            let line = &self.values[y * self.width..][..self.width];
            mix(line[column.first], line[column.second], column.share)
        };
        mix(line(row.first), line(row.second), row.share)
    }
}

/// Two neighbouring cells and the share of the second.
#[derive(Clone, Copy, Debug)]
struct Tap {
    first: usize,
    second: usize,
    share: f32,
}

impl Tap {
    /// The cells around `position`, which counts cells from the border (centres at one half).
    fn at(position: f64, cells: usize) -> Self {
        let position = (position - 0.5).clamp(0.0, (cells - 1) as f64);
        let first = position as usize;
        Self { first, second: (first + 1).min(cells - 1), share: (position - first as f64) as f32 }
    }
}

fn mix(first: f32, second: f32, share: f32) -> f32 {
    first + (second - first) * share
}

/// Brings a heat map onto the photograph, one row at a time, so that a map of a large photograph
/// never lies in memory whole.
pub(super) struct Upsampler<'a> {
    map: &'a HeatMap<'a>,
    placement: &'a Placement,
    /// A tap for each column of the photograph, none where the network did not look.
    columns: Vec<Option<Tap>>,
    row: Vec<Option<f32>>,
}

/// Whether a piece of work on a photograph of this width ends before row `y`.
pub(super) fn begins_piece(y: u32, width: u32) -> bool {
    (y as usize).is_multiple_of((PIECE / width.max(1) as usize).max(1))
}

impl<'a> Upsampler<'a> {
    pub fn new(map: &'a HeatMap<'a>, placement: &'a Placement) -> Self {
        let width = placement.picture_size().0;
        let columns = (0..width)
            .map(|x| {
                let (input, _) = placement.to_input(f64::from(x) + 0.5, 0.0);
                tap(input, map.width, placement.input_size())
            })
            .collect();
        Self { map, placement, columns, row: vec![None; width as usize] }
    }

    /// The values along row `y` of the photograph, none where the network did not look.
    pub fn row(&mut self, y: u32) -> &[Option<f32>] {
        let (_, input) = self.placement.to_input(0.0, f64::from(y) + 0.5);
        let row = tap(input, self.map.height, self.placement.input_size());
        for (value, column) in self.row.iter_mut().zip(&self.columns) {
            *value = row.zip(*column).map(|(row, column)| self.map.sample(row, column));
        }
        &self.row
    }
}

fn tap(input: f64, cells: usize, size: u32) -> Option<Tap> {
    let size = f64::from(size);
    (0.0..=size).contains(&input).then(|| Tap::at(input / size * cells as f64, cells))
}

/// The photograph with the heat map's colours over it:
/// `(1 - strength) * photograph + strength * colour`. What the network did not see (cropped away)
/// keeps its own colour.
///
/// `map` has values from 0 to 1 (others are clamped, NaN counts as 0); `strength` from 0 to 1.
/// `between` is called before each piece of a few milliseconds.
///
/// # Errors
/// If the picture contradicts itself or is not the one that the placement was made for, and those of
/// `between`, which end the drawing.
pub fn overlay<E: From<VisionError>>(
    picture: &Picture,
    map: &HeatMap,
    placement: &Placement,
    colors: ColorMap,
    strength: f32,
    mut between: impl FnMut() -> Result<(), E>,
) -> Result<Picture, E> {
    picture.check()?;
    if placement.picture_size() != (picture.width, picture.height) {
        let (width, height) = placement.picture_size();
        return Err(VisionError::PictureSize {
            width,
            height,
            expected: 3 * u64::from(width) * u64::from(height),
            actual: picture.pixels.len() as u64,
        }
        .into());
    }
    let strength = if strength > 0.0 { strength.min(1.0) } else { 0.0 }; // NaN counts as 0
    let palette = colors.palette();
    let mut upsampler = Upsampler::new(map, placement);
    let mut pixels = picture.pixels.clone();
    let stride = 3 * picture.width as usize;
    for (y, line) in (0..picture.height).zip(pixels.chunks_exact_mut(stride)) {
        if begins_piece(y, picture.width) {
            between()?;
        }
        for (pixel, value) in line.chunks_exact_mut(3).zip(upsampler.row(y)) {
            let Some(value) = value else { continue };
            let color = palette[(value.clamp(0.0, 1.0) * 255.0).round() as usize];
            for (channel, color) in pixel.iter_mut().zip(color) {
                let mixed = mix(f32::from(*channel), f32::from(color), strength);
                *channel = mixed.round() as u8;
            }
        }
    }
    Ok(Picture { pixels, ..*picture })
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;
    use crate::vision::{Preprocessing, Preset, ResizePolicy, TensorLayout, preprocess};

    /// Nobody else wants to work.
    #[allow(clippy::unnecessary_wraps)] // as the drawing calls it
    fn ready() -> Result<(), VisionError> {
        Ok(())
    }

    fn placement(picture: &Picture, resize: ResizePolicy) -> Placement {
        let preprocessing = Preprocessing { resize, ..Preprocessing::preset(Preset::Unit, 28) };
        let mut out = vec![0.0; preprocessing.tensor_len()];
        preprocess(picture, &preprocessing, TensorLayout::Nchw, &mut out).unwrap()
    }

    #[test]
    fn enlarging_agrees_with_pytorch_interpolate() {
        // torch.nn.functional.interpolate(torch.tensor([[[[0., 1.], [2., 4.]]]]), size=(4, 4),
        // mode="bilinear", align_corners=False)
        let map = HeatMap::new(2, 2, &[0.0, 1.0, 2.0, 4.0]).unwrap();
        let expected = [
            0.0, 0.25, 0.75, 1.0, 0.5, 0.8125, 1.4375, 1.75, 1.5, 1.9375, 2.8125, 3.25, 2.0, 2.5,
            3.5, 4.0,
        ];
        assert_eq!(map.resize(4, 4), expected);
    }

    #[test]
    fn a_hot_cell_comes_back_to_its_place_on_the_photograph() {
        let picture = Picture::new(640, 480, vec![0; 640 * 480 * 3]).unwrap();
        for &resize in ResizePolicy::ALL {
            let placement = placement(&picture, resize);
            let mut values = [0.0; 49];
            values[7 * 2 + 4] = 1.0;
            let map = HeatMap::new(7, 7, &values).unwrap();
            let enlarged = placement.map_to_picture(&map, |value| value, ready).unwrap();
            let hottest =
                (0..enlarged.len()).max_by(|a, b| enlarged[*a].total_cmp(&enlarged[*b])).unwrap();
            let (x, y) = placement.to_input((hottest % 640) as f64, (hottest / 640) as f64);
            assert!((x - 18.0).abs() < 0.5 && (y - 10.0).abs() < 0.5, "{resize}: {x} {y}");
        }
    }

    #[test]
    fn what_was_cropped_away_is_zero_in_the_map_and_untouched_in_the_overlay() {
        let picture = Picture::new(300, 100, vec![50; 300 * 100 * 3]).unwrap();
        let placement = placement(&picture, ResizePolicy::Crop);
        let map = HeatMap::new(1, 1, &[1.0]).unwrap();
        let enlarged = placement.map_to_picture(&map, |value| value, ready).unwrap();
        assert_eq!(enlarged[50 * 300 + 10], 0.0);
        assert_eq!(enlarged[50 * 300 + 150], 1.0);
        let covered = overlay(&picture, &map, &placement, ColorMap::Grey, 0.4, ready).unwrap();
        assert_eq!(covered.row(50)[30..33], [50, 50, 50]);
        assert_eq!(covered.row(50)[450..453], [132, 132, 132]); // 0.6 * 50 + 0.4 * 255
    }

    #[test]
    fn a_large_photograph_is_drawn_in_pieces_and_no_further_than_is_wanted() {
        let picture = Picture::new(1024, 1024, vec![50; 1024 * 1024 * 3]).unwrap();
        let placement = placement(&picture, ResizePolicy::Squash);
        let map = HeatMap::new(1, 1, &[1.0]).unwrap();
        let draw = |between: &mut dyn FnMut() -> Result<(), VisionError>| {
            overlay(&picture, &map, &placement, ColorMap::Grey, 0.4, between).map(drop)
        };
        let enlarge = |between: &mut dyn FnMut() -> Result<(), VisionError>| {
            placement.map_to_picture(&map, |value| value, between).map(drop)
        };
        type Work<'a> =
            &'a dyn Fn(&mut dyn FnMut() -> Result<(), VisionError>) -> Result<(), VisionError>;
        for work in [&draw as Work<'_>, &enlarge] {
            let mut pieces = 0;
            let mut count = || {
                pieces += 1;
                Ok(())
            };
            work(&mut count).unwrap();
            assert_eq!(pieces, 4);
            let mut pieces = 0;
            let mut stop = || {
                pieces += 1;
                let enough = VisionError::Resize("enough".into());
                if pieces == 2 { Err(enough) } else { Ok(()) }
            };
            assert!(work(&mut stop).is_err());
            assert_eq!(pieces, 2);
        }
    }

    #[test]
    fn nonsense_in_the_map_does_not_panic() {
        let picture = Picture::new(10, 10, vec![50; 300]).unwrap();
        let placement = placement(&picture, ResizePolicy::Squash);
        let values = [f32::NAN, f32::INFINITY, -5.0, 1e30];
        let map = HeatMap::new(2, 2, &values).unwrap();
        overlay(&picture, &map, &placement, ColorMap::Jet, f32::NAN, ready).unwrap();
        assert!(HeatMap::new(0, 5, &[]).is_err());
        assert!(HeatMap::new(2, 2, &[0.0; 3]).is_err());
        let other = Picture::new(11, 10, vec![50; 330]).unwrap();
        assert!(overlay(&other, &map, &placement, ColorMap::Jet, 0.4, ready).is_err());
    }
}
