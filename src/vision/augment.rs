//! Changed copies of a photograph, so that training sees more than there is.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::Picture;

/// Least share of each side that a crop keeps.
const LEAST_SIDE: f32 = 0.7;
/// Brightness is multiplied by one over this up to this.
const BRIGHTNESS: f32 = 1.35;

/// A copy of `picture`: mirrored or not, cut to a part of the same shape, brighter or darker. The same
/// seed gives the same copy.
pub fn augmented(picture: &Picture, seed: u64) -> Picture {
    let mut random = Pcg64::seed_from_u64(seed);
    let mirrored = random.random::<bool>();
    let side = random.random_range(LEAST_SIDE..=1.0);
    let part = |extent: u32| ((extent as f32 * side).round() as u32).clamp(1, extent);
    let (width, height) = (part(picture.width), part(picture.height));
    let left = random.random_range(0..=picture.width - width);
    let top = random.random_range(0..=picture.height - height);
    let brightness = BRIGHTNESS.powf(random.random_range(-1.0..=1.0));
    let brighter: Vec<u8> =
        (0..=255_u8).map(|grey| (f32::from(grey) * brightness).round().min(255.0) as u8).collect();
    let mut pixels = Vec::with_capacity(3 * width as usize * height as usize);
    for y in top..top + height {
        let row = &picture.row(y)[3 * left as usize..3 * (left + width) as usize];
        let (row, _) = row.as_chunks::<3>();
        let pixel = |pixel: &[u8; 3]| pixel.map(|channel| brighter[usize::from(channel)]);
        if mirrored {
            pixels.extend(row.iter().rev().flat_map(pixel));
        } else {
            pixels.extend(row.iter().flat_map(pixel));
        }
    }
    Picture { width, height, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picture(width: u32, height: u32) -> Picture {
        let pixels = (0..3 * width * height).map(|i| (i * 7 % 251) as u8).collect();
        Picture::new(width, height, pixels).unwrap()
    }

    #[test]
    fn a_seed_gives_one_copy_and_another_seed_another() {
        let original = picture(40, 30);
        assert_eq!(augmented(&original, 5), augmented(&original, 5));
        let copies: Vec<Picture> = (0..20).map(|seed| augmented(&original, seed)).collect();
        assert!((1..20).all(|i| copies[i] != copies[i - 1]));
    }

    proptest! {
        #[test]
        fn a_copy_is_a_part_of_the_same_shape(
            width in 1..60_u32,
            height in 1..60_u32,
            seed: u64,
        ) {
            let copy = augmented(&picture(width, height), seed);
            prop_assert!(copy.check().is_ok());
            prop_assert!(copy.width <= width && copy.width as f32 >= 0.7 * width as f32 - 1.0);
            prop_assert!(copy.height <= height && copy.height as f32 >= 0.7 * height as f32 - 1.0);
        }
    }
}
