//! The dataset doctor at work on what is stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::f16;

use super::background::Background;
use super::embedding::embed_missing;
use super::{Learning, LearningError, low_priority};
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::engine::{EngineError, Subject, Target};
use crate::store::{DatasetStats, Filter, Sample, StoreError};
use crate::train::doctor::{
    Diagnosis, DuplicateGroup, Flaw, PhotographFacts, advice, examine, groups,
};
use crate::train::{HalfRows, Samples};
use crate::vision::quality;

/// Samples that are examined, the first to arrive; more would take minutes and much memory.
const MAXIMUM: usize = 20_000;
/// Samples listed at one time.
const PAGE: usize = 256;

/// What was found out about a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Examination {
    /// The dataset with its counts.
    pub dataset: DatasetStats,
    /// The examined samples, by the indices of `diagnosis` and `groups`.
    pub ids: Vec<String>,
    /// What is likely wrong.
    pub diagnosis: Diagnosis,
    /// Samples that show the same.
    pub groups: Vec<DuplicateGroup>,
    /// What to do next, the most useful first, for a person.
    pub advice: Vec<String>,
}

/// Samples that carry one label, with their embeddings.
#[derive(Default)]
struct Examined {
    samples: Vec<Sample>,
    values: Vec<f16>,
    /// Samples with several labels, which nothing here can judge.
    several_labels: u64,
    /// Whether there are more samples than are examined.
    more: bool,
}

impl Learning {
    /// Examines the labelled samples of a dataset by the embeddings of the backbone that `target`
    /// means; those that are missing are made first. May take minutes: photographs are looked at on
    /// the workers at background priority, the rest happens on threads of low priority.
    ///
    /// # Errors
    /// An unknown dataset or backbone, no labelled samples, [`LearningError::Examining`] while
    /// another examination runs, cancelled.
    pub fn examine(
        &self,
        dataset: &Name,
        target: &Target,
        cancel: &Cancel,
    ) -> Result<Examination, LearningError> {
        let stats = self.store().dataset_stats(dataset)?;
        let backbone = self.engine().snapshot().resolve(target)?.backbone;
        let Ok(_one_at_a_time) = self.examining.try_lock() else {
            return Err(LearningError::Examining);
        };
        embed_missing(self.engine(), self.store(), dataset, &backbone, None, cancel, &mut |_| {})?;
        let width = backbone.network.embedding().width;
        let examined = self.labelled_once(dataset, &backbone.embedding_key(), cancel)?;
        let Some(rows) =
            HalfRows::new(&examined.values, width).filter(|_| !examined.samples.is_empty())
        else {
            return Err(LearningError::NoSamples(format!(
                "dataset {dataset} has no samples with one label and an embedding by {}: label \
                 some first",
                backbone.name
            )));
        };
        let facts = self.facts(&examined.samples, cancel)?;
        let (labels, classes) = numbered(&examined.samples);
        let samples = Samples::new(&rows, labels, classes);
        let diagnosis = low_priority::pool()?.install(|| examine(&samples, &facts, 0, cancel))?;
        let groups = groups(&diagnosis.duplicates);
        let mut advice = advice(&diagnosis);
        if stats.unlabelled > 0 {
            advice.push(format!("label the {} samples that wait for it", stats.unlabelled));
        }
        if examined.several_labels > 0 {
            let count = examined.several_labels;
            advice.push(format!("{count} samples carry several labels and were not examined"));
        }
        if examined.more {
            advice.push(format!("only the first {MAXIMUM} samples were examined"));
        }
        let ids = examined.samples.into_iter().map(|sample| sample.id).collect();
        Ok(Examination { dataset: stats, ids, diagnosis, groups, advice })
    }

    fn labelled_once(
        &self,
        dataset: &Name,
        key: &crate::base::digest::Digest,
        cancel: &Cancel,
    ) -> Result<Examined, LearningError> {
        let filter = Filter { unlabelled: Some(false), ..Filter::default() };
        let mut found = Examined::default();
        let mut after = None;
        loop {
            let page = self.store().samples(dataset, &filter, after, PAGE)?;
            for sample in page.samples {
                cancel.check()?;
                if found.samples.len() == MAXIMUM {
                    found.more = true;
                    return Ok(found);
                }
                if sample.labels.len() > 1 {
                    found.several_labels += 1;
                } else if let Some(values) = self.sound_embedding(&sample, *key)? {
                    found.values.extend(values.into_iter().map(f16::from_f32));
                    found.samples.push(sample);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// The sample's embedding; one that is damaged is left out, and the log says so.
    pub(super) fn sound_embedding(
        &self,
        sample: &Sample,
        key: crate::base::digest::Digest,
    ) -> Result<Option<Vec<f32>>, LearningError> {
        match self.store().embedding_of(sample, key) {
            Err(StoreError::Corrupt(_)) => {
                tracing::warn!(
                    sample = sample.id,
                    "left out as damaged; see `graftd store verify`"
                );
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    /// What the photographs themselves say. Of a thumbnail sharpness is that of the small picture.
    fn facts(
        &self,
        samples: &[Sample],
        cancel: &Cancel,
    ) -> Result<Vec<Option<PhotographFacts>>, LearningError> {
        let mut work = Background::new(self.engine(), cancel);
        let mut facts = vec![None; samples.len()];
        let mut note = |(index, found): (usize, Result<PhotographFacts, EngineError>)| {
            if let Ok(found) = found {
                facts[index] = Some(found);
            }
        };
        for (index, sample) in samples.iter().enumerate() {
            let Some(image) = self.store().sound_image_of(sample)? else { continue };
            let (bytes, limits) = (Bytes::from(image.bytes), self.engine().limits());
            let known = sample.width.min(sample.height);
            let thumbnail = image.thumbnail;
            let measure = move |_: &Cancel| {
                let picture = Subject::Encoded(bytes.clone()).to_picture(&limits)?;
                let quality = quality(&picture);
                let shorter_side = match known {
                    // Nobody knows how large the photograph was of which this is the thumbnail.
                    0 if thumbnail => u32::MAX,
                    0 => picture.width.min(picture.height),
                    known => known,
                };
                Ok(PhotographFacts {
                    shorter_side,
                    sharpness: quality.sharpness,
                    contrast: quality.contrast,
                    hash: quality.hash,
                })
            };
            work.give(index, measure)?.map(&mut note);
        }
        while let Some(outcome) = work.take()? {
            note(outcome);
        }
        Ok(facts)
    }
}

/// Class numbers in the order of the classes' names, and the names.
fn numbered(samples: &[Sample]) -> (Vec<u32>, Vec<String>) {
    let label = |sample: &Sample| sample.labels.first().cloned().unwrap_or_default();
    let mut numbers: BTreeMap<String, u32> =
        samples.iter().map(|sample| (label(sample), 0)).collect();
    numbers.values_mut().zip(0..).for_each(|(number, place)| *number = place);
    let labels = samples.iter().map(|sample| numbers[&label(sample)]).collect();
    (labels, numbers.into_keys().collect())
}

impl Examination {
    /// The photographs that teach little, with what is wrong with each.
    pub fn poor(&self) -> impl Iterator<Item = (&str, Flaw)> {
        let flaws = self.diagnosis.flaws.iter();
        flaws.filter_map(|&(index, flaw)| Some((self.ids.get(index)?.as_str(), flaw)))
    }
}
