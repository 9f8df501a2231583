//! Labelled embeddings out of the store, as `train` wants them.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use half::f16;

use super::LearningError;
use super::versions::Learnt;
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::heads::{Head, Kind};
use crate::store::{EmbeddedSample, Split, Store};
use crate::train::{self, HalfRows, LabelSets, Report, Samples};

/// Samples read from the store at once.
const BLOCK: usize = 1024;

/// What is to be read of a dataset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// One side of it.
    pub(super) split: Split,
    /// What to do with a sample that has several labels.
    pub(super) several: Several,
    /// Samples at most, the first to arrive.
    pub(super) most: Option<usize>,
    /// Samples that are left out.
    pub(super) without: Option<&'a Ids>,
}

impl Reading<'_> {
    /// All of one side.
    pub(super) fn of(split: Split, several: Several) -> Self {
        Self { split, several, most: None, without: None }
    }
}

/// Ids of samples, by their hashes: a training remembers what it learnt when the samples are gone.
#[derive(Debug)]
pub(super) struct Ids(HashSet<u64>);

impl Ids {
    fn hash(id: &str) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(id)
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains(&Self::hash(id))
    }
}

/// What to do with a sample that has several labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Several {
    /// It is an error: heads whose classes exclude each other cannot learn from it.
    Refuse,
    /// It is left out.
    Skip,
    /// They are kept, for heads whose classes do not exclude each other.
    Keep,
}

/// Some labelled samples with their embeddings, 16 bits a value.
#[derive(Default)]
pub(super) struct Labelled {
    width: usize,
    values: Vec<f16>,
    /// The classes of each sample: one, but where several are kept.
    sets: Vec<Vec<u32>>,
    weights: Vec<f32>,
    classes: Vec<String>,
    /// The clients' ids of the samples.
    ids: Vec<String>,
    /// See [`Samples::copy_of`]; empty as long as no sample is a copy.
    copy_of: Vec<u32>,
}

impl Labelled {
    /// Reads one side of a dataset. Samples without label are left out.
    ///
    /// # Errors
    /// A sample with several labels where those are refused; damage; cancelled, within one block.
    pub(super) fn read(
        store: &Store,
        dataset: &Name,
        backbone: Digest,
        reading: Reading<'_>,
        cancel: &Cancel,
    ) -> Result<Self, LearningError> {
        let stats = store.dataset_stats(dataset)?;
        let there = match reading.split {
            Split::HeldOut => stats.held_out,
            Split::Train => stats.samples - stats.held_out,
        } as usize;
        let most = reading.most.unwrap_or(usize::MAX);
        let blocks = store.embeddings(dataset, backbone, Some(reading.split), BLOCK)?;
        let width = blocks.width();
        let mut gathered = Gathering::new(width, reading.several);
        // At once, because a growing vector would hold everything twice for a moment.
        gathered.read.values.reserve_exact(there.min(most) * width);
        'all: for block in blocks {
            cancel.check()?;
            let block = block?;
            let rows = block.values.chunks_exact(width.max(1));
            for (sample, row) in block.samples.iter().zip(rows) {
                if gathered.read.len() == most {
                    break 'all;
                }
                if reading.without.is_none_or(|ids| !ids.contains(&sample.id)) {
                    gathered.push(sample, row.iter().copied())?;
                }
            }
        }
        Ok(gathered.finish())
    }

    /// Makes room for so many changed copies, at once as in [`Labelled::read`].
    pub(super) fn expect_copies(&mut self, count: usize) {
        self.copy_of = (0..self.len() as u32).collect();
        self.values.reserve_exact(count * self.width);
    }

    /// Adds the embedding of a changed copy, with the index of its original. Each is rounded as it
    /// comes: at 32 bits a value all of them would take twice the room.
    pub(super) fn add_copy(&mut self, original: usize, values: &[f32]) {
        let (Some(set), Some(weight)) = (self.sets.get(original), self.weights.get(original))
        else {
            return;
        };
        let (set, weight) = (set.clone(), *weight);
        self.sets.push(set);
        self.weights.push(weight);
        self.copy_of.push(original as u32);
        self.values.extend(values.iter().copied().map(f16::from_f32));
    }

    /// Lets every sample count the same.
    pub(super) fn forget_weights(&mut self) {
        self.weights.fill(1.0);
    }

    /// How many there are, copies included.
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }

    /// The clients' ids, without those of copies.
    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The same to remember.
    pub(super) fn known(&self) -> Ids {
        Ids(self.ids.iter().map(|id| Ids::hash(id)).collect())
    }

    /// What a head that follows its dataset would have learnt of these; see [`Learnt`].
    pub(super) fn learnt(&self) -> Learnt {
        let labels = self.sets.iter().filter_map(|set| self.classes.get(*set.first()? as usize));
        let mut learnt = Learnt::default();
        self.ids.iter().zip(labels).for_each(|(id, label)| learnt.add(id, label));
        learnt
    }

    /// The rows; `None` where there are none.
    pub(super) fn rows(&self) -> Option<HalfRows<'_>> {
        HalfRows::new(&self.values, self.width).filter(|_| !self.sets.is_empty())
    }

    /// What `train` takes, on the rows of [`Labelled::rows`]; the first class of each sample.
    pub(super) fn samples<'a>(&self, rows: &'a HalfRows<'a>) -> Samples<'a> {
        Samples {
            rows,
            labels: self.sets.iter().map(|set| set.first().copied().unwrap_or(0)).collect(),
            weights: self.weights.clone(),
            classes: self.classes.clone(),
            copy_of: self.copy_of.clone(),
        }
    }

    /// The same with all classes of each sample.
    pub(super) fn label_sets<'a>(&'a self, rows: &'a HalfRows<'a>) -> LabelSets<'a> {
        LabelSets {
            weights: self.weights.clone(),
            copy_of: self.copy_of.clone(),
            ..LabelSets::new(rows, &self.sets, &self.classes)
        }
    }

    /// How `head` does on these samples; a multi-label head by its sets of classes.
    pub(super) fn judge(
        &self,
        rows: &HalfRows<'_>,
        head: &Head,
        cancel: &Cancel,
    ) -> Result<Report, LearningError> {
        Ok(if head.kind() == Kind::MultiLabel {
            train::evaluate_sets(head, rows, &self.sets, &self.classes, cancel)?
        } else {
            train::evaluate(head, &self.samples(rows), cancel)?
        })
    }
}

