//! Numbers of a preprocessing as people write them.

use std::str::FromStr;

/// For clap: a number, or a fraction such as 1/255.
///
/// # Errors
/// What is no number, in words.
pub fn fraction(text: &str) -> Result<f32, String> {
    let number =
        |part: &str| f32::from_str(part.trim()).map_err(|_| format!("{text:?} is no number"));
    match text.split_once('/') {
        Some((above, below)) => Ok(number(above)? / number(below)?),
        None => number(text),
    }
}

/// For clap: three fractions with commas between them, or one that stands for all three.
///
/// # Errors
/// What is no number, or how many there are, in words.
pub fn triple(text: &str) -> Result<[f32; 3], String> {
    let parts = text.split(',').map(fraction).collect::<Result<Vec<_>, _>>()?;
    match parts.as_slice() {
        [all] => Ok([*all; 3]),
        [first, second, third] => Ok([*first, *second, *third]),
        _ => Err(format!("{text:?} has {} numbers, not 1 or 3", parts.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_triples_are_read_and_nonsense_is_not() {
        assert_eq!(fraction("1/255"), Ok(1.0 / 255.0));
        assert_eq!(triple("104, 117,123"), Ok([104.0, 117.0, 123.0]));
        assert_eq!(triple("0.5"), Ok([0.5; 3]));
        assert!(triple("1,2").is_err() && triple("a").is_err() && fraction("").is_err());
    }
}
