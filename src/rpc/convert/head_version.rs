//! Heads with their versions.

use super::field::FieldError;
use super::job::{fitted_with, report};
use super::sample::name;
use super::time::to_wire;
use crate::base::name::Name;
use crate::engine::learning::{About, HeadRecord};
use crate::proto::graft as wire;
use crate::store::{Head, HeadVersion};

/// A head's name (`trash`) or its name and version (`trash@3`) in a field.
///
/// # Errors
/// Where it is neither.
pub fn reference(field: &str, text: &str) -> Result<(Name, Option<u32>), FieldError> {
    let Some((head, version)) = text.split_once('@') else { return Ok((name(field, text)?, None)) };
    match version.parse() {
        Ok(version) if version > 0 => Ok((name(field, head)?, Some(version))),
        _ => {
            let problem = format!("must be name@version with a version from 1, not {text:?}");
            Err(FieldError::new(field, problem))
        }
    }
}

/// A head for the wire, but for the dataset that it follows; `reports` tells whether what training
/// found is wanted.
pub fn head(head: &Head, stored: Vec<HeadVersion>, reports: bool) -> wire::Head {
    let record = |stored: &HeadVersion| -> Option<HeadRecord> {
        serde_json::from_str(&stored.metadata).ok()
    };
    let active = stored.iter().find(|version| Some(version.version) == head.active);
    let backbone = active.or(stored.last()).and_then(record).map(|record| record.backbone);
    let versions = stored.iter().rev();
    wire::Head {
        name: head.name.to_string(),
        backbone: backbone.map(String::from).unwrap_or_default(),
        active_version: head.active.unwrap_or(0),
        versions: versions.map(|stored| version(head, stored, record(stored), reports)).collect(),
        created_time: Some(to_wire(head.created_at)),
        followed_dataset: String::new(),
    }
}

fn version(
    head: &Head,
    stored: &HeadVersion,
    record: Option<HeadRecord>,
    reports: bool,
) -> wire::HeadVersion {
    let mut message = wire::HeadVersion {
        version: stored.version,
        active: head.active == Some(stored.version),
        created_time: Some(to_wire(stored.created_at)),
        size_bytes: stored.size,
        ..wire::HeadVersion::default()
    };
    let Some(record) = record else { return message };
    message.job = record.job.map(|job| job.to_string()).unwrap_or_default();
    message.options = record.options.as_ref().map(fitted_with);
    message.report = record.report.as_ref().filter(|_| reports).map(report);
    message.accuracy = record.report.as_ref().map(|report| report.held_out.accuracy as f32);
    if let Some(about) = record.about {
        let About { kind, classes, dataset, dataset_snapshot, backbone_sha256, scores } = about;
        let remembered = scores.and_then(|scores| scores.accuracy);
        message.accuracy = message.accuracy.or(remembered.map(|accuracy| accuracy as f32));
        message.kind = wire::HeadKind::from(kind).into();
        message.classes = classes;
        message.dataset = dataset;
        message.dataset_snapshot = dataset_snapshot;
        message.backbone_sha256 = backbone_sha256;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_named_alone_or_with_a_version_from_one() {
        let trash: Name = "trash".parse().unwrap();
        assert_eq!(reference("head", "trash"), Ok((trash.clone(), None)));
        assert_eq!(reference("head", "trash@3"), Ok((trash, Some(3))));
        for bad in ["", "@3", "trash@", "trash@0", "trash@x", "../x@1"] {
            assert_eq!(reference("head", bad).unwrap_err().path(), "head", "{bad}");
        }
    }
}
