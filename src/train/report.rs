//! How good a head is on samples that it was not trained on.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::calibration::{Bins, top};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Head, log_sum_exp};

/// Classes up to which a report has a confusion matrix; beyond, nobody could read it, and it would
/// outweigh the head.
pub const CONFUSION_CLASSES: usize = 100;

/// Scores of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Label of the class.
    pub label: String,
    /// Samples that are of the class.
    pub samples: usize,
    /// Share of what was called so that is so; 0 if nothing was.
    pub precision: f64,
    /// Share of what is so that was called so; 0 if nothing is.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

/// Scores on held-out samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Number of samples judged.
    pub samples: usize,
    /// Share that was right, 0 to 1.
    pub accuracy: f64,
    /// Wilson's 95 % interval of the accuracy.
    pub interval: (f64, f64),
    /// Scores by class, in the order of the classes.
    pub per_class: Vec<ClassScores>,
    /// `confusion[truth][prediction]` counts samples; empty for more than [`CONFUSION_CLASSES`].
    pub confusion: Vec<Vec<u32>>,
    /// Mean cross-entropy in nats, after the temperature; NaN where an answer is not finite.
    #[serde(deserialize_with = "number_or_null")]
    pub log_loss: f64,
    /// Expected calibration error before the temperature, 0 to 1; NaN as above.
    #[serde(deserialize_with = "number_or_null")]
    pub ece_before: f64,
    /// Expected calibration error after the temperature, 0 to 1; NaN as above.
    #[serde(deserialize_with = "number_or_null")]
    pub ece_after: f64,
}

/// JSON has no NaN: it is written as null.
fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Report {
    /// From scores before the temperature, in rows of one a class.
    ///
    /// # Errors
    /// [`TrainError::Cancelled`], within one row.
    pub fn new(
        classes: &[String],
        labels: &[u32],
        scores: &[f32],
        temperature: f32,
        cancel: &Cancel,
    ) -> Result<Self, TrainError> {
        let mut tally = Tally::new(classes.len());
        for (row, &label) in scores.chunks_exact(classes.len().max(1)).zip(labels) {
            cancel.check()?;
            let logits: Vec<f32> = row.iter().map(|v| v / temperature).collect();
            tally.add(label as usize, row, &logits);
        }
        Ok(tally.report(classes))
    }
}

/// A report in the making. Samples are added one by one, because the scores of many samples in many
/// classes would take more memory than there is.
#[derive(Debug)]
pub(super) struct Tally {
    samples: usize,
    counts: Vec<Counts>,
    confusion: Vec<Vec<u32>>,
    loss: f64,
    before: Bins,
    after: Bins,
}

/// How often a class was there, was said, and both.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    hits: u32,
    samples: u32,
    called: u32,
}

impl Tally {
    pub(super) fn new(classes: usize) -> Self {
        let matrix = if classes <= CONFUSION_CLASSES { classes } else { 0 };
        Self {
            samples: 0,
            counts: vec![Counts::default(); classes],
            confusion: vec![vec![0; matrix]; matrix],
            loss: 0.0,
            before: Bins::default(),
            after: Bins::default(),
        }
    }

    /// Adds a sample of class `truth` with the scores before the temperature and the logits after it.
    /// A class beyond them is one that the head does not have.
    pub(super) fn add(&mut self, truth: usize, scores: &[f32], logits: &[f32]) {
        let said = top(scores);
        self.samples += 1;
        self.counts[truth].samples += 1;
        self.counts[said].called += 1;
        self.counts[truth].hits += u32::from(said == truth);
        if let Some(cell) = self.confusion.get_mut(truth).and_then(|row| row.get_mut(said)) {
            *cell += 1;
        }
        self.loss +=
            logits.get(truth).map_or(f64::INFINITY, |&own| f64::from(log_sum_exp(logits) - own));
        self.before.add(scores, truth);
        self.after.add(logits, truth);
    }

