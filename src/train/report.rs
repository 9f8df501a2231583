//! How good a head is on samples that it was not trained on.

use serde::{Deserialize, Serialize};

use super::calibration::{calibration_error, log_loss, top};
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::Head;

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
    /// `confusion[truth][prediction]` counts samples.
    pub confusion: Vec<Vec<u32>>,
    /// Mean cross-entropy in nats, after the temperature.
    pub log_loss: f64,
    /// Expected calibration error before the temperature, 0 to 1.
    pub ece_before: f64,
    /// Expected calibration error after the temperature, 0 to 1.
    pub ece_after: f64,
}

impl Report {
    /// From scores before the temperature, in rows of one a class.
    pub fn new(classes: &[String], labels: &[u32], scores: &[f32], temperature: f32) -> Self {
        let logits: Vec<f32> = scores.iter().map(|v| v / temperature).collect();
        Self::from_both(classes, labels, scores, &logits)
    }

    /// From scores before the temperature and logits after it, which may differ from fold to fold.
    pub(super) fn from_both(
        classes: &[String],
        labels: &[u32],
        scores: &[f32],
        logits: &[f32],
    ) -> Self {
        let width = classes.len();
        let mut confusion = vec![vec![0_u32; width]; width];
        for (row, &label) in scores.chunks_exact(width).zip(labels) {
            confusion[label as usize][top(row)] += 1;
        }
        let right: u32 = (0..width).map(|class| confusion[class][class]).sum();
        Self {
            samples: labels.len(),
            accuracy: ratio(f64::from(right), labels.len() as f64),
            interval: wilson(right as usize, labels.len()),
            per_class: per_class(classes, &confusion),
            log_loss: log_loss(logits, labels, width, 1.0),
            ece_before: calibration_error(scores, labels, width, 1.0),
            ece_after: calibration_error(logits, labels, width, 1.0),
            confusion,
        }
    }

    /// Of sets of classes: `probabilities` has one a class and sample, and a class counts as found
    /// from one half on. A sample is right if its whole set is; nothing is taken for something else,
    /// so there is no confusion matrix; the cross-entropy is the mean over classes.
    pub(super) fn of_sets(classes: &[String], sets: &[Vec<u32>], probabilities: &[f32]) -> Self {
        let width = classes.len().max(1);
        let mut counts = vec![[0_u32; 3]; classes.len()]; // hits, there, found
        let (mut right, mut loss) = (0, 0.0);
        for (row, set) in probabilities.chunks_exact(width).zip(sets) {
            let mut whole = true;
            for (class, &probability) in row.iter().enumerate() {
                let (there, found) = (set.contains(&(class as u32)), probability >= 0.5);
                let of_truth = if there { probability } else { 1.0 - probability };
                loss -= f64::from(of_truth.max(f32::MIN_POSITIVE)).ln();
                whole &= there == found;
                let count = &mut counts[class];
                count[0] += u32::from(there && found);
                count[1] += u32::from(there);
                count[2] += u32::from(found);
            }
            right += usize::from(whole);
        }
        let per_class = classes.iter().zip(&counts).map(|(label, &[hits, there, found])| {
            let precision = ratio(f64::from(hits), f64::from(found));
            let recall = ratio(f64::from(hits), f64::from(there));
            let f1 = ratio(2.0 * precision * recall, precision + recall);
            ClassScores { label: label.clone(), samples: there as usize, precision, recall, f1 }
        });
        let ece = set_calibration_error(sets, probabilities, width);
        Self {
            samples: sets.len(),
            accuracy: ratio(right as f64, sets.len() as f64),
            interval: wilson(right, sets.len()),
            per_class: per_class.collect(),
            confusion: Vec::new(),
            log_loss: ratio(loss, (sets.len() * width) as f64),
            ece_before: ece,
            ece_after: ece,
        }
    }

    /// The pairs of classes that are mistaken for each other most: truth, prediction, how often.
    pub fn most_confused(&self, count: usize) -> Vec<(usize, usize, u32)> {
        let mut pairs: Vec<_> = self
            .confusion
            .iter()
            .enumerate()
            .flat_map(|(truth, row)| {
                row.iter().enumerate().map(move |(prediction, &n)| (truth, prediction, n))
            })
            .filter(|(truth, prediction, n)| truth != prediction && *n > 0)
            .collect();
        pairs.sort_by_key(|&(truth, prediction, n)| (std::cmp::Reverse(n), truth, prediction));
        pairs.truncate(count);
        pairs
    }
}

