//! A small copy of a photograph, for people.

use super::resize::{Geometry, Resampler};
use super::{Picture, ResizePolicy, VisionError};

impl Picture {
    /// The photograph with `longest` pixels on its longer side; itself where it is no larger.
    ///
    /// # Errors
    /// If the picture contradicts itself or `longest` is 0.
    pub fn thumbnail(&self, longest: u32) -> Result<Self, VisionError> {
        self.check()?;
        if longest == 0 {
            return Err(VisionError::NoPixels { width: 0, height: 0 });
        }
        if self.width.max(self.height) <= longest {
            return Ok(self.clone());
        }
        let geometry = Geometry::new(ResizePolicy::Pad, self.width, self.height, longest);
        let pixels = Resampler::default().resample(self, &geometry)?.to_vec();
        Self::new(geometry.target.width, geometry.target.height, pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_keeps_shape_and_colour_and_never_enlarges() {
        let picture = Picture::new(640, 480, [200, 100, 50].repeat(640 * 480)).unwrap();
        let small = picture.thumbnail(160).unwrap();
        assert_eq!((small.width, small.height), (160, 120));
        assert!(small.pixels.chunks(3).all(|pixel| pixel == [200, 100, 50]));
        assert_eq!(picture.thumbnail(1000).unwrap(), picture);
        assert!(picture.thumbnail(0).is_err());
    }
}
