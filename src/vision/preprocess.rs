//! From a photograph to the input tensor: resample, then normalise straight into place.

use super::resize::{Geometry, Resampler, Target};
use super::{ChannelOrder, Picture, Placement, Preprocessing, TensorLayout, VisionError};

/// The normalised value of each of the 256 pixel values, a table for each channel.
type Tables = [[f32; 256]; 3];

/// Preprocessing with buffers that are kept from one photograph to the next; one a worker thread.
#[derive(Default)]
pub struct Preprocessor {
    resampler: Resampler,
    tables: Option<(Preprocessing, Box<Tables>)>,
}

impl Preprocessor {
    /// Empty buffers; they grow with the first photograph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `out` with the normalised photograph, `preprocessing.tensor_len()` values in the
    /// order of `layout`, and returns where they lie on the photograph.
    ///
    /// # Errors
    /// [`VisionError::TensorSize`] if `out` has another length, [`VisionError::Preprocessing`] if
    /// a field of it makes no sense, [`VisionError::PictureSize`] if the picture contradicts
    /// itself.
    pub fn run(
        &mut self,
        picture: &Picture,
        preprocessing: &Preprocessing,
        layout: TensorLayout,
        out: &mut [f32],
    ) -> Result<Placement, VisionError> {
        preprocessing.validate()?;
        picture.check()?;
        let size = preprocessing.size;
        if out.len() != preprocessing.tensor_len() {
            let expected = preprocessing.tensor_len();
            return Err(VisionError::TensorSize { expected, actual: out.len() });
        }

        let geometry = Geometry::new(preprocessing.resize, picture.width, picture.height, size);
        let pixels = self.resampler.resample(picture, &geometry)?;
        if geometry.target != (Target { x: 0, y: 0, width: size, height: size }) {
            out.fill(0.0);
        }
        let tables = match &mut self.tables {
            Some((of, tables)) if of == preprocessing => tables,
            slot => &mut slot.insert((*preprocessing, Box::new(tables(preprocessing)))).1,
        };
        let size = size as usize;
        match (preprocessing.channels, layout) {
            (ChannelOrder::Gray, _) => write_gray(pixels, geometry.target, &tables[0], size, out),
            (order, TensorLayout::Nchw) => {
                write_planes(pixels, geometry.target, order, tables, size, out);
            }
            (order, TensorLayout::Nhwc) => {
                write_interleaved(pixels, geometry.target, order, tables, size, out);
            }
        }
        Ok(geometry.placement(picture, preprocessing.size))
    }
}

/// [`Preprocessor::run`] with buffers of its own: for one photograph.
///
/// # Errors
/// As [`Preprocessor::run`].
pub fn preprocess(
    picture: &Picture,
    preprocessing: &Preprocessing,
    layout: TensorLayout,
    out: &mut [f32],
) -> Result<Placement, VisionError> {
    Preprocessor::new().run(picture, preprocessing, layout, out)
}

/// Looking values up costs as little as computing them and gives exactly the documented formula.
fn tables(preprocessing: &Preprocessing) -> Tables {
    let Preprocessing { scale, mean, std, .. } = preprocessing;
    std::array::from_fn(|channel| {
        std::array::from_fn(|value| (value as f32 * scale - mean[channel]) / std[channel])
    })
}

/// The rows of `target`: its RGB pixels, and the place of its first pixel among the positions of a
/// plane of side `size`.
fn rows(
    pixels: &[u8],
    target: Target,
    size: usize,
) -> impl Iterator<Item = (&[u8], std::ops::Range<usize>)> {
    let width = target.width as usize;
    pixels.chunks_exact(3 * width).zip(target.y as usize..).map(move |(row, y)| {
        let start = y * size + target.x as usize;
        (row, start..start + width)
    })
}

fn write_planes(
    pixels: &[u8],
    target: Target,
    order: ChannelOrder,
    tables: &Tables,
    size: usize,
    out: &mut [f32],
) {
    let (first, rest) = out.split_at_mut(size * size);
    let (second, third) = rest.split_at_mut(size * size);
    // Red goes to the last plane of a BGR model; the tables are in the model's order.
    let (red, blue, red_table, blue_table) = match order {
        ChannelOrder::Bgr => (third, first, &tables[2], &tables[0]),
        ChannelOrder::Rgb | ChannelOrder::Gray => (first, third, &tables[0], &tables[2]),
    };
    for (row, place) in rows(pixels, target, size) {
        let planes = red[place.clone()]
            .iter_mut()
            .zip(&mut second[place.clone()])
            .zip(&mut blue[place])
            .zip(row.chunks_exact(3));
        for (((red, green), blue), pixel) in planes {
            *red = red_table[usize::from(pixel[0])];
            *green = tables[1][usize::from(pixel[1])];
            *blue = blue_table[usize::from(pixel[2])];
        }
    }
}

fn write_interleaved(
    pixels: &[u8],
    target: Target,
    order: ChannelOrder,
    tables: &Tables,
    size: usize,
    out: &mut [f32],
) {
    let (first, last) = if order == ChannelOrder::Bgr { (2, 0) } else { (0, 2) };
    for (row, place) in rows(pixels, target, size) {
        let values = &mut out[3 * place.start..3 * place.end];
        for (value, pixel) in values.chunks_exact_mut(3).zip(row.chunks_exact(3)) {
            value[0] = tables[0][usize::from(pixel[first])];
            value[1] = tables[1][usize::from(pixel[1])];
            value[2] = tables[2][usize::from(pixel[last])];
        }
    }
}

