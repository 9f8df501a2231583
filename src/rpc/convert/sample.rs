//! Samples and datasets.

use prost_types::Timestamp as WireTime;

use super::field::{FieldError, Required, Within, check_length, ranged};
use super::time::{from_wire, to_wire};
use crate::base::name::Name;
use crate::engine::Subject;
use crate::engine::learning::{CaptureSettings, Captured, Content, IncomingSample};
use crate::proto::graft as wire;
use crate::proto::graft::new_sample::Content as WireContent;
use crate::store::{
    Dataset, DatasetSettings, DatasetStats, Filter, Keep, NewSample, Origin, Quota, Sample,
    SampleChange, Split, WhenFull,
};

/// Ids that one filter may name.
const MAXIMUM_IDS: usize = 10_000;
/// Labels that one filter may name.
const MAXIMUM_FILTER_LABELS: usize = 1000;
/// Bytes of an id or a source.
const MAXIMUM_ID: usize = 200;

/// The name in a field.
///
/// # Errors
/// Where it is empty or no name.
pub fn name(field: &str, text: &str) -> Result<Name, FieldError> {
    if text.is_empty() {
        return Err(FieldError::new(field, "must be set"));
    }
    text.parse().map_err(|error| FieldError::new(field, error))
}

impl TryFrom<wire::NewSample> for IncomingSample {
    type Error = FieldError;

    fn try_from(new: wire::NewSample) -> Result<Self, FieldError> {
        let content = match new.content.required("image")? {
            WireContent::Image(image) => {
                Content::Picture(Subject::try_from(image).within("image")?)
            }
            WireContent::Embedding(wire::Embedding { backbone, values }) => {
                name("embedding.backbone", &backbone)?;
                Content::Embedding { backbone, values }
            }
        };
        check_length("id", &new.id, MAXIMUM_ID)?;
        let facts = NewSample {
            id: new.id,
            labels: new.labels,
            split: split("split", new.split)?,
            weight: weight(new.weight)?.unwrap_or(1.0),
            source: new.source,
            note: new.note,
            taken_at: new.taken_time.as_ref().map(|at| from_wire("taken_time", at)).transpose()?,
            pinned: new.pinned,
            ..NewSample::default()
        };
        Ok(Self { dataset: name("dataset", &new.dataset)?, facts, content })
    }
}

fn weight(weight: Option<f32>) -> Result<Option<f32>, FieldError> {
    match weight {
        Some(0.0) => Err(FieldError::new("weight", "must be above 0")),
        Some(weight) => ranged("weight", Some(weight), 0.0..=1000.0, 1.0).map(Some),
        None => Ok(None),
    }
}

/// The split in a field; `None` where it is not told.
///
/// # Errors
/// A number that is no split.
pub fn split(field: &str, value: i32) -> Result<Option<Split>, FieldError> {
    match wire::Split::try_from(value) {
        Ok(wire::Split::Unspecified) => Ok(None),
        Ok(wire::Split::Train) => Ok(Some(Split::Train)),
        Ok(wire::Split::HeldOut) => Ok(Some(Split::HeldOut)),
        Err(_) => Err(FieldError::new(field, format!("{value} is not a split"))),
    }
}

impl From<Split> for wire::Split {
    fn from(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::HeldOut => Self::HeldOut,
        }
    }
}

impl From<Origin> for wire::SampleOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Client => Self::Client,
            Origin::Capture => Self::Capture,
            Origin::Import => Self::Import,
        }
    }
}

impl From<Keep> for wire::Retention {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Images => Self::Images,
            Keep::Thumbnails => Self::Thumbnails,
            Keep::Embeddings => Self::Embeddings,
        }
    }
}

/// The dataset and the conditions of a filter.
///
/// # Errors
/// No dataset, too many ids or labels, numbers that mean nothing.
pub fn filter(filter: wire::SampleFilter) -> Result<(Name, Filter), FieldError> {
    let dataset = name("dataset", &filter.dataset)?;
    for (field, count, most) in [
        ("ids", filter.ids.len(), MAXIMUM_IDS),
        ("labels", filter.labels.len(), MAXIMUM_FILTER_LABELS),
    ] {
        if count > most {
            return Err(FieldError::new(field, format!("has {count} entries, at most {most}")));
        }
    }
    let origin = match wire::SampleOrigin::try_from(filter.origin) {
        Ok(wire::SampleOrigin::Unspecified) => None,
        Ok(wire::SampleOrigin::Client) => Some(Origin::Client),
        Ok(wire::SampleOrigin::Capture) => Some(Origin::Capture),
        Ok(wire::SampleOrigin::Import) => Some(Origin::Import),
        Err(_) => {
            return Err(FieldError::new("origin", format!("{} is not an origin", filter.origin)));
        }
    };
    let time =
        |field: &str, at: &Option<WireTime>| at.as_ref().map(|at| from_wire(field, at)).transpose();
    let conditions = Filter {
        ids: filter.ids,
        labels: filter.labels,
        unlabelled: filter.unlabelled.then_some(true),
        split: split("split", filter.split)?,
        origin,
        source: (!filter.source.is_empty()).then_some(filter.source),
        pinned: None,
        added_from: time("stored_from", &filter.stored_from)?,
        added_before: time("stored_until", &filter.stored_until)?,
    };
    Ok((dataset, conditions))
}

