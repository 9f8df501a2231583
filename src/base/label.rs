//! What a class may be called: one rule for the labels of samples and the classes of heads, so that
//! what is stored can be learnt.

/// Longest label, in bytes of UTF-8.
pub const MAX_LABEL_BYTES: usize = 200;

/// Checks that `label` can name a class: 1 to [`MAX_LABEL_BYTES`] bytes, no control characters, no
/// white space at either end.
///
/// # Errors
/// What is wrong with it, to be read after the label's or the field's name.
pub fn check_label(label: &str) -> Result<(), &'static str> {
    if label.trim().is_empty() {
        Err("must not be empty")
    } else if label.len() > MAX_LABEL_BYTES {
        Err("must not be longer than 200 bytes")
    } else if label.chars().any(char::is_control) {
        Err("must not contain control characters")
    } else if label.trim() != label {
        Err("must not begin or end with white space")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_printable_and_without_white_space_around_them() {
        assert_eq!(check_label("weiße Ameise"), Ok(()));
        for bad in ["", " ", "paper ", "\u{a0}paper", "ant\n", "a\0b", &"x".repeat(10_000)] {
            assert!(check_label(bad).is_err(), "{bad:?} passed");
        }
    }
}
