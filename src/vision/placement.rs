//! The affine map between the input square of a network and the photograph.

use super::overlay::{HeatMap, Upsampler, begins_piece};

/// A box in continuous coordinates: `x0 <= x1`, `y0 <= y1`, the far sides exclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundingBox {
    /// Left side.
    pub x0: f32,
    /// Top side.
    pub y0: f32,
    /// Right side.
    pub x1: f32,
    /// Bottom side.
    pub y1: f32,
}

/// Where the input square lies on the upright photograph; undoes crop, squash and pad:
/// `photograph = origin + scale * input`, in continuous coordinates on each axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    picture: [u32; 2],
    size: u32,
    scale: [f64; 2],
    origin: [f64; 2],
}

impl Placement {
    pub(super) fn new(picture: [u32; 2], size: u32, scale: [f64; 2], origin: [f64; 2]) -> Self {
        Self { picture, size, scale, origin }
    }

    /// The placement of an input that *is* the photograph, `size` x `size` pixels: for tensors
    /// that came without one.
    pub fn identity(size: u32) -> Self {
        Self::new([size, size], size, [1.0; 2], [0.0; 2])
    }

    /// Width and height of the photograph in pixels.
    pub fn picture_size(&self) -> (u32, u32) {
        (self.picture[0], self.picture[1])
    }

    /// Side of the input square in pixels.
    pub fn input_size(&self) -> u32 {
        self.size
    }

    /// The point of the photograph under a point of the input; may lie outside after padding.
    pub fn to_picture(&self, x: f64, y: f64) -> (f64, f64) {
        (self.origin[0] + self.scale[0] * x, self.origin[1] + self.scale[1] * y)
    }

    /// The point of the input under a point of the photograph; may lie outside after cropping.
    pub fn to_input(&self, x: f64, y: f64) -> (f64, f64) {
        ((x - self.origin[0]) / self.scale[0], (y - self.origin[1]) / self.scale[1])
    }

    /// The same, but where it would lie outside the nearest point on the photograph's border.
    pub fn to_picture_within(&self, x: f64, y: f64) -> (f64, f64) {
        let (x, y) = self.to_picture(x, y);
        (x.clamp(0.0, self.picture[0].into()), y.clamp(0.0, self.picture[1].into()))
    }

    /// A box of the input on the photograph, cut off at its borders.
    pub fn box_to_picture(&self, input: BoundingBox) -> BoundingBox {
        let (x0, y0) = self.to_picture_within(input.x0.into(), input.y0.into());
        let (x1, y1) = self.to_picture_within(input.x1.into(), input.y1.into());
        BoundingBox { x0: x0 as f32, y0: y0 as f32, x1: x1 as f32, y1: y1 as f32 }
    }

    /// A box of the photograph on the input, cut off at its borders; empty where cropped away.
    pub fn box_to_input(&self, picture: BoundingBox) -> BoundingBox {
        let size = f64::from(self.size);
        let (x0, y0) = self.to_input(f64::from(picture.x0), f64::from(picture.y0));
        let (x1, y1) = self.to_input(f64::from(picture.x1), f64::from(picture.y1));
        BoundingBox {
            x0: x0.clamp(0.0, size) as f32,
            y0: y0.clamp(0.0, size) as f32,
            x1: x1.clamp(0.0, size) as f32,
            y1: y1.clamp(0.0, size) as f32,
        }
    }

    /// The part of the photograph that the network saw.
    pub fn visible(&self) -> BoundingBox {
        let size = self.size as f32;
        self.box_to_picture(BoundingBox { x0: 0.0, y0: 0.0, x1: size, y1: size })
    }

    /// The same for the photograph resampled to `width` x `height` pixels.
    #[must_use]
    pub fn resampled(&self, width: u32, height: u32) -> Self {
        let [x, y] = [(width, 0), (height, 1)]
            .map(|(side, axis)| f64::from(side) / f64::from(self.picture[axis].max(1)));
        Self {
            picture: [width, height],
            size: self.size,
            scale: [x * self.scale[0], y * self.scale[1]],
            origin: [x * self.origin[0], y * self.origin[1]],
        }
    }

