//! Turning a photograph upright.

use image::metadata::Orientation;

use super::Picture;

/// Side of the tiles in which pixels are moved: a quarter turn reads columns, and a tile of columns
/// stays in the cache where a whole photograph's would not.
const TILE: usize = 32;

/// The photograph turned upright. Its pixels must fit its size, as [`Picture::new`] checks.
pub(super) fn upright(picture: Picture, orientation: Orientation) -> Picture {
    let (columns, rows) = (picture.width as usize, picture.height as usize);
    let (last_column, last_row) = (columns - 1, (rows - 1) * columns);
    let (right, down) = (1, columns as isize);
    // Where the first upright pixel comes from, and how far apart its right and lower neighbours
    // are there.
    let (first, to_right, to_lower) = match orientation {
        Orientation::NoTransforms => return picture,
        Orientation::FlipHorizontal => (last_column, -right, down),
        Orientation::Rotate180 => (last_row + last_column, -right, -down),
        Orientation::FlipVertical => (last_row, right, -down),
        Orientation::Rotate90FlipH => (0, down, right),
        Orientation::Rotate90 => (last_row, -down, right),
        Orientation::Rotate270FlipH => (last_row + last_column, -down, -right),
        Orientation::Rotate270 => (last_column, down, -right),
    };
    let (new_width, new_height) =
        if is_quarter_turn(orientation) { (rows, columns) } else { (columns, rows) };
    let (source, _) = picture.pixels.as_chunks::<3>();
    let mut turned = vec![0; picture.pixels.len()];
    let (target, _) = turned.as_chunks_mut::<3>();
    for top in (0..new_height).step_by(TILE) {
        for left in (0..new_width).step_by(TILE) {
            let end = (left + TILE).min(new_width);
            for y in top..(top + TILE).min(new_height) {
                let line = &mut target[y * new_width + left..y * new_width + end];
                let mut from = first as isize + y as isize * to_lower + left as isize * to_right;
                for pixel in line {
                    *pixel = source[from as usize];
                    from += to_right;
                }
            }
        }
    }
    Picture { width: new_width as u32, height: new_height as u32, pixels: turned }
}

pub(super) fn is_quarter_turn(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, RgbImage};

    use super::*;

    proptest::proptest! {
        #[test]
        fn every_orientation_moves_pixels_as_the_image_crate_does(
            width in 1_u32..80, height in 1_u32..80, exif in 1_u8..=8,
        ) {
            let orientation = Orientation::from_exif(exif).unwrap();
            let pixels: Vec<u8> =
                (0..3 * width * height).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let image = RgbImage::from_raw(width, height, pixels.clone()).unwrap();
            let mut expected = DynamicImage::ImageRgb8(image);
            expected.apply_orientation(orientation);
            let turned = upright(Picture { width, height, pixels }, orientation);
            assert_eq!((turned.width, turned.height), (expected.width(), expected.height()));
            assert_eq!(turned.pixels, expected.into_rgb8().into_raw());
        }
    }
}
