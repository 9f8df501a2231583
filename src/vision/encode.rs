//! From a picture to the bytes of a file.

use image::ExtendedColorType;
use image::ImageEncoder;
use image::codecs::png::PngEncoder;
use libjpeg_turbo_rs::{PixelFormat, Subsampling};

use super::{Picture, VisionError};

/// The format of an encoded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Lossless.
    Png,
    /// Lossy, with a quality from 1 to 100 (others are taken as the nearest); 90 is a good one.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
}

impl ImageFormat {
    /// Pixels of the longer side of a file at most.
    pub fn longest_side(self) -> u32 {
        match self {
            Self::Png => i32::MAX.unsigned_abs(),
            Self::Jpeg { .. } => u16::MAX.into(),
        }
    }
}

/// The bytes of a PNG or JPEG file.
///
/// # Errors
/// If the picture contradicts itself, or is too large for the format: see
/// [`ImageFormat::longest_side`].
pub fn encode(picture: &Picture, format: ImageFormat) -> Result<Vec<u8>, VisionError> {
    picture.check()?;
    let Picture { width, height, pixels } = picture;
    match format {
        ImageFormat::Png => {
            let mut bytes = Vec::new();
            PngEncoder::new(&mut bytes)
                .write_image(pixels, *width, *height, ExtendedColorType::Rgb8)
                .map_err(|error| refused("PNG", &error))?;
            Ok(bytes)
        }
        ImageFormat::Jpeg { quality } => libjpeg_turbo_rs::compress(
            pixels,
            *width as usize,
            *height as usize,
            PixelFormat::Rgb,
            quality.clamp(1, 100),
            // Heat maps and drawings have sharp edges between colours.
            Subsampling::S444,
        )
        .map_err(|error| refused("JPEG", &error)),
    }
}

fn refused(format: &'static str, error: &dyn std::error::Error) -> VisionError {
    VisionError::Encode { format, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Limits, decode};

    #[test]
    fn png_keeps_every_pixel_and_jpeg_comes_close() {
        let pixels = (0..64 * 48).flat_map(|i| [(i % 64 * 4) as u8, (i / 64 * 5) as u8, 90]);
        let picture = Picture::new(64, 48, pixels.collect()).unwrap();
        let png = encode(&picture, ImageFormat::Png).unwrap();
        assert_eq!(decode(&png, &Limits::default()).unwrap(), picture);
        let jpeg = encode(&picture, ImageFormat::Jpeg { quality: 95 }).unwrap();
        let back = decode(&jpeg, &Limits::default()).unwrap();
        let farthest =
            back.pixels.iter().zip(&picture.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(farthest <= 16, "{farthest}");
    }

    #[test]
    fn a_side_that_jpeg_cannot_express_is_an_error() {
        let picture = Picture::new(70_000, 1, vec![0; 210_000]).unwrap();
        let error = encode(&picture, ImageFormat::Jpeg { quality: 90 }).unwrap_err();
        assert!(matches!(error, VisionError::Encode { format: "JPEG", .. }), "{error}");
    }
}