    /// A heat map over the input brought onto the photograph: what `convert` makes of one value a
    /// pixel, row by row, bilinear between the centres of the map's cells, zero where the network saw
    /// nothing. `between` is called before each piece of a few milliseconds.
    ///
    /// # Errors
    /// Those of `between`, which end the work.
    pub fn map_to_picture<T, E>(
        &self,
        map: &HeatMap,
        convert: impl Fn(f32) -> T,
        mut between: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<T>, E> {
        let mut upsampler = Upsampler::new(map, self);
        let [width, height] = self.picture;
        let mut values = Vec::with_capacity(width as usize * height as usize);
        for y in 0..height {
            if begins_piece(y, width) {
                between()?;
            }
            values.extend(upsampler.row(y).iter().map(|value| convert(value.unwrap_or(0.0))));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::ResizePolicy;
    use crate::vision::resize::Geometry;

    fn placement(policy: ResizePolicy, width: u32, height: u32, size: u32) -> Placement {
        let picture = crate::vision::Picture { width, height, pixels: Vec::new() };
        Geometry::new(policy, width, height, size).placement(&picture, size)
    }

    #[test]
    fn the_centre_of_the_input_is_the_centre_of_the_photograph() {
        for &policy in ResizePolicy::ALL {
            let (x, y) = placement(policy, 640, 480, 224).to_picture(112.0, 112.0);
            assert!((x - 320.0).abs() <= 1.0 && (y - 240.0).abs() <= 1.0, "{policy}: {x} {y}");
        }
    }

    #[test]
    fn the_placement_on_a_smaller_photograph_finds_the_same_places() {
        for &policy in ResizePolicy::ALL {
            let whole = placement(policy, 640, 480, 224);
            let small = whole.resampled(320, 120);
            assert_eq!(small.picture_size(), (320, 120));
            let (x, y) = whole.to_picture(50.0, 100.0);
            let found = small.to_picture(50.0, 100.0);
            assert!((found.0 - x / 2.0).abs() < 1e-9 && (found.1 - y / 4.0).abs() < 1e-9);
        }
    }

    #[test]
    fn padding_is_cut_off_a_box_and_cropping_limits_what_was_seen() {
        let whole = BoundingBox { x0: 0.0, y0: 0.0, x1: 224.0, y1: 224.0 };
        let padded = placement(ResizePolicy::Pad, 640, 480, 224);
        assert_eq!(
            padded.box_to_picture(whole),
            BoundingBox { x0: 0.0, y0: 0.0, x1: 640.0, y1: 480.0 }
        );
        let seen = placement(ResizePolicy::Crop, 640, 480, 224).visible();
        assert_eq!((seen.y0, seen.y1), (30.0, 450.0));
        assert!(seen.x0 > 100.0 && seen.x1 < 540.0);
    }

    #[test]
    fn a_point_in_the_padding_comes_to_the_nearest_border_of_the_photograph() {
        let padded = placement(ResizePolicy::Pad, 100, 400, 224);
        assert!(padded.to_picture(16.0, 112.0).0 < -120.0);
        let found = [16.0, 112.0, 208.0].map(|x| padded.to_picture_within(x, 112.0));
        assert_eq!(found, [(0.0, 200.0), (50.0, 200.0), (100.0, 200.0)]);
    }

    proptest::proptest! {
        #[test]
        fn to_input_undoes_to_picture(
            width in 1_u32..5000, height in 1_u32..5000, size in 1_u32..400,
            x in 0.0..400.0_f64, y in 0.0..400.0_f64,
            policy in proptest::sample::select(ResizePolicy::ALL),
        ) {
            let placement = placement(policy, width, height, size);
            let (px, py) = placement.to_picture(x, y);
            let (back_x, back_y) = placement.to_input(px, py);
            assert!((back_x - x).abs() < 1e-6 && (back_y - y).abs() < 1e-6);
        }
    }
}