    /// The report on what was added.
    pub(super) fn report(self, classes: &[String]) -> Report {
        let right: u32 = self.counts.iter().map(|class| class.hits).sum();
        Report {
            samples: self.samples,
            accuracy: ratio(f64::from(right), self.samples as f64),
            interval: wilson(right as usize, self.samples),
            per_class: classes.iter().zip(&self.counts).map(|(l, c)| c.scores(l)).collect(),
            log_loss: ratio(self.loss, self.samples as f64),
            ece_before: self.before.error(self.samples),
            ece_after: self.after.error(self.samples),
            confusion: self.confusion,
        }
    }
}

impl Counts {
    fn scores(&self, label: &str) -> ClassScores {
        let hits = f64::from(self.hits);
        let precision = ratio(hits, f64::from(self.called));
        let recall = ratio(hits, f64::from(self.samples));
        let f1 = ratio(2.0 * precision * recall, precision + recall);
        let samples = self.samples as usize;
        ClassScores { label: label.to_owned(), samples, precision, recall, f1 }
    }
}

/// The same for sets of classes. A class counts as found from a probability of one half on, a sample
/// as right if its whole set is; nothing is taken for something else, so there is no confusion matrix;
/// the cross-entropy is the mean over classes, and the calibration error that of all classes together
/// over ten bins.
#[derive(Debug)]
pub(super) struct SetTally {
    samples: usize,
    right: usize,
    counts: Vec<Counts>,
    /// Probabilities that were added.
    cells: usize,
    loss: f64,
    bins: [(f64, f64); 10],
}

impl SetTally {
    pub(super) fn new(classes: usize) -> Self {
        let counts = vec![Counts::default(); classes];
        Self { samples: 0, right: 0, counts, cells: 0, loss: 0.0, bins: [(0.0, 0.0); 10] }
    }

    /// Number of classes.
    pub(super) fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Adds a sample of the classes `set`, with a probability for each of all classes. One that has
    /// none is not found, and plays no part in the cross-entropy and the calibration error.
    pub(super) fn add(&mut self, set: &[u32], probabilities: &[Option<f32>]) {
        let mut whole = true;
        for (class, (count, probability)) in self.counts.iter_mut().zip(probabilities).enumerate() {
            let there = set.contains(&(class as u32));
            let found = probability.is_some_and(|probability| probability >= 0.5);
            whole &= there == found;
            count.hits += u32::from(there && found);
            count.samples += u32::from(there);
            count.called += u32::from(found);
            let &Some(probability) = probability else { continue };
            let of_truth = if there { probability } else { 1.0 - probability };
            // Clamped so that what is not a number stays so.
            self.loss -= f64::from(of_truth.clamp(f32::MIN_POSITIVE, 1.0)).ln();
            self.cells += 1;
            let bin = &mut self.bins[((probability * 10.0) as usize).min(9)];
            bin.0 += f64::from(probability);
            bin.1 += f64::from(u8::from(there));
        }
        self.samples += 1;
        self.right += usize::from(whole);
    }

    /// How many samples were added, and how many of them are right.
    pub(super) fn right(&self) -> (usize, usize) {
        (self.samples, self.right)
    }

