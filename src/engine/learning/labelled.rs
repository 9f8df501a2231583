//! Labelled embeddings out of the store, as `train` wants them.

use std::collections::BTreeMap;

use half::f16;

use super::LearningError;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::store::{EmbeddedSample, Split, Store};
use crate::train::{HalfRows, Samples};

/// Samples read from the store at once.
const BLOCK: usize = 1024;

/// Some labelled samples with their embeddings, 16 bits a value.
#[derive(Default)]
pub(super) struct Labelled {
    width: usize,
    values: Vec<f16>,
    labels: Vec<u32>,
    weights: Vec<f32>,
    classes: Vec<String>,
}

impl Labelled {
    /// Reads one side of a dataset. Samples without label are left out.
    ///
    /// # Errors
    /// A sample with several labels, which needs another kind of head; damage.
    pub(super) fn read(
        store: &Store,
        dataset: &Name,
        backbone: Digest,
        split: Split,
    ) -> Result<Self, LearningError> {
        let stats = store.dataset_stats(dataset)?;
        let most = match split {
            Split::HeldOut => stats.held_out,
            Split::Train => stats.samples - stats.held_out,
        };
        let blocks = store.embeddings(dataset, backbone, Some(split), BLOCK)?;
        let mut read = Self { width: blocks.width(), ..Self::default() };
        // At once, because a growing vector would hold everything twice for a moment.
        read.values.reserve_exact(most as usize * read.width);
        let mut numbers = BTreeMap::new();
        for block in blocks {
            let block = block?;
            let rows = block.values.chunks_exact(read.width.max(1));
            for (sample, row) in block.samples.iter().zip(rows) {
                read.push(sample, row, &mut numbers)?;
            }
        }
        read.sort_classes(&numbers);
        Ok(read)
    }

    /// From samples that were chosen one by one.
    ///
    /// # Errors
    /// A sample with several labels.
    pub(super) fn from_rows(
        width: usize,
        rows: impl IntoIterator<Item = Result<(EmbeddedSample, Vec<f32>), LearningError>>,
    ) -> Result<Self, LearningError> {
        let mut read = Self { width, ..Self::default() };
        let mut numbers = BTreeMap::new();
        for row in rows {
            let (sample, values) = row?;
            let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            read.push(&sample, &halves, &mut numbers)?;
        }
        read.sort_classes(&numbers);
        Ok(read)
    }

    fn push(
        &mut self,
        sample: &EmbeddedSample,
        row: &[f16],
        numbers: &mut BTreeMap<String, u32>,
    ) -> Result<(), LearningError> {
        let label = match sample.labels.as_slice() {
            [] => return Ok(()),
            [label] => label,
            [_, _, ..] => {
                return Err(LearningError::NoSamples(format!(
                    "sample {:?} has several labels; heads with several labels are trained from \
                     the command line only",
                    sample.id
                )));
            }
        };
        let next = numbers.len() as u32;
        let number = *numbers.entry(label.clone()).or_insert(next);
        self.labels.push(number);
        self.weights.push(sample.weight);
        self.values.extend_from_slice(row);
        Ok(())
    }

    /// Numbers the classes in the order of their names, so that the order of arrival does not show.
    fn sort_classes(&mut self, numbers: &BTreeMap<String, u32>) {
        let mut sorted = vec![0; numbers.len()];
        for (place, number) in numbers.values().enumerate() {
            sorted[*number as usize] = place as u32;
        }
        for label in &mut self.labels {
            *label = sorted[*label as usize];
        }
        self.classes = numbers.keys().cloned().collect();
    }

    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The rows; `None` where there are none.
    pub(super) fn rows(&self) -> Option<HalfRows<'_>> {
        HalfRows::new(&self.values, self.width).filter(|_| !self.labels.is_empty())
    }

    /// What `train` takes, on the rows of [`Labelled::rows`].
    pub(super) fn samples<'a>(&self, rows: &'a HalfRows<'a>) -> Samples<'a> {
        Samples {
            rows,
            labels: self.labels.clone(),
            weights: self.weights.clone(),
            classes: self.classes.clone(),
        }
    }
}