/// Labelled samples that are added one by one.
pub(super) struct Gathering {
    read: Labelled,
    several: Several,
    /// The classes by name, in the order of arrival.
    numbers: BTreeMap<String, u32>,
}

impl Gathering {
    pub(super) fn new(width: usize, several: Several) -> Self {
        let read = Labelled { width, ..Labelled::default() };
        Self { read, several, numbers: BTreeMap::new() }
    }

    /// Adds one, unless it has no label.
    ///
    /// # Errors
    /// A sample with several labels where those are refused.
    pub(super) fn push(
        &mut self,
        sample: &EmbeddedSample,
        row: impl IntoIterator<Item = f16>,
    ) -> Result<(), LearningError> {
        if sample.labels.is_empty() {
            return Ok(());
        }
        if sample.labels.len() > 1 {
            match self.several {
                Several::Keep => {}
                Several::Skip => return Ok(()),
                Several::Refuse => {
                    return Err(LearningError::NoSamples(format!(
                        "sample {:?} has several labels: give it one, or train a head of kind \
                         multi-label",
                        sample.id
                    )));
                }
            }
        }
        let mut set = Vec::with_capacity(sample.labels.len());
        for label in &sample.labels {
            let next = self.numbers.len() as u32;
            set.push(*self.numbers.entry(label.clone()).or_insert(next));
        }
        self.read.sets.push(set);
        self.read.weights.push(sample.weight);
        self.read.values.extend(row);
        self.read.ids.push(sample.id.clone());
        Ok(())
    }

    /// Numbers the classes in the order of their names, so that the order of arrival does not show.
    pub(super) fn finish(self) -> Labelled {
        let Self { mut read, numbers, .. } = self;
        let mut sorted = vec![0; numbers.len()];
        for (place, number) in numbers.values().enumerate() {
            sorted[*number as usize] = place as u32;
        }
        for label in read.sets.iter_mut().flatten() {
            *label = sorted[*label as usize];
        }
        read.classes = numbers.into_keys().collect();
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DatasetSettings, NewEmbedding, NewSample, SampleChange};

