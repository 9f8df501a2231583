//! Where the input square lies on the photograph, and the resampling itself.

use std::borrow::Cow;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{Picture, Placement, ResizePolicy, VisionError};

/// Share of the resized photograph that the central crop keeps: 224 of 256.
const CROP_FRACTION: f64 = 0.875;

/// Buffers above this are given back after one large photograph.
const KEPT_BUFFER_BYTES: usize = 16 << 20;

/// A rectangle of whole pixels inside the input square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// The part of the photograph that is seen, and the part of the input that it fills.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Geometry {
    /// Left, top, width and height on the photograph; never empty, never outside.
    pub source: [f64; 4],
    pub target: Target,
}

impl Geometry {
    /// The geometry of a `width` x `height` photograph under a policy; `size` is the input's side.
    ///
    /// Cropping is expressed as a window on the photograph rather than as a second step: the
    /// resampler's taps reach beyond the window as they would in the whole resized photograph, so
    /// the pixels are those of "resize, then crop" without computing what is thrown away.
    pub fn new(policy: ResizePolicy, width: u32, height: u32, size: u32) -> Self {
        let (w, h) = (f64::from(width), f64::from(height));
        let whole = Target { x: 0, y: 0, width: size, height: size };
        match policy {
            ResizePolicy::Squash => Self { source: [0.0, 0.0, w, h], target: whole },
            ResizePolicy::Crop => {
                let shorter = (f64::from(size) / CROP_FRACTION).round();
                // As the ImageNet evaluation of onnx/models: the longer side is rounded to the nearest,
                // the crop's corner down. torchvision's differ from these by a pixel at most.
                let side = |own: f64, other: f64| {
                    if own <= other { shorter } else { (shorter * own / other).round_ties_even() }
                };
                let window = |own: f64, other: f64| {
                    let resized = side(own, other);
                    let pixels_each = own / resized;
                    let corner = ((resized - f64::from(size)) / 2.0).floor();
                    let start = corner * pixels_each;
                    (start, (f64::from(size) * pixels_each).min(own - start))
                };
                let ((left, crop_width), (top, crop_height)) = (window(w, h), window(h, w));
                Self { source: [left, top, crop_width, crop_height], target: whole }
            }
            ResizePolicy::Pad => {
                let longer = w.max(h);
                let side = |own: f64| ((own * f64::from(size) / longer).round() as u32).max(1);
                let (width, height) = (side(w), side(h));
                let target =
                    Target { x: (size - width) / 2, y: (size - height) / 2, width, height };
                Self { source: [0.0, 0.0, w, h], target }
            }
        }
    }

    pub fn placement(&self, picture: &Picture, size: u32) -> Placement {
        let [left, top, width, height] = self.source;
        let scale = [width / f64::from(self.target.width), height / f64::from(self.target.height)];
        Placement::new(
            [picture.width, picture.height],
            size,
            scale,
            [left - f64::from(self.target.x) * scale[0], top - f64::from(self.target.y) * scale[1]],
        )
    }
}

/// A resampler with its buffers; one a worker thread.
#[derive(Default)]
pub(super) struct Resampler {
    resizer: Resizer,
    /// After the first of the two axes.
    halfway: Vec<u8>,
    resized: Vec<u8>,
}

impl Resampler {
    /// The photograph's window resampled to `target.width` x `target.height` RGB pixels: bilinear
    /// with antialiasing, within one grey level of Pillow's `resize(..., BILINEAR, box)`.
    ///
    /// The two axes are separate calls because the values between them are rounded to bytes, so
    /// their order shows in the result: Pillow works along the rows first where both axes shrink
    /// alike, the resampler by itself along the columns. Small networks feel the difference. So rows
    /// go first unless what lies between would be larger than the photograph and the result: of a
    /// thin photograph that is widened it may have hundreds of times their bytes. Columns first, it
    /// is smaller than the result then.
    pub fn resample(
        &mut self,
        picture: &Picture,
        geometry: &Geometry,
    ) -> Result<&[u8], VisionError> {
        let [left, top, window_width, window_height] = geometry.source;
        let Target { width, height, .. } = geometry.target;
        let (first_row, rows) = reached(top, window_height, height, picture.height);
        let (first_column, columns) = reached(left, window_width, width, picture.width);
        let area = |width: u32, height: u32| u64::from(width) * u64::from(height);
        let most = area(picture.width, picture.height).max(area(width, height));
        let (between, first, second) = if area(width, rows) <= most {
            (
                (width, rows),
                [left, first_row, window_width, f64::from(rows)],
                [0.0, top - first_row, f64::from(width), window_height],
            )
        } else {
            (
                (columns, height),
                [first_column, top, f64::from(columns), window_height],
                [left - first_column, 0.0, window_width, f64::from(height)],
            )
        };

        let source = (picture.width, picture.height, picture.pixels.as_slice());
        pass(&mut self.resizer, source, first, &mut self.halfway, between)?;
        let source = (between.0, between.1, self.halfway.as_slice());
        pass(&mut self.resizer, source, second, &mut self.resized, (width, height))?;

        if self.resizer.size_of_internal_buffers() > KEPT_BUFFER_BYTES {
            self.resizer.reset_internal_buffers();
        }
        if self.halfway.len() > KEPT_BUFFER_BYTES {
            self.halfway = Vec::new();
        }
        Ok(&self.resized)
    }
}