/// One channel: both layouts are the same.
fn write_gray(pixels: &[u8], target: Target, table: &[f32; 256], size: usize, out: &mut [f32]) {
    for (row, place) in rows(pixels, target, size) {
        for (value, pixel) in out[place].iter_mut().zip(row.chunks_exact(3)) {
            *value = table[usize::from(luma(pixel))];
        }
    }
}

/// Pillow's `convert("L")`: ITU-R BT.601 weights in 16-bit fixed point.
fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // exact by construction
mod tests {
    use super::*;
    use crate::vision::{Preset, ResizePolicy};

    fn gradient(width: u32, height: u32) -> Picture {
        let pixels = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, (x + 2 * y) as u8]))
            .collect();
        Picture::new(width, height, pixels).unwrap()
    }

    fn run(picture: &Picture, preprocessing: &Preprocessing, layout: TensorLayout) -> Vec<f32> {
        let mut out = vec![f32::NAN; preprocessing.tensor_len()];
        preprocess(picture, preprocessing, layout, &mut out).unwrap();
        out
    }

    #[test]
    fn values_follow_the_formula_in_both_layouts() {
        let picture = gradient(16, 16);
        let preprocessing = Preprocessing {
            resize: ResizePolicy::Squash,
            ..Preprocessing::preset(Preset::Imagenet, 16)
        };
        let planes = run(&picture, &preprocessing, TensorLayout::Nchw);
        let interleaved = run(&picture, &preprocessing, TensorLayout::Nhwc);
        for position in 0..256 {
            for channel in 0..3 {
                let pixel = f32::from(picture.pixels[3 * position + channel]);
                let expected = (pixel * preprocessing.scale - preprocessing.mean[channel])
                    / preprocessing.std[channel];
                assert_eq!(planes[256 * channel + position], expected);
                assert_eq!(interleaved[3 * position + channel], expected);
            }
        }
    }

    #[test]
    fn a_bgr_model_gets_blue_first_with_the_mean_of_blue() {
        let picture = Picture::new(1, 1, vec![10, 20, 30]).unwrap();
        let preprocessing = Preprocessing {
            resize: ResizePolicy::Squash,
            ..Preprocessing::preset(Preset::Caffe, 1)
        };
        let expected = vec![30.0 - 104.0, 20.0 - 117.0, 10.0 - 123.0];
        assert_eq!(run(&picture, &preprocessing, TensorLayout::Nchw), expected);
        assert_eq!(run(&picture, &preprocessing, TensorLayout::Nhwc), expected);
    }

    #[test]
    fn a_gray_model_gets_the_luma_in_one_channel() {
        let picture = Picture::new(1, 1, vec![255, 0, 0]).unwrap();
        let preprocessing = Preprocessing {
            channels: ChannelOrder::Gray,
            scale: 1.0,
            ..Preprocessing::preset(Preset::Unit, 1)
        };
        assert_eq!(run(&picture, &preprocessing, TensorLayout::Nhwc), vec![76.0]);
    }

    #[test]
    fn padding_is_normalised_zero_even_in_a_used_buffer() {
        let picture = Picture::new(4, 2, vec![255; 24]).unwrap();
        let preprocessing = Preprocessing {
            resize: ResizePolicy::Pad,
            ..Preprocessing::preset(Preset::Imagenet, 4)
        };
        let tensor = run(&picture, &preprocessing, TensorLayout::Nchw);
        for plane in tensor.chunks(16) {
            assert!(plane[..4].iter().chain(&plane[12..]).all(|value| *value == 0.0));
            assert!(plane[4..12].iter().all(|value| *value > 2.0));
        }
    }

    #[test]
    fn buffers_kept_between_photographs_do_not_leak_into_the_next() {
        let (first, second) = (gradient(64, 48), gradient(31, 97));
        let imagenet = Preprocessing::preset(Preset::Imagenet, 24);
        let caffe = Preprocessing::preset(Preset::Caffe, 16);
        let mut kept = Preprocessor::new();
        for (picture, preprocessing) in [(&first, &imagenet), (&second, &caffe), (&first, &caffe)] {
            let mut out = vec![f32::NAN; preprocessing.tensor_len()];
            kept.run(picture, preprocessing, TensorLayout::Nchw, &mut out).unwrap();
            assert_eq!(out, run(picture, preprocessing, TensorLayout::Nchw));
        }
    }

    #[test]
    fn a_slice_of_the_wrong_length_and_a_lying_picture_are_errors() {
        let preprocessing = Preprocessing::preset(Preset::Unit, 8);
        let mut out = vec![0.0; 191];
        let error = preprocess(&gradient(9, 9), &preprocessing, TensorLayout::Nchw, &mut out);
        assert!(matches!(error, Err(VisionError::TensorSize { expected: 192, actual: 191 })));
        let mut out = vec![0.0; 192];
        let lying = Picture { width: u32::MAX, height: u32::MAX, pixels: vec![0; 3] };
        let error = preprocess(&lying, &preprocessing, TensorLayout::Nchw, &mut out);
        assert!(matches!(error, Err(VisionError::PictureSize { .. })));
    }

    #[test]
    fn the_thinnest_pictures_fit_every_policy() {
        for (width, height) in [(1, 1), (1, 65_535), (65_535, 1)] {
            let picture =
                Picture::new(width, height, vec![7; 3 * (width * height) as usize]).unwrap();
            for &resize in ResizePolicy::ALL {
                let preprocessing = Preprocessing {
                    resize,
                    scale: 1.0,
                    ..Preprocessing::preset(Preset::Unit, 224)
                };
                let tensor = run(&picture, &preprocessing, TensorLayout::Nchw);
                assert!(tensor.iter().all(|value| *value == 7.0 || *value == 0.0), "{resize}");
                assert!(tensor.contains(&7.0));
            }
        }
    }
}