    fn stored(samples: &[(&str, &[&str], Split)]) -> (tempfile::TempDir, Store, Name, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let (store, parts) = (Store::open(folder.path()).unwrap(), "parts".parse().unwrap());
        store.create_dataset(&parts, DatasetSettings::default()).unwrap();
        let backbone = Digest::of(b"a backbone");
        for (id, labels, split) in samples {
            let values = id.bytes().map(f32::from).collect();
            let sample = NewSample {
                id: (*id).to_owned(),
                labels: labels.iter().map(|label| (*label).to_owned()).collect(),
                split: Some(*split),
                embeddings: vec![NewEmbedding { backbone, values }],
                ..NewSample::default()
            };
            store.add_sample_and_wait(&parts, sample).unwrap();
        }
        (folder, store, parts, backbone)
    }

    #[test]
    fn a_sample_that_was_learnt_judges_nothing_though_it_was_moved_to_the_other_side() {
        let samples: [(&str, &[&str], Split); 3] = [
            ("a", &["nut"], Split::Train),
            ("b", &["bolt"], Split::Train),
            ("c", &["nut"], Split::HeldOut),
        ];
        let (_folder, store, parts, backbone) = stored(&samples);
        let read = |reading| {
            Labelled::read(&store, &parts, backbone, reading, &Cancel::default()).unwrap()
        };
        let trained = read(Reading::of(Split::Train, Several::Refuse)).known();
        let split = Some(Split::HeldOut);
        store
            .update_sample(&parts, "b", SampleChange { split, ..SampleChange::default() })
            .unwrap();
        let held_out = Reading::of(Split::HeldOut, Several::Skip);
        assert_eq!(read(held_out).ids(), ["b", "c"]);
        assert_eq!(read(Reading { without: Some(&trained), ..held_out }).ids(), ["c"]);
    }

    #[test]
    fn copies_are_learnt_with_the_class_of_their_original() {
        let mut read = Gathering::new(1, Several::Refuse);
        for (id, label) in [("a", "nut"), ("b", "bolt")] {
            let (labels, split) = (vec![label.to_owned()], Split::Train);
            let sample = EmbeddedSample { id: id.to_owned(), labels, split, weight: 2.0 };
            read.push(&sample, [f16::ONE]).unwrap();
        }
        let mut read = read.finish();
        read.expect_copies(2);
        read.add_copy(1, &[0.5]);
        read.add_copy(0, &[0.25]);
        let rows = read.rows().unwrap();
        let samples = read.samples(&rows);
        assert_eq!(samples.classes, ["bolt", "nut"]);
        assert_eq!((samples.labels, samples.copy_of), (vec![1, 0, 0, 1], vec![0, 1, 1, 0]));
        assert_eq!(samples.weights, [2.0; 4]);
        assert_eq!(read.values, [1.0, 1.0, 0.5, 0.25].map(f16::from_f32));
    }

    #[test]
    fn what_was_learnt_differs_with_an_id_a_label_and_the_order() {
        let of = |samples: &[(&str, &str)]| {
            let mut learnt = Learnt::default();
            samples.iter().for_each(|(id, label)| learnt.add(id, label));
            learnt.to_text()
        };
        let both = of(&[("a", "nut"), ("b", "bolt")]);
        for other in [
            of(&[("a", "nut"), ("b", "nut")]),
            of(&[("b", "bolt"), ("a", "nut")]),
            of(&[("a", "nut"), ("c", "bolt")]),
            of(&[("a", "nutb"), ("", "bolt")]),
            of(&[("a", "nut")]),
        ] {
            assert_ne!(other, both);
        }
        // A training says the same of them as a head that follows.
        let nut: &[&str] = &["nut"];
        let samples = [("a", nut, Split::Train), ("b", &["bolt"], Split::Train)];
        let (_folder, store, parts, backbone) = stored(&samples);
        let reading = Reading::of(Split::Train, Several::Refuse);
        let read = Labelled::read(&store, &parts, backbone, reading, &Cancel::default()).unwrap();
        assert_eq!(read.learnt().to_text(), both);
    }
}
