//! Fields of requests that are not as they must be, and where they stand.

use std::fmt;

/// A field at fault: its path in the request and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    path: String,
    problem: String,
}

impl FieldError {
    /// `problem` is a sentence's end that says what the field must be: "must be 1 to 100000, not 0".
    pub fn new(path: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { path: path.into(), problem: problem.to_string() }
    }

    /// The same error seen from the message that holds this one in its field `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        let path = if self.path.is_empty() {
            parent.to_owned()
        } else {
            format!("{parent}.{}", self.path)
        };
        Self { path, problem: self.problem }
    }

    /// The field's path, for example `image.raw.width`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

impl std::error::Error for FieldError {}

/// Adds a field's name to the error of the message in it.
pub trait Within<T> {
    /// See [`FieldError::within`].
    ///
    /// # Errors
    /// The error that was there, with a longer path.
    fn within(self, parent: &str) -> Result<T, FieldError>;
}

impl<T> Within<T> for Result<T, FieldError> {
    fn within(self, parent: &str) -> Self {
        self.map_err(|error| error.within(parent))
    }
}

/// Messages that must be there.
pub trait Required<T> {
    /// The message in field `name`.
    ///
    /// # Errors
    /// Where it is absent.
    fn required(self, name: &str) -> Result<T, FieldError>;
}

impl<T> Required<T> for Option<T> {
    fn required(self, name: &str) -> Result<T, FieldError> {
        self.ok_or_else(|| FieldError::new(name, "must be set"))
    }
}

/// An optional number that lies in a range.
///
/// # Errors
/// Where it is set and lies outside.
pub fn ranged<T>(
    name: &str,
    value: Option<T>,
    range: std::ops::RangeInclusive<T>,
    default: T,
) -> Result<T, FieldError>
where
    T: PartialOrd + fmt::Display,
{
    match value {
        None => Ok(default),
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) => {
            let problem = format!("must be {} to {}, not {value}", range.start(), range.end());
            Err(FieldError::new(name, problem))
        }
    }
}

/// The value of an enumeration with this number on the wire.
///
/// # Errors
/// Where there is none: what the default answers is not what was asked.
pub fn known<T: TryFrom<i32>>(name: &str, number: i32) -> Result<T, FieldError> {
    number
        .try_into()
        .map_err(|_| FieldError::new(name, format!("{number} is no value that this daemon knows")))
}

/// Refuses a text that is too long.
///
/// # Errors
/// Where it has more bytes than `maximum`.
pub fn check_length(name: &str, value: &str, maximum: usize) -> Result<(), FieldError> {
    if value.len() > maximum {
        let problem = format!("has {} bytes, {maximum} are allowed", value.len());
        return Err(FieldError::new(name, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::graft::StreamPolicy;

    #[test]
    fn the_path_grows_from_the_inside_out() {
        let inner: Result<(), _> = Err(FieldError::new("width", "must be even"));
        let error = inner.within("raw").within("image").unwrap_err();
        assert_eq!(error.to_string(), "image.raw.width: must be even");
        let whole = FieldError::new("", "must be set").within("sample");
        assert_eq!(whole.path(), "sample");
    }

    #[test]
    fn a_number_that_no_value_of_an_enumeration_has_is_refused() {
        assert_eq!(known("policy", 2), Ok(StreamPolicy::LatestOnly));
        let error = known::<StreamPolicy>("policy", 99).unwrap_err();
        assert_eq!(error.to_string(), "policy: 99 is no value that this daemon knows");
    }

    #[test]
    fn a_number_outside_its_range_is_refused_and_an_absent_one_takes_the_default() {
        assert_eq!(ranged("top_k", None, 1..=10, 5), Ok(5));
        assert_eq!(ranged("top_k", Some(10), 1..=10, 5), Ok(10));
        let error = ranged("top_k", Some(0), 1..=10, 5).unwrap_err();
        assert_eq!(error.to_string(), "top_k: must be 1 to 10, not 0");
        assert!(ranged("strength", Some(f32::NAN), 0.0..=1.0, 0.4).is_err());
    }
}
