//! Numbers about a photograph that tell whether it is worth learning from, and whether it is another
//! one's copy.

use super::Picture;

/// A grey picture is reduced by a whole factor to about this shorter side before its sharpness is
/// measured, so that the number does not depend on the camera.
const MEASURED_SIDE: u32 = 256;

/// What a glance at the pixels says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Variance of the Laplacian of the grey picture, 0 for one colour; some hundreds are usual.
    pub sharpness: f32,
    /// Standard deviation of the grey values, 0 to 127.5.
    pub contrast: f32,
    /// Difference hash: bit `8 y + x` says whether cell `x` of row `y` is darker than the cell to its
    /// right, of 9 x 8 cells over the whole picture. Alike pictures differ in few bits.
    pub hash: u64,
}

/// Measures `picture`.
pub fn quality(picture: &Picture) -> Quality {
    let factor = (picture.width.min(picture.height) / MEASURED_SIDE).max(1);
    let (width, height) = (picture.width / factor, picture.height / factor);
    let grey = cells(picture, width, height);
    let contrast = variance(&grey).sqrt();
    let at = |x: u32, y: u32| grey[(y * width + x) as usize];
    let mut edges = Vec::new();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let around = at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1);
            edges.push(around - 4.0 * at(x, y));
        }
    }
    let small = cells(picture, 9, 8);
    let mut hash = 0;
    for y in 0..8 {
        for x in 0..8 {
            let darker = small[y * 9 + x] < small[y * 9 + x + 1];
            hash |= u64::from(darker) << (8 * y + x);
        }
    }
    Quality { sharpness: variance(&edges), contrast, hash }
}

/// Mean grey value (0 to 255) of each of `columns` x `rows` cells; in a picture that is smaller than
/// that, cells repeat pixels.
fn cells(picture: &Picture, columns: u32, rows: u32) -> Vec<f32> {
    // u64: a side may have 2^32 - 1 pixels.
    let bound = |index: u32, count: u32, extent: u32| {
        (u64::from(index) * u64::from(extent) / u64::from(count)) as u32
    };
    let mut grey = Vec::with_capacity((columns * rows) as usize);
    for row in 0..rows {
        let top = bound(row, rows, picture.height);
        let bottom = bound(row + 1, rows, picture.height).max(top + 1);
        for column in 0..columns {
            let left = bound(column, columns, picture.width);
            let right = bound(column + 1, columns, picture.width).max(left + 1);
            let mut sum = 0_u64;
            for y in top..bottom {
                for pixel in picture.row(y)[3 * left as usize..3 * right as usize].chunks_exact(3) {
                    // ITU-R BT.601 luma in thousandths.
                    sum += 299 * u64::from(pixel[0])
                        + 587 * u64::from(pixel[1])
                        + 114 * u64::from(pixel[2]);
                }
            }
            let pixels = u64::from(bottom - top) * u64::from(right - left);
            grey.push((sum as f64 / (1000 * pixels) as f64) as f32);
        }
    }
    grey
}

fn variance(values: &[f32]) -> f32 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, grey: impl Fn(u32, u32) -> u8) -> Picture {
        let pixels = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .flat_map(|(x, y)| [grey(x, y); 3])
            .collect();
        Picture::new(width, height, pixels).unwrap()
    }

    #[test]
    fn one_colour_has_neither_contrast_nor_edges() {
        for (width, height) in [(1, 1), (1, 700), (64, 64), (600, 300)] {
            let quality = quality(&picture(width, height, |_, _| 77));
            assert!(quality.contrast < 0.1 && quality.sharpness < 0.1, "{quality:?}");
        }
    }

    #[test]
    fn a_soft_gradient_is_blurred_and_stripes_are_sharp() {
        let soft = quality(&picture(128, 128, |x, _| x as u8));
        let sharp = quality(&picture(128, 128, |x, _| if x / 4 % 2 == 0 { 0 } else { 200 }));
        assert!(soft.sharpness < 5.0 && soft.contrast > 20.0, "{soft:?}");
        assert!(sharp.sharpness > 1000.0, "{sharp:?}");
    }

    #[test]
    fn a_picture_and_its_half_have_hashes_that_are_alike() {
        let wave = |t: u32, length: f32| (t as f32 / length).sin();
        let scene = |x: u32, y: u32| {
            (128.0 + 60.0 * wave(x, 23.0) * wave(y + 20, 41.0) + 50.0 * wave(x + 2 * y, 61.0)) as u8
        };
        let large = quality(&picture(256, 256, scene)).hash;
        let small = quality(&picture(128, 128, |x, y| scene(2 * x, 2 * y))).hash;
        let other = quality(&picture(256, 256, |x, y| scene(y, 255 - x))).hash;
        assert!((large ^ small).count_ones() <= 6);
        assert!((large ^ other).count_ones() > 12);
    }
}
