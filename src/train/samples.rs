//! What is trained on: embeddings with their labels.

use std::collections::HashMap;

use super::rows::{Rows, Subset};
use super::{TrainError, blocks};
use crate::base::cancel::Cancel;
use crate::heads::check_label;

/// Most classes that are learnt: beyond, weights and their optimiser outgrow the memory of a device.
pub const MAX_LEARNT_CLASSES: usize = 1000;

/// Checks that so many classes can be learnt.
///
/// # Errors
/// [`TrainError::TooManyClasses`].
pub fn check_class_count(classes: usize) -> Result<(), TrainError> {
    if classes > MAX_LEARNT_CLASSES {
        return Err(TrainError::TooManyClasses { classes, most: MAX_LEARNT_CLASSES });
    }
    Ok(())
}

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
    /// [`TrainError`] for the first thing that is wrong; [`TrainError::Cancelled`] within one block.
    pub fn check(&self, cancel: &Cancel) -> Result<(), TrainError> {
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
        check_class_count(self.classes.len())?;
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
        blocks::check_finite(self.rows, cancel)
    }

    /// The same samples, of classes that count alike if `balance`.
    pub(super) fn weighted(&self, balance: bool) -> Self {
        Self {
            rows: self.rows,
            labels: self.labels.clone(),
            weights: if balance { balanced_weights(self) } else { self.weights.clone() },
            classes: self.classes.clone(),
            copy_of: self.copy_of.clone(),
        }
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

/// How much each sample counts so that every class counts alike: its own weight times
/// `w / (classes * w of its class)`, `w` the sum of weights. Where samples count alike this is
/// scikit-learn's `class_weight="balanced"`.
pub fn balanced_weights(samples: &Samples<'_>) -> Vec<f32> {
    let own = |index| f64::from(samples.weight(index));
    let mut of_class = vec![0.0_f64; samples.classes.len()];
    for (index, &label) in samples.labels.iter().enumerate() {
        of_class[label as usize] += own(index);
    }
    let share = of_class.iter().sum::<f64>() / of_class.len() as f64;
    let balanced = |index| (own(index) * share / of_class[samples.labels[index] as usize]) as f32;
    (0..samples.len()).map(balanced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{CONFUSION_CLASSES, DenseRows, Options, Recipe, evaluate, fit};

    /// Two samples for each of so many classes, in 16 dimensions.
    fn many(classes: usize) -> (Vec<f32>, Vec<u32>, Vec<String>) {
        let noise = |a: usize, b: usize| {
            let mut hash = (a as u64 * 1000 + b as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash = (hash ^ (hash >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (hash >> 40) as f32 / (1 << 24) as f32
        };
        let row = |i: usize| (0..16).map(move |j| noise(i / 2, j) + 0.05 * noise(i, j + 99));
        let values = (0..2 * classes).flat_map(row).collect();
        let labels = (0..2 * classes as u32).map(|i| i / 2).collect();
        (values, labels, (0..classes).map(|class| format!("class {class}")).collect())
    }

    #[test]
    fn as_many_classes_as_are_allowed_are_learnt_and_one_more_is_refused_with_its_reason() {
        let (values, labels, classes) = many(MAX_LEARNT_CLASSES + 1);
        let rows = DenseRows::new(&values, 16).unwrap();
        let refused = Samples::new(&rows, labels, classes).check(&Cancel::default());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("1001 different labels") && refused.contains("at most 1000"));

        let (values, labels, classes) = many(MAX_LEARNT_CLASSES);
        let rows = DenseRows::new(&values, 16).unwrap();
        let samples = Samples::new(&rows, labels, classes);
        let options = Options { kind: Some(crate::heads::Kind::Prototype), ..Options::default() };
        let cancel = Cancel::default();
        let trained = fit(&samples, &options, &cancel, &mut |_| {}).unwrap();
        let report = evaluate(&trained.head, &samples, &cancel).unwrap();
        assert!(report.accuracy > 0.9, "{}", report.accuracy);
        assert_eq!(report.per_class.len(), MAX_LEARNT_CLASSES);
        assert!(MAX_LEARNT_CLASSES > CONFUSION_CLASSES && report.confusion.is_empty());
    }

    #[test]
    fn balanced_classes_count_alike_whatever_the_weights_of_their_samples() {
        let values = vec![0.0_f32; 20];
        let rows = DenseRows::new(&values, 1).unwrap();
        // Ten samples that count once, and ten that count nine times.
        let labels = (0..20).map(|i| i / 10).collect();
        let mut samples = Samples::new(&rows, labels, vec!["a".into(), "b".into()]);
        samples.weights = (0..20).map(|i| if i < 10 { 1.0 } else { 9.0 }).collect();
        let weights = balanced_weights(&samples);
        let sums = weights.chunks(10).map(|class| class.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| (sum - 50.0).abs() < 1e-3), "{weights:?}");
        // Within a class samples keep their ratio.
        samples.weights[0] = 3.0;
        let weights = balanced_weights(&samples);
        assert!((weights[0] / weights[1] - 3.0).abs() < 1e-6, "{weights:?}");
        samples.weights.clear();
        assert_eq!(balanced_weights(&samples), vec![1.0; 20]);
    }

    #[test]
    fn labels_that_a_head_lacks_count_as_mistakes_however_many_they_are() {
        let (values, labels, classes) = many(20);
        let rows = DenseRows::new(&values, 16).unwrap();
        let samples = Samples::new(&rows, labels.clone(), classes);
        let options = Options { kind: Some(crate::heads::Kind::Lda), ..Options::default() };
        let cancel = Cancel::default();
        let head = fit(&samples, &options, &cancel, &mut |_| {}).unwrap().head;
        let right = evaluate(&head, &samples, &cancel).unwrap().accuracy;
        // Half of the samples have 10,000 labels between them that the head never heard of.
        let mut classes: Vec<String> = (0..10_000).map(|n| format!("strange {n}")).collect();
        classes.extend((0..20).map(|class| format!("class {class}")));
        let strange =
            (0..40).map(|i| if i % 2 == 0 { i * 250 } else { 10_000 + labels[i as usize] });
        let samples = Samples::new(&rows, strange.collect(), classes);
        let report = evaluate(&head, &samples, &cancel).unwrap();
        assert!((report.accuracy - right / 2.0).abs() < 0.06, "{} {right}", report.accuracy);
        assert_eq!((report.per_class.len(), report.log_loss), (10_020, f64::from(f32::MAX)));
    }

    #[test]
    fn auto_leaves_out_what_would_take_too_much_memory() {
        let values = vec![0.5_f32; 1280];
        let row = DenseRows::new(&values, 1280).unwrap();
        let all = crate::train::recipe::candidates(&Options::default());
        let tried = |samples: usize, classes: usize| -> Vec<Recipe> {
            let indices = vec![0; samples];
            let rows = Subset::new(&row, &indices);
            let classes = (0..classes).map(|class| class.to_string()).collect();
            let samples = Samples::new(&rows, vec![0; samples], classes);
            all.iter().filter(|recipe| recipe.is_affordable(&samples)).copied().collect()
        };
        assert_eq!(tried(1000, 6).len(), all.len());
        let many_samples = tried(100_000, 6);
        assert!(many_samples.iter().all(|recipe| !recipe.features.is_kernel()));
        assert!(many_samples.iter().all(|recipe| recipe.kind != crate::heads::Kind::Knn));
        assert!(many_samples.iter().any(|recipe| recipe.kind == crate::heads::Kind::Softmax));
        let many_classes = tried(2000, 1000);
        assert!(many_classes.iter().all(|recipe| recipe.kind != crate::heads::Kind::Softmax));
        assert!(!many_classes.is_empty());
    }
}