/// What a request wants to be different about a sample.
///
/// # Errors
/// A weight out of range, a number that is no split.
pub fn change(request: &wire::UpdateSampleRequest) -> Result<SampleChange, FieldError> {
    Ok(SampleChange {
        labels: request.labels.as_ref().map(|labels| labels.values.clone()),
        split: split("split", request.split)?,
        weight: weight(request.weight)?,
        note: request.note.clone(),
        pinned: request.pinned,
    })
}

/// What an answer says of a sample beyond its row.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// What is kept of its photograph.
    pub kept: Keep,
    /// The loaded backbones whose embeddings of it are stored.
    pub backbones: Vec<String>,
}

/// A sample for the wire.
pub fn sample(dataset: &Name, sample: Sample, around: Surroundings) -> wire::Sample {
    let captured = sample.prediction.as_deref().and_then(|json| {
        let Captured { head, label, probability, novelty } = serde_json::from_str(json).ok()?;
        Some(wire::CapturedPrediction { head, label, probability, novelty })
    });
    wire::Sample {
        id: sample.id,
        dataset: dataset.to_string(),
        labels: sample.labels,
        split: wire::Split::from(sample.split).into(),
        weight: sample.weight,
        origin: wire::SampleOrigin::from(sample.origin).into(),
        source: sample.source,
        taken_time: Some(to_wire(sample.taken_at.unwrap_or(sample.added_at))),
        stored_time: Some(to_wire(sample.added_at)),
        note: sample.note,
        pinned: sample.pinned,
        retention: wire::Retention::from(around.kept).into(),
        width: sample.width,
        height: sample.height,
        stored_bytes: sample.bytes,
        embedded_backbones: around.backbones,
        captured,
    }
}

/// A dataset for the wire.
pub fn dataset(stats: DatasetStats) -> wire::Dataset {
    let DatasetStats { dataset, samples, bytes, unlabelled, labels, .. } = stats;
    let labels = labels.into_iter().map(|(label, count)| wire::LabelCount {
        label,
        train_count: count.train,
        held_out_count: count.held_out,
    });
    let Dataset { name, settings, created_at, .. } = dataset;
    wire::Dataset {
        name: name.to_string(),
        sample_count: samples,
        stored_bytes: bytes,
        labels: labels.collect(),
        unlabelled_count: unlabelled,
        settings: Some(settings.into()),
        created_time: Some(to_wire(created_at)),
    }
}

impl From<DatasetSettings> for wire::DatasetSettings {
    fn from(settings: DatasetSettings) -> Self {
        let capture = settings.capture.as_deref().and_then(|json| {
            let capture: CaptureSettings = serde_json::from_str(json).ok()?;
            Some(wire::CaptureSettings {
                head: capture.head.map(String::from).unwrap_or_default(),
                maximum_probability: Some(capture.maximum_probability),
                unknown: Some(capture.unknown),
                hourly_budget: Some(capture.hourly_budget),
                total_budget: Some(capture.total_budget),
            })
        });
        let policy = match settings.quota.when_full {
            WhenFull::Refuse => wire::QuotaPolicy::Refuse,
            WhenFull::DropOldest => wire::QuotaPolicy::DropOldest,
        };
        Self {
            retention: wire::Retention::from(settings.keep).into(),
            maximum_samples: settings.quota.max_samples.unwrap_or(0),
            maximum_bytes: settings.quota.max_bytes.unwrap_or(0),
            quota_policy: policy.into(),
            capture,
            held_out_share: Some(settings.held_out_share),
        }
    }
}

impl TryFrom<wire::DatasetSettings> for DatasetSettings {
    type Error = FieldError;

