//! What the two programs print alike of answers and errors.

use crate::client::ClientError;

/// The field of a request that holds the one picture.
const PICTURE: &str = "image";

/// An error in words for somebody who named a file: that its bytes travel in a field is of no use to
/// them.
pub fn of_picture(error: &ClientError) -> &str {
    let behind = |text: &'_ str| text.strip_prefix(PICTURE)?.strip_prefix(": ").map(str::len);
    match behind(&error.message).filter(|_| error.field == PICTURE) {
        Some(length) => &error.message[error.message.len() - length..],
        None => &error.message,
    }
}

/// Milliseconds to a whole number of microseconds: further digits say nothing of a clock.
pub fn milliseconds(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ErrorKind;

    #[test]
    fn only_the_picture_s_own_field_is_left_out() {
        let error = |field: &str, message: &str| ClientError {
            field: field.to_owned(),
            ..ClientError::local(ErrorKind::InvalidArgument, message)
        };
        assert_eq!(of_picture(&error("image", "image: it is empty")), "it is empty");
        assert_eq!(of_picture(&error("top_k", "top_k: must be 1")), "top_k: must be 1");
        assert_eq!(of_picture(&error("", "image: x")), "image: x");
        assert_eq!(milliseconds(3.795_887_999_999_999_7), 3.796);
    }
}
