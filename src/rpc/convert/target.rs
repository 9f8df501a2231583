//! Whom a request wants to answer.

use super::field::FieldError;
use crate::engine::Target;

/// From the fields `head` and `backbone`, which exclude each other.
///
/// # Errors
/// Where both are set, or the version after `@` is no number from 1.
pub fn target(head: &str, backbone: &str) -> Result<Target, FieldError> {
    match (head.is_empty(), backbone.is_empty()) {
        (true, true) => Ok(Target::Default),
        (true, false) => Ok(Target::Backbone(backbone.to_owned())),
        (false, true) => named_head(head),
        (false, false) => {
            let problem = "must be empty where `backbone` is set: a head brings its own backbone";
            Err(FieldError::new("head", problem))
        }
    }
}

/// A head by name (`trash`) or name and version (`trash@3`).
fn named_head(text: &str) -> Result<Target, FieldError> {
    let Some((name, version)) = text.split_once('@') else {
        return Ok(Target::Head { name: text.to_owned(), version: None });
    };
    match version.parse::<u32>() {
        Ok(version) if version > 0 => {
            Ok(Target::Head { name: name.to_owned(), version: Some(version) })
        }
        _ => {
            let problem =
                format!("must be a name or name@version with a version from 1, not {text:?}");
            Err(FieldError::new("head", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_one_or_the_other_but_never_both() {
        assert_eq!(target("", "").unwrap(), Target::Default);
        assert_eq!(target("", "net").unwrap(), Target::Backbone("net".into()));
        let active = Target::Head { name: "trash".into(), version: None };
        assert_eq!(target("trash", "").unwrap(), active);
        assert_eq!(target("trash", "net").unwrap_err().path(), "head");
    }

    #[test]
    fn a_version_counts_from_one() {
        let version = Target::Head { name: "trash".into(), version: Some(3) };
        assert_eq!(target("trash@3", "").unwrap(), version);
        for bad in ["trash@", "trash@0", "trash@-1", "trash@x", "trash@1@2", "trash@99999999999"] {
            assert!(target(bad, "").is_err(), "{bad}");
        }
    }
}
