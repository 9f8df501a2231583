//! Colour maps for heat maps.

use super::preprocessing::named;

/// How a value from 0 to 1 becomes a colour.
///
/// Turbo, viridis, inferno and magma (all public domain or CC0: Anton Mikhailov 2019; Nathaniel
/// Smith and Stéfan van der Walt 2015) are interpolated between 33 of their 256 colours, which is
/// within three levels of the full tables. `tests/reference/colormaps.py` prints the anchors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ColorMap {
    /// Blue, cyan, yellow, red: what Grad-CAM figures have always used.
    #[default]
    Jet,
    /// The same hues as jet, with even steps of brightness.
    Turbo,
    /// Dark violet, green, yellow; even for colour-blind eyes and in grey print.
    Viridis,
    /// Black, red, yellow.
    Inferno,
    /// Black, purple, cream.
    Magma,
    /// Black to white.
    Grey,
}

named!(ColorMap {
    Jet = "jet",
    Turbo = "turbo",
    Viridis = "viridis",
    Inferno = "inferno",
    Magma = "magma",
    Grey = "grey",
});

impl ColorMap {
    /// The 256 colours (red, green, blue) for values `i / 255`.
    pub fn palette(self) -> [[u8; 3]; 256] {
        match self {
            Self::Jet => std::array::from_fn(|i| jet(i as f32 / 255.0)),
            Self::Turbo => interpolate(TURBO),
            Self::Viridis => interpolate(VIRIDIS),
            Self::Inferno => interpolate(INFERNO),
            Self::Magma => interpolate(MAGMA),
            Self::Grey => std::array::from_fn(|i| [i as u8; 3]),
        }
    }
}

/// Matplotlib's jet: each channel a polyline through (position, brightness).
fn jet(value: f32) -> [u8; 3] {
    const RED: [(f32, f32); 5] = [(0.0, 0.0), (0.35, 0.0), (0.66, 1.0), (0.89, 1.0), (1.0, 0.5)];
    const GREEN: [(f32, f32); 6] =
        [(0.0, 0.0), (0.125, 0.0), (0.375, 1.0), (0.64, 1.0), (0.91, 0.0), (1.0, 0.0)];
    const BLUE: [(f32, f32); 5] = [(0.0, 0.5), (0.11, 1.0), (0.34, 1.0), (0.65, 0.0), (1.0, 0.0)];

    fn polyline(corners: &[(f32, f32)], value: f32) -> u8 {
        let brightness = corners.windows(2).find(|pair| value <= pair[1].0).map_or(0.0, |pair| {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            y0 + (y1 - y0) * (value - x0) / (x1 - x0)
        });
        (255.0 * brightness).round() as u8
    }
    [polyline(&RED, value), polyline(&GREEN, value), polyline(&BLUE, value)]
}

/// A palette from evenly spaced anchors, written as hexadecimal words.
fn interpolate(anchors: &str) -> [[u8; 3]; 256] {
    let anchors: Vec<u32> =
        anchors.split_whitespace().map(|word| u32::from_str_radix(word, 16).unwrap_or(0)).collect();
    let last = anchors.len() - 1;
    std::array::from_fn(|i| {
        let position = (i * last) as f32 / 255.0;
        let first = (position as usize).min(last - 1);
        let share = position - first as f32;
        [16, 8, 0].map(|shift| {
            let channel = |word: u32| (word >> shift & 0xFF) as f32;
            let (from, to) = (channel(anchors[first]), channel(anchors[first + 1]));
            (from + (to - from) * share).round() as u8
        })
    })
}

const TURBO: &str = "\
    30123b 392972 4040a1 4456c7 466be3 467ff6 4193fe 36a7f9 28baec 1cccd8 17dbc3 \
    1ee8b0 31f198 4cf97e 6bfd63 89fe4c a2fc3c b7f635 cbec33 dedf36 ecd039 f7bf39 \
    fcad34 fe972c fb7f22 f56717 ec520e e04008 d23005 c02302 ac1601 940c01 7a0402";
const VIRIDIS: &str = "\
    440154 460c5f 47186a 482273 472c7b 453681 424085 3e4989 3a528b 365a8c 32628d \
    2f6a8d 2c728e 287a8e 26818e 23898d 20908c 1e978a 1e9e88 21a685 27ad80 31b47a \
    3dbb74 4cc26c 5cc862 6ece58 81d34c 95d73f aadb32 bfdf24 d4e11a e9e419 fde724";
const INFERNO: &str = "\
    000003 030212 0a0723 140b36 200c4a 2e0a5a 3c0965 4a0b6a 560f6d 63146e 6f196e \
    7c1d6c 892269 962666 a22b61 af315b ba3654 c63d4d d04544 da4e3b e35932 ea6428 \
    f0711e f57f13 f98c09 fb9b06 fbaa0e fbb91e f8c931 f5d948 f1e864 f2f485 fcfea4";
const MAGMA: &str = "\
    000003 030311 0a0722 120d33 1c1046 281159 350f6a 430f75 50127b 5c177e 691c80 \
    752181 822581 8e2a80 9b2e7f a8327c b63679 c23a75 cf4070 db4769 e55063 ee5c5e \
    f4695b f8785c fb8660 fd9567 fda470 feb37b fec286 fdd193 fddfa1 fceeb0 fbfcbf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn palettes_are_within_three_levels_of_matplotlib() {
        let reference = include_bytes!("../../tests/reference/colormaps.bin");
        let maps =
            [ColorMap::Jet, ColorMap::Turbo, ColorMap::Viridis, ColorMap::Inferno, ColorMap::Magma];
        for (map, reference) in maps.into_iter().zip(reference.chunks_exact(768)) {
            let farthest = map
                .palette()
                .as_flattened()
                .iter()
                .zip(reference)
                .map(|(ours, theirs)| ours.abs_diff(*theirs))
                .max();
            assert!(farthest <= Some(3), "{map}: {farthest:?}");
        }
    }

    #[test]
    fn grey_is_the_value_itself() {
        assert_eq!(ColorMap::Grey.palette()[200], [200; 3]);
    }
}