impl Picture {
    /// The whole picture with no side longer than `longest` pixels; as it is where none is.
    ///
    /// # Errors
    /// If the picture contradicts itself.
    pub fn at_most(&self, longest: u32) -> Result<Cow<'_, Picture>, VisionError> {
        self.check()?;
        let longer = self.width.max(self.height);
        if longer <= longest {
            return Ok(Cow::Borrowed(self));
        }
        let geometry = Geometry::new(ResizePolicy::Pad, self.width, self.height, longest.max(1));
        let pixels = Resampler::default().resample(self, &geometry)?.to_vec();
        Picture::new(geometry.target.width, geometry.target.height, pixels).map(Cow::Owned)
    }
}

/// The first of the lines of an axis, and their number, that the taps of its call can reach where
/// `window` of its `length` lines from `start` on becomes `target` lines: a bilinear filter spans one
/// resampled pixel on either side.
fn reached(start: f64, window: f64, target: u32, length: u32) -> (f64, u32) {
    let reach = (window / f64::from(target)).max(1.0);
    let first = (start - reach).floor().max(0.0);
    let last = (start + window + reach).ceil().min(f64::from(length));
    (first, (last - first) as u32)
}

/// Resamples a window (left, top, width, height) of RGB pixels to all of `out`.
fn pass(
    resizer: &mut Resizer,
    (source_width, source_height, pixels): (u32, u32, &[u8]),
    [left, top, window_width, window_height]: [f64; 4],
    out: &mut Vec<u8>,
    (width, height): (u32, u32),
) -> Result<(), VisionError> {
    out.resize(3 * width as usize * height as usize, 0);
    let source = ImageRef::new(source_width, source_height, pixels, PixelType::U8x3)
        .map_err(|error| VisionError::Resize(error.to_string()))?;
    let mut target = Image::from_slice_u8(width, height, out, PixelType::U8x3)
        .map_err(|error| VisionError::Resize(error.to_string()))?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(left, top, window_width, window_height);
    resizer
        .resize(&source, &mut target, &options)
        .map_err(|error| VisionError::Resize(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_takes_the_window_that_resize_then_centre_crop_takes() {
        // 640 x 480 -> 341 x 256 -> the 224 in the middle, whose corner is (58, 16).
        let geometry = Geometry::new(ResizePolicy::Crop, 640, 480, 224);
        let each = 640.0 / 341.0;
        assert_eq!(geometry.source, [58.0 * each, 30.0, 224.0 * each, 420.0]);
    }

    #[test]
    fn crop_of_a_photograph_already_at_size_has_whole_corners() {
        let geometry = Geometry::new(ResizePolicy::Crop, 256, 341, 224);
        assert_eq!(geometry.source, [16.0, 58.0, 224.0, 224.0]);
    }

    #[test]
    fn a_picture_shrinks_to_its_longest_side_and_a_smaller_one_stays() {
        let picture = Picture::new(400, 100, vec![7; 400 * 100 * 3]).unwrap();
        let shrunk = picture.at_most(40).unwrap();
        assert_eq!((shrunk.width, shrunk.height), (40, 10));
        assert!(shrunk.pixels.iter().all(|value| *value == 7));
        assert!(matches!(picture.at_most(400).unwrap(), Cow::Borrowed(_)));
        let thin = Picture::new(1, 1000, vec![7; 3000]).unwrap();
        assert_eq!(thin.at_most(10).unwrap().width, 1);
    }

    #[test]
    fn a_thin_photograph_that_is_widened_takes_no_more_between_the_axes_than_at_both_ends() {
        let (length, size) = (10_000, 224);
        let grey = |at: u32, of: u32| [(255 * at / of) as u8; 3];
        let pixels: Vec<u8> = (0..length).flat_map(|at| grey(at, length)).collect();
        for (width, height) in [(1, length), (length, 1)] {
            let picture = Picture::new(width, height, pixels.clone()).unwrap();
            let geometry = Geometry::new(ResizePolicy::Squash, width, height, size);
            let mut resampler = Resampler::default();
            let resized = resampler.resample(&picture, &geometry).unwrap().to_vec();
            let both_ends = 3 * length.max(size * size) as usize;
            assert!(resampler.halfway.len() <= both_ends, "{} bytes", resampler.halfway.len());
            for (at, pixel) in resized.as_chunks::<3>().0.iter().enumerate() {
                let along = at as u32 / if width == 1 { size } else { 1 } % size;
                let [expected, ..] = grey(2 * along + 1, 2 * size);
                assert!(
                    pixel.iter().all(|value| value.abs_diff(expected) <= 1),
                    "{along}: {pixel:?}"
                );
            }
        }
    }

    #[test]
    fn pad_centres_the_whole_photograph() {
        let geometry = Geometry::new(ResizePolicy::Pad, 640, 480, 224);
        assert_eq!(geometry.source, [0.0, 0.0, 640.0, 480.0]);
        assert_eq!(geometry.target, Target { x: 0, y: 28, width: 224, height: 168 });
        let thin = Geometry::new(ResizePolicy::Pad, 1, 65_535, 224);
        assert_eq!(thin.target, Target { x: 111, y: 0, width: 1, height: 224 });
    }

    proptest::proptest! {
        #[test]
        fn the_window_is_never_empty_nor_outside(
            width in 1_u32..=65_535, height in 1_u32..=65_535, size in 1_u32..=512,
            policy in proptest::sample::select(ResizePolicy::ALL),
        ) {
            let Geometry { source: [left, top, w, h], target } =
                Geometry::new(policy, width, height, size);
            assert!(left >= 0.0 && top >= 0.0 && w > 0.0 && h > 0.0);
            assert!(left + w <= f64::from(width) && top + h <= f64::from(height));
            assert!(target.width > 0 && target.height > 0);
            assert!(target.x + target.width <= size && target.y + target.height <= size);
        }
    }
}
