//! What is trained on: embeddings with their labels.

use std::collections::HashMap;

use super::rows::{Rows, Subset};
use super::{TrainError, blocks};
use crate::heads::check_label;

/// Labelled embeddings. `labels[i]` indexes `classes`; for multi-label training each sample has any
/// number of them.
pub struct Samples<'a> {
    /// The embeddings.
    pub rows: &'a dyn Rows,
    /// Class of every sample.
    pub labels: Vec<u32>,
    /// How much every sample counts, positive; empty means 1 each.
    pub weights: Vec<f32>,
    /// Labels of the classes.
    pub classes: Vec<String>,
    /// For each sample the index of the one that it is a changed copy of, its own where it is none;
    /// empty where no sample is a copy. Copies are trained on with their original and never judged.
    pub copy_of: Vec<u32>,
}

impl<'a> Samples<'a> {
    /// Samples that all count alike.
    pub fn new(rows: &'a dyn Rows, labels: Vec<u32>, classes: Vec<String>) -> Self {
        Self { rows, labels, weights: Vec::new(), classes, copy_of: Vec::new() }
    }

    /// The sample that `index` is a copy of; `index` itself for an original.
    pub fn original(&self, index: usize) -> usize {
        self.copy_of.get(index).map_or(index, |&original| original as usize)
    }

    /// Whether the sample is no copy of another.
    pub fn is_original(&self, index: usize) -> bool {
        self.original(index) == index
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// How much sample `index` counts.
    pub fn weight(&self, index: usize) -> f32 {
        self.weights.get(index).copied().unwrap_or(1.0)
    }

    /// Number of samples a class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Checks everything that came from outside: lengths, labels, weights, and every embedding for
    /// being finite. All functions of `train` rely on it.
    ///
    /// # Errors
    /// [`TrainError`] for the first thing that is wrong.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.labels.is_empty() || self.rows.is_empty() {
            return Err(TrainError::Empty);
        }
        if self.labels.len() != self.rows.len() {
            return Err(TrainError::Invalid(format!(
                "{} labels for {} embeddings",
                self.labels.len(),
                self.rows.len()
            )));
        }
        if !self.weights.is_empty() && self.weights.len() != self.labels.len() {
            return Err(TrainError::Invalid(format!(
                "{} weights for {} samples",
                self.weights.len(),
                self.labels.len()
            )));
        }
        let is_copy_of_original =
            |&of: &u32| (of as usize) < self.len() && self.is_original(of as usize);
        let copies_fit = self.copy_of.is_empty() || self.copy_of.len() == self.labels.len();
        if !copies_fit || !self.copy_of.iter().all(is_copy_of_original) {
            return Err(TrainError::Invalid("a copy names no original sample".into()));
        }
        if self.weights.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(TrainError::Invalid("a sample's weight is not a positive number".into()));
        }
        for class in &self.classes {
            check_label(class)?;
        }
        if let Some(label) = self.labels.iter().find(|&&l| l as usize >= self.classes.len()) {
            return Err(TrainError::Invalid(format!(
                "label {label} of {} classes",
                self.classes.len()
            )));
        }
        let counts = self.counts();
        if let Some(empty) = counts.iter().position(|&count| count == 0) {
            return Err(TrainError::TooFew {
                class: self.classes[empty].clone(),
                samples: 0,
                needed: 1,
                purpose: "to learn it",
            });
        }
        if self.classes.len() < 2 {
            return Err(TrainError::OneClass(self.classes[0].clone()));
        }
        blocks::check_finite(self.rows)
    }

    /// The samples at `indices`, whose rows `subset` must read.
    pub fn pick<'b>(&self, subset: &'b Subset<'b>, indices: &[usize]) -> Samples<'b> {
        let copy_of = if self.copy_of.is_empty() {
            Vec::new()
        } else {
            let places: HashMap<usize, u32> = indices.iter().copied().zip(0..).collect();
            let place = |(&index, own)| *places.get(&self.original(index)).unwrap_or(&own);
            indices.iter().zip(0..).map(place).collect()
        };
        Samples {
            copy_of,
            rows: subset,
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            weights: if self.weights.is_empty() {
                Vec::new()
            } else {
                indices.iter().map(|&i| self.weights[i]).collect()
            },
            classes: self.classes.clone(),
        }
    }
}

/// How much each sample counts so that every class counts alike: `n / (classes * count)` times the
/// sample's own weight, as scikit-learn's `class_weight="balanced"`.
pub fn balanced_weights(samples: &Samples<'_>) -> Vec<f32> {
    let counts = samples.counts();
    let share = samples.len() as f32 / counts.len() as f32;
    let factor = |label: u32| share / counts[label as usize] as f32;
    (0..samples.len()).map(|i| samples.weight(i) * factor(samples.labels[i])).collect()
}
