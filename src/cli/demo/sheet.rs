//! A contact sheet: photographs beside their overlays, framed by how the answer was.

use super::caption;
use crate::vision::Picture;

/// Pairs beside each other.
const COLUMNS: usize = 4;
/// Thickness of a frame and width of the gaps, in pixels.
const FRAME: usize = 5;
const GAP: usize = 8;
/// Above and below a caption.
const LEADING: usize = 5;
const PAPER: [u8; 3] = [250, 250, 250];
const INK: [u8; 3] = [40, 40, 45];

/// How an answer was, told by the frame's colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Green.
    Right,
    /// Red.
    Wrong,
    /// Blue.
    Unknown,
}

impl Verdict {
    fn color(self) -> [u8; 3] {
        match self {
            Self::Right => [40, 160, 70],
            Self::Wrong => [210, 50, 40],
            Self::Unknown => [40, 100, 210],
        }
    }
}

/// A photograph and its overlay, of one size.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) photograph: Picture,
    pub(super) overlay: Picture,
    pub(super) verdict: Verdict,
    /// A line below the two.
    pub(super) caption: String,
}

/// All pairs on one sheet, row by row. All pictures have sides of `side` pixels.
pub(super) fn contact_sheet(pairs: &[Pair], side: u32) -> Picture {
    let side = side as usize;
    let (wide, high) = (2 * side + 2 * FRAME, side + 2 * FRAME);
    let step = high + LEADING + caption::HEIGHT + LEADING + GAP;
    let rows = pairs.len().div_ceil(COLUMNS).max(1);
    let width = GAP + COLUMNS * (wide + GAP);
    let height = GAP + rows * step;
    let mut sheet = Sheet { width, pixels: PAPER.repeat(width * height) };
    for (index, pair) in pairs.iter().enumerate() {
        let left = GAP + (index % COLUMNS) * (wide + GAP);
        let top = GAP + (index / COLUMNS) * step;
        sheet.fill(left, top, wide, high, pair.verdict.color());
        sheet.paste(left + FRAME, top + FRAME, &pair.photograph);
        sheet.paste(left + FRAME + side, top + FRAME, &pair.overlay);
        sheet.letter(left + FRAME, top + high + LEADING, &pair.caption, wide - 2 * FRAME);
    }
    Picture { width: width as u32, height: height as u32, pixels: sheet.pixels }
}

struct Sheet {
    width: usize,
    pixels: Vec<u8>,
}

impl Sheet {
    fn fill(&mut self, left: usize, top: usize, width: usize, height: usize, color: [u8; 3]) {
        for y in top..top + height {
            self.line(left, y, &color.repeat(width));
        }
    }

    fn paste(&mut self, left: usize, top: usize, picture: &Picture) {
        for y in 0..picture.height {
            self.line(left, top + y as usize, picture.row(y));
        }
    }

    fn letter(&mut self, left: usize, top: usize, text: &str, width: usize) {
        for (x, y) in caption::ink(text, width) {
            self.line(left + x, top + y, &INK);
        }
    }

    fn line(&mut self, left: usize, y: usize, colors: &[u8]) {
        let start = 3 * (y * self.width + left);
        if let Some(place) = self.pixels.get_mut(start..start + colors.len()) {
            place.copy_from_slice(colors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photograph_and_overlay_stand_side_by_side_in_a_frame() {
        let grey = |level| Picture::new(20, 20, vec![level; 1200]).unwrap();
        let pair = |verdict| Pair {
            photograph: grey(10),
            overlay: grey(90),
            verdict,
            caption: "l".to_owned(),
        };
        let pairs: Vec<Pair> = (0..5).map(|_| pair(Verdict::Wrong)).collect();
        let sheet = contact_sheet(&pairs, 20);
        let pixel = |x: usize, y: u32| &sheet.row(y)[3 * x..3 * x + 3];
        let row = 20 + 2 * FRAME + 2 * LEADING + caption::HEIGHT + GAP;
        assert_eq!(sheet.height as usize, GAP + 2 * row);
        assert_eq!(pixel(0, 0), PAPER);
        assert_eq!(pixel(GAP, GAP as u32), Verdict::Wrong.color());
        let inside = (GAP + FRAME) as u32;
        assert_eq!(pixel(GAP + FRAME, inside), [10; 3]);
        assert_eq!(pixel(GAP + FRAME + 20, inside), [90; 3]);
        let below = GAP + 20 + 2 * FRAME + LEADING;
        let (x, y) = caption::ink("l", 40).next().unwrap();
        assert_eq!(pixel(GAP + FRAME + x, (below + y) as u32), INK);
    }
}
