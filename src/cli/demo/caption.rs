//! Lettering for the contact sheet: a small bitmap font, so that no font file has to be at hand.

/// Pixels of a letter as it is drawn here.
const LETTER: (usize, usize) = (5, 8);
/// How many pixels of the sheet each of them takes, in both directions.
const SCALE: usize = 2;
/// From one letter to the next, in pixels of the sheet.
const ADVANCE: usize = (LETTER.0 + 1) * SCALE;
/// Height of a line, in pixels.
pub(super) const HEIGHT: usize = LETTER.1 * SCALE;

/// Where ink goes: `(x, y)` of every inked pixel of `text`, in pixels from the line's upper left
/// corner. What does not fit into `width` is left out whole letters at a time; a character that the
/// font lacks leaves a gap.
pub(super) fn ink(text: &str, width: usize) -> impl Iterator<Item = (usize, usize)> {
    text.chars().take(width / ADVANCE).enumerate().flat_map(|(place, letter)| {
        let rows = rows(letter).into_iter().enumerate();
        rows.flat_map(move |(row, bits)| {
            let inked =
                (0..LETTER.0).filter(move |column| bits >> (LETTER.0 - 1 - column) & 1 == 1);
            inked.flat_map(move |column| {
                square()
                    .map(move |(dx, dy)| (place * ADVANCE + column * SCALE + dx, row * SCALE + dy))
            })
        })
    })
}

fn square() -> impl Iterator<Item = (usize, usize)> {
    (0..SCALE * SCALE).map(|index| (index % SCALE, index / SCALE))
}

/// A letter's rows from the top, five bits each; the last row is below the line.
#[rustfmt::skip]
fn rows(letter: char) -> [u8; LETTER.1] {
    match letter {
        'a' => [0b00000, 0b00000, 0b01110, 0b00001, 0b01111, 0b10001, 0b01111, 0b00000],
        'b' => [0b10000, 0b10000, 0b11110, 0b10001, 0b10001, 0b10001, 0b11110, 0b00000],
        'c' => [0b00000, 0b00000, 0b01110, 0b10000, 0b10000, 0b10001, 0b01110, 0b00000],
        'd' => [0b00001, 0b00001, 0b01111, 0b10001, 0b10001, 0b10001, 0b01111, 0b00000],
        'e' => [0b00000, 0b00000, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110, 0b00000],
        'f' => [0b00110, 0b01001, 0b01000, 0b11100, 0b01000, 0b01000, 0b01000, 0b00000],
        'g' => [0b00000, 0b00000, 0b01111, 0b10001, 0b10001, 0b01111, 0b00001, 0b01110],
        'h' => [0b10000, 0b10000, 0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b00000],
        'i' => [0b00100, 0b00000, 0b01100, 0b00100, 0b00100, 0b00100, 0b01110, 0b00000],
        'j' => [0b00010, 0b00000, 0b00110, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100],
        'k' => [0b10000, 0b10000, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b00000],
        'l' => [0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110, 0b00000],
        'm' => [0b00000, 0b00000, 0b11010, 0b10101, 0b10101, 0b10101, 0b10101, 0b00000],
        'n' => [0b00000, 0b00000, 0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b00000],
        'o' => [0b00000, 0b00000, 0b01110, 0b10001, 0b10001, 0b10001, 0b01110, 0b00000],
        'p' => [0b00000, 0b00000, 0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000],
        'q' => [0b00000, 0b00000, 0b01111, 0b10001, 0b10001, 0b01111, 0b00001, 0b00001],
        'r' => [0b00000, 0b00000, 0b10110, 0b11001, 0b10000, 0b10000, 0b10000, 0b00000],
        's' => [0b00000, 0b00000, 0b01111, 0b10000, 0b01110, 0b00001, 0b11110, 0b00000],
        't' => [0b01000, 0b01000, 0b11100, 0b01000, 0b01000, 0b01001, 0b00110, 0b00000],
        'u' => [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b10001, 0b01111, 0b00000],
        'v' => [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100, 0b00000],
        'w' => [0b00000, 0b00000, 0b10101, 0b10101, 0b10101, 0b10101, 0b01010, 0b00000],
        'x' => [0b00000, 0b00000, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b00000],
        'y' => [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b01111, 0b00001, 0b01110],
        'z' => [0b00000, 0b00000, 0b11111, 0b00010, 0b00100, 0b01000, 0b11111, 0b00000],
        '0' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110, 0b00000],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110, 0b00000],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111, 0b00000],
        '3' => [0b01110, 0b10001, 0b00001, 0b00110, 0b00001, 0b10001, 0b01110, 0b00000],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010, 0b00000],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110, 0b00000],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110, 0b00000],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000, 0b00000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110, 0b00000],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100, 0b00000],
        ',' => [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00100, 0b00100, 0b01000],
        ':' => [0b00000, 0b00000, 0b00100, 0b00000, 0b00000, 0b00100, 0b00000, 0b00000],
        '%' => [0b11000, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b00011, 0b00000],
        _ => [0; LETTER.1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_that_captions_use_has_its_own_shape() {
        let used: Vec<char> = ('a'..='z').chain('0'..='9').chain(",:%".chars()).collect();
        for (index, &letter) in used.iter().enumerate() {
            assert!(rows(letter).iter().any(|&row| row > 0), "{letter} is missing");
            assert!(rows(letter).iter().all(|&row| row < 32), "{letter} is too wide");
            assert!(used[..index].iter().all(|&other| rows(other) != rows(letter)), "{letter}");
        }
    }

    #[test]
    fn letters_stand_beside_each_other_and_end_before_the_edge() {
        // An l has its stem in the middle column: 2 * 2 pixels a row.
        let inked: Vec<_> = ink("ll", 100).collect();
        assert!(inked.contains(&(2 * SCALE, HEIGHT / 4)));
        assert!(inked.contains(&(ADVANCE + 2 * SCALE, HEIGHT / 4)));
        assert!(inked.iter().all(|&(x, y)| x < 2 * ADVANCE && y < HEIGHT));
        assert_eq!(ink("lllll", 2 * ADVANCE + 1).count(), inked.len());
    }
}
