//! What a class may be called.

use super::HeadError;
use crate::base::label;
pub use crate::base::label::MAX_LABEL_BYTES;

/// Most classes that a head may come with, as an import may; fewer are learnt here.
pub(super) const MAX_CLASSES: usize = 10_000;

/// Checks that `label` can name a class, by [`label::check_label`].
///
/// # Errors
/// [`HeadError::Label`] with the reason.
pub fn check_label(label: &str) -> Result<(), HeadError> {
    label::check_label(label).map_err(|reason| {
        let label = label.chars().take(40).collect();
        HeadError::Label { label, reason }
    })
}

/// Checks all labels of a head, and that no two are the same.
pub(super) fn check_labels(labels: &[String]) -> Result<(), HeadError> {
    if labels.is_empty() || labels.len() > MAX_CLASSES {
        return Err(HeadError::Inconsistent(format!(
            "{} classes; 1 to {MAX_CLASSES} are possible",
            labels.len()
        )));
    }
    let mut seen = std::collections::HashSet::with_capacity(labels.len());
    for label in labels {
        check_label(label)?;
        if !seen.insert(label) {
            return Err(HeadError::Label {
                label: label.clone(),
                reason: "must not name two classes",
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_must_be_short_printable_and_unlike_each_other() {
        assert!(check_label("weiße Ameise").is_ok());
        for bad in ["", " ant", "ant\n", "a\0b", &"x".repeat(10_000)] {
            assert!(check_label(bad).is_err(), "{bad:?} passed");
        }
        assert!(check_labels(&["ant".into(), "ant".into()]).is_err());
        assert!(check_labels(&[]).is_err());
    }
}
