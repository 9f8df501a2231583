//! What was found out about a dataset.

use super::sample::dataset;
use crate::engine::learning::Examination;
use crate::proto::graft as wire;
use crate::train::doctor::Flaw;

impl From<Flaw> for wire::PoorImageReason {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Tiny => Self::Tiny,
            Flaw::Blurred => Self::Blurred,
            Flaw::OneColoured => Self::OneColour,
        }
    }
}

/// A dataset's report for the wire.
pub fn examination(found: Examination) -> wire::GetDatasetReportResponse {
    let poor_images = found
        .poor()
        .map(|(id, flaw)| wire::PoorImage {
            id: id.to_owned(),
            reason: wire::PoorImageReason::from(flaw).into(),
        })
        .collect();
    let Examination { dataset: stats, ids, diagnosis, groups, advice } = found;
    let id = |index: usize| ids.get(index).cloned().unwrap_or_default();
    let counts = &diagnosis.counts;
    let label = |class: usize| counts.get(class).map_or_else(String::new, |c| c.label.clone());
    let duplicates = groups.into_iter().map(|group| wire::DuplicateGroup {
        ids: group.samples.into_iter().map(id).collect(),
        similarity: group.similarity.clamp(0.0, 1.0),
        across_classes: group.across_classes,
    });
    let suspicions = diagnosis.doubts.iter().map(|doubt| wire::LabelSuspicion {
        id: id(doubt.sample),
        label: label(doubt.labelled),
        suggested_label: label(doubt.likely),
        label_probability: doubt.label_probability,
    });
    let confusions = diagnosis.confused.iter().map(|&(truth, called, count)| {
        let of = counts.get(truth).map_or(0, |class| class.samples).max(1);
        wire::Confusion {
            label: label(truth),
            predicted_label: label(called),
            count: count.into(),
            share: count as f32 / of as f32,
        }
    });
    wire::GetDatasetReportResponse {
        dataset: Some(dataset(stats)),
        imbalance: if counts.len() < 2 { 0.0 } else { diagnosis.imbalance as f32 },
        duplicates: duplicates.collect(),
        suspicions: suspicions.collect(),
        poor_images,
        confusions: confusions.collect(),
        small_classes: diagnosis.few.iter().map(|&class| label(class)).collect(),
        advice,
        accuracy: diagnosis.accuracy.map(|accuracy| accuracy as f32),
    }
}
