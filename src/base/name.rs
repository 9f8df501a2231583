//! Names that users give to backbones, heads and datasets.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A short name that is safe as a folder name, in a URL and in a shell: one to 63 of the characters
/// `a-z 0-9 . _ -`, the first of them a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Text that cannot be a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a valid name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter \
     or digit"
)]
pub struct InvalidName(String);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits =
            text.len() <= Self::MAX_BYTES && text.starts_with(first) && text.chars().all(inner);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for text in ["", ".", "..", "../x", "a/b", "a\0", ".hidden", "-flag", "A", &"a".repeat(300)]
        {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("mobilenet-v2_1.0".parse::<Name>().is_ok());
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_plain_path_component(text in ".{0,80}") {
            if let Ok(name) = text.parse::<Name>() {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name(), Some(path.as_os_str()));
            }
        }
    }
}