/// Mean distance between probability and share of truth over ten bins, all classes together.
fn set_calibration_error(sets: &[Vec<u32>], probabilities: &[f32], width: usize) -> f64 {
    let mut bins = [(0.0_f64, 0.0_f64); 10];
    for (row, set) in probabilities.chunks_exact(width).zip(sets) {
        for (class, &probability) in row.iter().enumerate() {
            let bin = &mut bins[((probability * 10.0) as usize).min(9)];
            bin.0 += f64::from(probability);
            bin.1 += f64::from(u8::from(set.contains(&(class as u32))));
        }
    }
    let distance: f64 = bins.iter().map(|(said, is)| (said - is).abs()).sum();
    ratio(distance, (sets.len() * width) as f64)
}

fn per_class(classes: &[String], confusion: &[Vec<u32>]) -> Vec<ClassScores> {
    classes
        .iter()
        .enumerate()
        .map(|(class, label)| {
            let hits = f64::from(confusion[class][class]);
            let samples: u32 = confusion[class].iter().sum();
            let called: u32 = confusion.iter().map(|row| row[class]).sum();
            let precision = ratio(hits, f64::from(called));
            let recall = ratio(hits, f64::from(samples));
            let f1 = ratio(2.0 * precision * recall, precision + recall);
            ClassScores { label: label.clone(), samples: samples as usize, precision, recall, f1 }
        })
        .collect()
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
/// answer and is reported as a class of its own.
///
/// # Errors
/// [`TrainError::Head`] if the embeddings are of another width, [`TrainError::Cancelled`].
pub fn evaluate(head: &Head, samples: &Samples<'_>, cancel: &Cancel) -> Result<Report, TrainError> {
    let (classes, labels) = match_classes(head.classes(), samples);
    // Scores before the temperature; classes that the head lacks can never win.
    let mut scores = Vec::with_capacity(samples.len() * classes.len());
    for_each_logits(head, samples, cancel, |logits| {
        scores.extend(logits.iter().map(|v| v * head.temperature()));
        scores.extend(std::iter::repeat_n(f32::MIN, classes.len() - logits.len()));
    })?;
    let mut report = Report::new(&classes, &labels, &scores, head.temperature());
    if !report.log_loss.is_finite() || classes.len() > head.classes().len() {
        report.log_loss = f64::from(f32::MAX);
    }
    Ok(report)
}

fn match_classes(known: &[String], samples: &Samples<'_>) -> (Vec<String>, Vec<u32>) {
    let mut classes = known.to_vec();
    let map: Vec<u32> = samples
        .classes
        .iter()
        .map(|label| {
            let at = classes.iter().position(|c| c == label).unwrap_or_else(|| {
                classes.push(label.clone());
                classes.len() - 1
            });
            at as u32
        })
        .collect();
    let labels = samples.labels.iter().map(|&l| map[l as usize]).collect();
    (classes, labels)
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
        let report = Report::new(&classes, &labels, &scores, 1.0);
        assert_eq!(report.confusion, vec![vec![2, 1, 0], vec![0, 2, 0], vec![0, 1, 0]]);
        assert!((report.accuracy - 4.0 / 6.0).abs() < 1e-12);
        assert!((report.per_class[1].precision - 0.5).abs() < 1e-12);
        assert!((report.per_class[0].recall - 2.0 / 3.0).abs() < 1e-12);
        assert!(report.per_class[2].f1.abs() < 1e-12);
        assert_eq!(report.most_confused(1), vec![(0, 1, 1)]);
    }

    #[test]
    fn mcnemar_agrees_with_the_binomial_test() {
        // scipy.stats.binomtest(2, 10).pvalue, binomtest(5, 10).pvalue
        assert!((mcnemar(2, 8) - 0.109_375).abs() < 1e-9);
        assert!((mcnemar(5, 5) - 1.0).abs() < 1e-9);
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-9);
    }
}