    fn try_from(settings: wire::DatasetSettings) -> Result<Self, FieldError> {
        let keep = match wire::Retention::try_from(settings.retention) {
            Ok(wire::Retention::Unspecified | wire::Retention::Images) => Keep::Images,
            Ok(wire::Retention::Thumbnails) => Keep::Thumbnails,
            Ok(wire::Retention::Embeddings) => Keep::Embeddings,
            Err(_) => {
                let problem = format!("{} is not a retention", settings.retention);
                return Err(FieldError::new("retention", problem));
            }
        };
        let when_full = match wire::QuotaPolicy::try_from(settings.quota_policy) {
            Ok(wire::QuotaPolicy::Unspecified | wire::QuotaPolicy::Refuse) => WhenFull::Refuse,
            Ok(wire::QuotaPolicy::DropOldest) => WhenFull::DropOldest,
            Err(_) => {
                let problem = format!("{} is not a policy", settings.quota_policy);
                return Err(FieldError::new("quota_policy", problem));
            }
        };
        let limit = |value: u64| (value > 0).then_some(value);
        let quota = Quota {
            max_samples: limit(settings.maximum_samples),
            max_bytes: limit(settings.maximum_bytes),
            when_full,
        };
        let capture = settings.capture.map(capture).transpose().within("capture")?;
        let capture = capture.and_then(|capture| serde_json::to_string(&capture).ok());
        let share = Self::default().held_out_share;
        let held_out_share = ranged("held_out_share", settings.held_out_share, 0.0..=1.0, share)?;
        Ok(Self { keep, held_out_share, quota, capture })
    }
}

fn capture(settings: wire::CaptureSettings) -> Result<CaptureSettings, FieldError> {
    let default = CaptureSettings::default();
    let head = match settings.head.as_str() {
        "" => None,
        text => Some(name("head", text)?),
    };
    Ok(CaptureSettings {
        head,
        maximum_probability: ranged(
            "maximum_probability",
            settings.maximum_probability,
            0.0..=1.0,
            default.maximum_probability,
        )?,
        unknown: settings.unknown.unwrap_or(default.unknown),
        hourly_budget: ranged(
            "hourly_budget",
            settings.hourly_budget,
            1..=100_000,
            default.hourly_budget,
        )?,
        total_budget: ranged(
            "total_budget",
            settings.total_budget,
            1..=1_000_000,
            default.total_budget,
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_names_its_dataset_and_shows_something() {
        let refused = |sample: wire::NewSample| IncomingSample::try_from(sample).unwrap_err();
        assert_eq!(refused(wire::NewSample::default()).to_string(), "image: must be set");
        let embedding = wire::Embedding { backbone: "net".into(), values: vec![1.0] };
        let content = Some(WireContent::Embedding(embedding));
        let nameless = wire::NewSample { content: content.clone(), ..wire::NewSample::default() };
        assert_eq!(refused(nameless).path(), "dataset");
        for (weight, fits) in [(0.0, false), (-1.0, false), (f32::NAN, false), (1000.0, true)] {
            let sample = wire::NewSample {
                dataset: "parts".into(),
                content: content.clone(),
                weight: Some(weight),
                ..wire::NewSample::default()
            };
            assert_eq!(IncomingSample::try_from(sample).is_ok(), fits, "{weight}");
        }
    }

    #[test]
    fn settings_come_back_as_they_were_set() {
        let settings = wire::DatasetSettings {
            retention: wire::Retention::Thumbnails.into(),
            maximum_samples: 100,
            maximum_bytes: 0,
            quota_policy: wire::QuotaPolicy::DropOldest.into(),
            capture: Some(wire::CaptureSettings {
                head: "trash".into(),
                maximum_probability: Some(0.5),
                unknown: Some(false),
                hourly_budget: Some(7),
                total_budget: Some(70),
            }),
            held_out_share: Some(0.35),
        };
        let domain = DatasetSettings::try_from(settings.clone()).unwrap();
        assert_eq!(wire::DatasetSettings::from(domain), settings);
        let bad = wire::CaptureSettings { hourly_budget: Some(0), ..Default::default() };
        let bad = wire::DatasetSettings { capture: Some(bad), ..Default::default() };
        let error = DatasetSettings::try_from(bad).unwrap_err();
        assert_eq!(error.path(), "capture.hourly_budget");
        for share in [-0.1, 1.1, f64::NAN] {
            let bad = wire::DatasetSettings { held_out_share: Some(share), ..Default::default() };
            let error = DatasetSettings::try_from(bad).unwrap_err();
            assert_eq!(error.path(), "held_out_share", "{share}");
        }
    }
}