    /// The report on what was added.
    pub(super) fn report(&self, classes: &[String]) -> Report {
        let cells = self.cells as f64;
        let distance: f64 = self.bins.iter().map(|(said, is)| (said - is).abs()).sum();
        Report {
            samples: self.samples,
            accuracy: ratio(self.right as f64, self.samples as f64),
            interval: wilson(self.right, self.samples),
            per_class: classes.iter().zip(&self.counts).map(|(l, c)| c.scores(l)).collect(),
            confusion: Vec::new(),
            log_loss: ratio(self.loss, cells),
            ece_before: ratio(distance, cells),
            ece_after: ratio(distance, cells),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Wilson's 95 % interval of a share (Wilson 1927): honest also near 0 and 1 and for few samples.
pub fn wilson(hits: usize, samples: usize) -> (f64, f64) {
    if samples == 0 {
        return (0.0, 1.0);
    }
    let z = 1.959_963_984_540_054_f64;
    let n = samples as f64;
    let share = hits as f64 / n;
    let middle = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// Runs `head` over `samples` and reports. Classes are matched by label, so that samples may come
/// in another order of classes; a label that the head lacks counts as a mistake under the head's
/// answer and is reported as a class of its own; the cross-entropy is then [`f32::MAX`]. It is NaN
/// where the head answers with a number that is not finite.
///
/// # Errors
/// [`TrainError::Head`] if the embeddings are of another width, [`TrainError::Cancelled`].
pub fn evaluate(head: &Head, samples: &Samples<'_>, cancel: &Cancel) -> Result<Report, TrainError> {
    let (classes, places) = match_classes(head.classes(), &samples.classes);
    let mut tally = Tally::new(classes.len());
    let mut labels = samples.labels.iter();
    let mut finite = true;
    for_each_logits(head, samples, cancel, |logits| {
        finite &= logits.iter().all(|logit| logit.is_finite());
        let Some(&label) = labels.next() else { return };
        let scores: Vec<f32> = logits.iter().map(|v| v * head.temperature()).collect();
        tally.add(places[label as usize], &scores, logits);
    })?;
    let mut report = tally.report(&classes);
    if !finite {
        report.log_loss = f64::NAN;
    } else if !report.log_loss.is_finite() {
        report.log_loss = f64::from(f32::MAX);
    }
    Ok(report)
}

/// The classes that are known and after them those of `others` that are not, and the place of each
/// of `others` among them.
pub(super) fn match_classes(known: &[String], others: &[String]) -> (Vec<String>, Vec<usize>) {
    let mut classes = known.to_vec();
    let mut places: HashMap<&str, usize> =
        known.iter().enumerate().map(|(place, label)| (label.as_str(), place)).collect();
    let place = |label| {
        *places.entry(label).or_insert_with(|| {
            classes.push(String::from(label));
            classes.len() - 1
        })
    };
    let found = others.iter().map(String::as_str).map(place).collect();
    (classes, found)
}

fn for_each_logits(
    head: &Head,
    samples: &Samples<'_>,
    cancel: &Cancel,
    mut each: impl FnMut(&[f32]),
) -> Result<(), TrainError> {
    let mut row = vec![0.0_f32; samples.rows.width()];
    for index in 0..samples.len() {
        cancel.check()?;
        samples.rows.read(index, &mut row);
        each(&head.logits(&row)?);
    }
    Ok(())
}

/// Two heads on the same held-out samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Samples that both call right.
    pub both: usize,
    /// Samples that only the old one calls right.
    pub only_old: usize,
    /// Samples that only the new one calls right.
    pub only_new: usize,
    /// Samples that neither calls right.
    pub neither: usize,
    /// Probability of so unequal a split of the disagreements if both were equally good: `McNemar`'s
    /// exact two-sided test.
    pub p_value: f64,
    /// Change of recall by class, new minus old, for the labels that occur in the samples.
    pub recall_change: Vec<(String, f64)>,
}

/// Compares by label, sample by sample.
///
/// # Errors
/// As [`evaluate`].
pub fn compare(
    old: &Head,
    new: &Head,
    samples: &Samples<'_>,
    cancel: &Cancel,
) -> Result<Comparison, TrainError> {
    let hits = |head: &Head| -> Result<Vec<bool>, TrainError> {
        let mut hits = Vec::with_capacity(samples.len());
        for_each_logits(head, samples, cancel, |logits| {
            let truth = &samples.classes[samples.labels[hits.len()] as usize];
            hits.push(head.classes().get(top(logits)) == Some(truth));
        })?;
        Ok(hits)
    };
    let (old, new) = (hits(old)?, hits(new)?);
    let count = |o: bool, n: bool| old.iter().zip(&new).filter(|p| *p == (&o, &n)).count();
    let (only_old, only_new) = (count(true, false), count(false, true));
    let mut recall_change = Vec::new();
    for (class, label) in samples.classes.iter().enumerate() {
        let members: Vec<usize> =
            (0..samples.len()).filter(|&i| samples.labels[i] as usize == class).collect();
        if !members.is_empty() {
            let change: i64 = members.iter().map(|&i| i64::from(new[i]) - i64::from(old[i])).sum();
            recall_change.push((label.clone(), change as f64 / members.len() as f64));
        }
    }
    Ok(Comparison {
        both: count(true, true),
        only_old,
        only_new,
        neither: count(false, false),
        p_value: mcnemar(only_old, only_new),
        recall_change,
    })
}

/// Two-sided exact binomial test of `a` against `b` with equal chances.
fn mcnemar(a: usize, b: usize) -> f64 {
    let n = a + b;
    // Terms of the binomial distribution in logarithms, so that large counts do not underflow.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=a.min(b) {
        tail += log_term.exp();
        log_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        // statsmodels.stats.proportion.proportion_confint(method="wilson")
        let (low, high) = wilson(8, 10);
        assert!((low - 0.490_162).abs() < 1e-5 && (high - 0.943_318).abs() < 1e-5, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert!((wilson(10, 10).1 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn precision_and_recall_follow_from_the_confusion_matrix() {
        let classes = ["a", "b", "c"].map(String::from);
        let labels = [0, 0, 0, 1, 1, 2];
        let scores: Vec<f32> = [0, 0, 1, 1, 1, 1]
            .iter()
            .flat_map(|&p| (0..3).map(move |c| f32::from(u8::from(c == p))))
            .collect();
        let report = Report::new(&classes, &labels, &scores, 1.0, &Cancel::default()).unwrap();
        assert_eq!(report.confusion, vec![vec![2, 1, 0], vec![0, 2, 0], vec![0, 1, 0]]);
        assert!((report.accuracy - 4.0 / 6.0).abs() < 1e-12);
        assert!((report.per_class[1].precision - 0.5).abs() < 1e-12);
        assert!((report.per_class[0].recall - 2.0 / 3.0).abs() < 1e-12);
        assert!(report.per_class[2].f1.abs() < 1e-12);
    }

    #[test]
    fn answers_that_are_not_finite_show_in_the_report_and_in_what_is_stored_of_it() {
        use crate::heads::{Classifier, Kind, Linear, Matrix, Transform};
        let classes = ["a", "b"].map(String::from).to_vec();
        let weights = Matrix::new(2, 1, vec![f32::MAX, 1.0]).unwrap();
        let classifier = Classifier::Linear(Linear::new(weights, vec![0.0; 2]).unwrap());
        let head = Head::new(Kind::Softmax, classes.clone(), Transform::default(), classifier);
        let head = head.unwrap();
        let report = |value: f32, classes: Vec<String>| {
            let rows = [value];
            let rows = crate::train::DenseRows::new(&rows, 1).unwrap();
            let samples = Samples::new(&rows, vec![0], classes);
            evaluate(&head, &samples, &Cancel::default()).unwrap()
        };
        for strange in [report(2.0, classes.clone()), report(-2.0, vec!["c".into()])] {
            assert!(strange.log_loss.is_nan(), "{strange:?}");
            let stored = serde_json::to_string(&strange).unwrap();
            let read: Report = serde_json::from_str(&stored).unwrap();
            assert!(read.log_loss.is_nan() && read.samples == 1);
        }
        // A label that the head lacks is no fault of its answers.
        assert_eq!(report(0.5, vec!["c".into()]).log_loss, f64::from(f32::MAX));
        assert!(report(0.5, classes).log_loss < 1e-6);
    }

    #[test]
    fn mcnemar_agrees_with_the_binomial_test() {
        // scipy.stats.binomtest(2, 10).pvalue, binomtest(5, 10).pvalue
        assert!((mcnemar(2, 8) - 0.109_375).abs() < 1e-9);
        assert!((mcnemar(5, 5) - 1.0).abs() < 1e-9);
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-9);
    }
}
