//! A decoded photograph, and how large one may be.

use super::VisionError;

/// An upright photograph: RGB, 8 bits a channel, row by row from the top, no padding between rows.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a row, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// A picture from its pixels.
    ///
    /// # Errors
    /// If a side is zero or `pixels` does not hold exactly `3 * width * height` bytes.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, VisionError> {
        let picture = Self { width, height, pixels };
        picture.check()?;
        Ok(picture)
    }

    /// The fields are public, so every entry point that indexes `pixels` asks here first.
    pub(super) fn check(&self) -> Result<(), VisionError> {
        let Self { width, height, .. } = *self;
        if width == 0 || height == 0 {
            return Err(VisionError::NoPixels { width, height });
        }
        // 3 * u32::MAX^2 overflows u64, hence u128.
        let expected = 3 * u128::from(width) * u128::from(height);
        if self.pixels.len() as u128 != expected {
            return Err(VisionError::PictureSize {
                width,
                height,
                expected: u64::try_from(expected).unwrap_or(u64::MAX),
                actual: self.pixels.len() as u64,
            });
        }
        Ok(())
    }

    /// The pixels of row `y`, `3 * width` bytes.
    ///
    /// # Panics
    /// If `y` is not below `height`.
    pub fn row(&self, y: u32) -> &[u8] {
        let stride = 3 * self.width as usize;
        &self.pixels[y as usize * stride..][..stride]
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Picture({} x {})", self.width, self.height)
    }
}

/// Pixels of the longer side of a picture at most. Weights and taps along a side take up to 40 bytes
/// for each of its pixels: of a picture one pixel wide more than the picture itself.
const LONGEST_SIDE: u32 = 1 << 20;

/// What is refused before a pixel is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an encoded image or raw frame. Default 32 MiB, the default message limit.
    pub bytes: u64,
    /// Most pixels, width times height. Default 50 million: above every camera that is sold for
    /// these devices except binned 64-megapixel ones, and 150 MB once decoded. Decoding a JPEG takes
    /// up to twice that: kinds that need more a pixel, such as a progressive one, which keeps all its
    /// coefficients, are refused at fewer pixels. Other files take up to 8 bytes a pixel (four
    /// channels and what they are made of or into), an animated WebP 12: its canvas, its first frame
    /// and a copy.
    pub pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 << 20, pixels: 50_000_000 }
    }
}

impl Limits {
    /// Checks the size of what was sent.
    pub(super) fn check_bytes(&self, bytes: usize) -> Result<(), VisionError> {
        let bytes = bytes as u64;
        if bytes == 0 {
            return Err(VisionError::Empty);
        }
        if bytes > self.bytes {
            return Err(VisionError::TooManyBytes { bytes, limit: self.bytes });
        }
        Ok(())
    }

    /// The most that decoding may take, in bytes: the picture itself and the planes from which a
    /// baseline JPEG of three channels makes it.
    pub(super) fn decoding_bytes(&self) -> u64 {
        self.pixels.saturating_mul(6)
    }

    /// Checks the size that a header declares.
    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<(), VisionError> {
        if width == 0 || height == 0 {
            return Err(VisionError::NoPixels { width, height });
        }
        if u64::from(width) * u64::from(height) > self.pixels {
            return Err(VisionError::TooManyPixels { width, height, limit: self.pixels });
        }
        if width.max(height) > LONGEST_SIDE {
            return Err(VisionError::TooLong { width, height, limit: LONGEST_SIDE });
        }
        Ok(())
    }
}
