//! Heads whose classes do not exclude each other.

use std::borrow::Cow;

use super::fit::Options;
use super::lbfgs::Stop;
use super::logistic::{self, LogisticOptions, Targets};
use super::recipe::{self, Features};
use super::report::{SetTally, match_classes};
use super::rows::Subset;
use super::samples::check_class_count;
use super::{Report, Rows, Samples, TrainError, blocks, folds};
use crate::base::cancel::Cancel;
use crate::heads::{Classifier, Head, Kind, check_label};

/// Inverse penalty where none is chosen.
const INVERSE_PENALTY: f64 = 30.0;

/// Embeddings with the classes of each.
pub struct LabelSets<'a> {
    /// The embeddings.
    pub rows: &'a dyn Rows,
    /// The classes of each sample by number, none of them twice; empty for a sample of no class.
    pub sets: Cow<'a, [Vec<u32>]>,
    /// How much every sample counts, positive; empty means 1 each.
    pub weights: Vec<f32>,
    /// Labels of the classes.
    pub classes: &'a [String],
    /// As [`Samples::copy_of`].
    pub copy_of: Vec<u32>,
}

impl<'a> LabelSets<'a> {
    /// Samples that all count alike.
    pub fn new(rows: &'a dyn Rows, sets: &'a [Vec<u32>], classes: &'a [String]) -> Self {
        let sets = Cow::Borrowed(sets);
        Self { rows, sets, weights: Vec::new(), classes, copy_of: Vec::new() }
    }

    /// The samples at `indices`, whose rows `subset` must read, as originals all.
    pub(super) fn pick<'b>(&'b self, subset: &'b Subset<'b>, indices: &[usize]) -> LabelSets<'b> {
        let weights = if self.weights.is_empty() {
            Vec::new()
        } else {
            indices.iter().map(|&index| self.weights[index]).collect()
        };
        LabelSets {
            rows: subset,
            sets: indices.iter().map(|&index| self.sets[index].clone()).collect(),
            weights,
            classes: self.classes,
            copy_of: Vec::new(),
        }
    }

    /// The classes that some sample is of, ascending.
    fn present(&self) -> Vec<usize> {
        let mut there = vec![false; self.classes.len()];
        self.sets.iter().flatten().for_each(|&class| there[class as usize] = true);
        (0..there.len()).filter(|&class| there[class]).collect()
    }

    /// The same samples with the classes `present`, which are all that occur, numbered anew; `labels`
    /// are theirs.
    fn of_classes<'b>(&self, present: &[usize], labels: &'b [String]) -> LabelSets<'b>
    where
        'a: 'b,
    {
        let mut places = vec![0; self.classes.len()];
        present.iter().zip(0..).for_each(|(&class, place)| places[class] = place);
        let place = |set: &Vec<u32>| set.iter().map(|&class| places[class as usize]).collect();
        LabelSets {
            rows: self.rows,
            sets: self.sets.iter().map(place).collect(),
            weights: self.weights.clone(),
            classes: labels,
            copy_of: self.copy_of.clone(),
        }
    }

    /// Assigns every sample to a fold, every copy to that of its original.
    pub(super) fn folds(&self, folds: usize, seed: u64) -> Vec<usize> {
        folds::of_samples(&self.alike(), folds, seed)
    }

    /// Whether the sample is no copy of another.
    pub(super) fn is_original(&self, index: usize) -> bool {
        self.copy_of.get(index).is_none_or(|&original| original as usize == index)
    }

    /// The same samples, all of one class: sets cannot be stratified.
    fn alike(&self) -> Samples<'_> {
        let labels = vec![0; self.sets.len()];
        let copy_of = self.copy_of.clone();
        Samples { copy_of, ..Samples::new(self.rows, labels, vec![String::new()]) }
    }

    /// Checks everything that came from outside: lengths, labels, weights, and every embedding for
    /// being finite.
    ///
    /// # Errors
    /// [`TrainError`] for the first thing that is wrong, a class without samples as
    /// [`TrainError::TooFew`]; [`TrainError::Cancelled`] within one block.
    fn check(&self, cancel: &Cancel) -> Result<(), TrainError> {
        self.check_lengths()?;
        let mut counts = vec![0_usize; self.classes.len()];
        for &label in self.sets.iter().flatten() {
            *counts.get_mut(label as usize).ok_or_else(|| {
                TrainError::Invalid(format!("label {label} of {} classes", self.classes.len()))
            })? += 1;
        }
        for (class, &samples) in self.classes.iter().zip(&counts) {
            check_label(class)?;
            if samples == 0 {
                let (class, purpose) = (class.clone(), "to learn it");
                return Err(TrainError::TooFew { class, samples, needed: 1, purpose });
            }
        }
        if self.weights.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(TrainError::Invalid("a sample's weight is not a positive number".into()));
        }
        blocks::check_finite(self.rows, cancel)
    }

    /// Whether there are samples, each with a set, of a number of classes that can be learnt.
    ///
    /// # Errors
    /// [`TrainError::Empty`] and [`TrainError::Invalid`].
    pub(super) fn check_lengths(&self) -> Result<(), TrainError> {
        let (labels, embeddings) = (self.sets.len(), self.rows.len());
        if self.rows.is_empty() || self.sets.is_empty() {
            return Err(TrainError::Empty);
        }
        if embeddings != labels {
            return Err(TrainError::Invalid(format!(
                "{labels} label sets for {embeddings} embeddings"
            )));
        }
        if !self.weights.is_empty() && self.weights.len() != labels {
            let weights = self.weights.len();
            return Err(TrainError::Invalid(format!("{weights} weights for {labels} samples")));
        }
        check_class_count(self.classes.len())
    }

    /// For every class how much a sample without it and one with it count beside the sample's own
    /// weight, so that both sides count alike: as scikit-learn's `class_weight="balanced"` in one
    /// problem of two classes for each.
    fn balance(&self) -> Vec<[f64; 2]> {
        let weight = |index: usize| self.weights.get(index).map_or(1.0, |&w| f64::from(w));
        let total: f64 = (0..self.sets.len()).map(weight).sum();
        let mut with = vec![0.0; self.classes.len()];
        for (index, set) in self.sets.iter().enumerate() {
            set.iter().for_each(|&class| with[class as usize] += weight(index));
        }
        // A side without samples has none to weigh.
        let factor = |side: f64| if side > 0.0 { total / (2.0 * side) } else { 1.0 };
        with.into_iter().map(|with| [factor(total - with), factor(with)]).collect()
    }
}

/// Fits one logistic regression a class, on unit-length embeddings unless the options want others.
/// With `options.balance` those with a class and those without count alike.
///
/// # Errors
/// [`TrainError::Invalid`] for labels out of range or lengths that differ, a class without samples
/// as [`TrainError::TooFew`]; the rest as [`logistic::fit`].
pub fn fit_multi_label(
    samples: &LabelSets<'_>,
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Head, TrainError> {
    samples.check(cancel)?;
    let (rows, classes) = (samples.rows, samples.classes);
    let features = options.features.unwrap_or(Features::UnitLength);
    let transform = recipe::transform(features, rows, cancel)?;
    let logistic = LogisticOptions {
        inverse_penalty: options.inverse_penalty.unwrap_or(INVERSE_PENALTY),
        label_smoothing: f64::from(options.label_smoothing),
        stop: Stop::default(),
    };
    let factors = if options.balance { samples.balance() } else { Vec::new() };
    let targets = Targets::Sets { sets: &samples.sets, factors: &factors };
    let (weights, count) = (&samples.weights, classes.len());
    let fitted =
        logistic::fit(rows, &targets, weights, count, &transform, &logistic, cancel, progress)?;
    Ok(Head::new(Kind::MultiLabel, classes.to_vec(), transform, Classifier::Linear(fitted.linear))?)
}

/// Trains once a fold and judges what was held out, over no more folds than there are samples. A class
/// that a fold's training part lacks is never found by its head, and has no part in the cross-entropy
/// and the calibration error. Returns the report and the share of samples in each fold whose whole set
/// is right. `progress` hears of each fold how much is done, 0 to 1, and the share that was right so
/// far.
///
/// # Errors
/// As [`fit_multi_label`].
pub fn cross_validate_sets(
    samples: &LabelSets<'_>,
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(f32, f64),
) -> Result<(Report, Vec<f64>), TrainError> {
    samples.check(cancel)?;
    let originals = (0..samples.sets.len()).filter(|&index| samples.is_original(index)).count();
    let folds = options.folds.min(originals).max(2);
    let assigned = samples.folds(folds, options.seed);
    let mut tally = SetTally::new(samples.classes.len());
    let mut accuracies = Vec::new();
    for fold in 0..folds {
        let (kept, mut held_out) = folds::split(&assigned, fold);
        held_out.retain(|&index| samples.is_original(index));
        if held_out.is_empty() {
            continue;
        }
        let subset = Subset::new(samples.rows, &kept);
        let train = samples.pick(&subset, &kept);
        let present = train.present();
        let labels: Vec<String> =
            present.iter().map(|&class| samples.classes[class].clone()).collect();
        let head = if present.is_empty() {
            None
        } else {
            let train = train.of_classes(&present, &labels);
            Some(fit_multi_label(&train, options, cancel, &mut |_, _| {})?)
        };
        let (before, right_before) = tally.right();
        let mut row = vec![0.0_f32; samples.rows.width()];
        for &index in &held_out {
            cancel.check()?;
            samples.rows.read(index, &mut row);
            let mut probabilities = vec![None; samples.classes.len()];
            if let Some(head) = &head {
                for (&class, found) in present.iter().zip(head.predict(&row)?.probabilities) {
                    probabilities[class] = Some(found);
                }
            }
            tally.add(&samples.sets[index], &probabilities);
        }
        let (judged, right) = tally.right();
        accuracies.push((right - right_before) as f64 / (judged - before) as f64);
        progress((fold + 1) as f32 / folds as f32, right as f64 / judged as f64);
    }
    Ok((tally.report(samples.classes), accuracies))
}

/// Runs a multi-label head over samples. Classes are matched by label; one that the head lacks is
/// never found.
///
/// # Errors
/// [`TrainError::Head`] if the embeddings are of another width, [`TrainError::Cancelled`].
pub fn evaluate_sets(
    head: &Head,
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    classes: &[String],
    cancel: &Cancel,
) -> Result<Report, TrainError> {
    let (all, places) = match_classes(head.classes(), classes);
    let place = |&label: &u32| places[label as usize] as u32;
    let sets: Vec<Vec<u32>> = sets.iter().map(|set| set.iter().map(place).collect()).collect();
    let mut tally = SetTally::new(all.len());
    judge_sets(head, rows, &sets, &mut tally, cancel)?;
    Ok(tally.report(&all))
}

/// Adds what the head says of every row to the tally.
pub(super) fn judge_sets(
    head: &Head,
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    tally: &mut SetTally,
    cancel: &Cancel,
) -> Result<(), TrainError> {
    let mut row = vec![0.0_f32; rows.width()];
    for (index, set) in sets.iter().enumerate() {
        cancel.check()?;
        rows.read(index, &mut row);
        // Classes beyond those of the head have none.
        let mut probabilities = vec![Some(0.0); tally.classes()];
        for (all, found) in probabilities.iter_mut().zip(head.predict(&row)?.probabilities) {
            *all = Some(found);
        }
        tally.add(set, &probabilities);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::DenseRows;

    #[test]
    fn a_sample_may_be_of_two_classes_or_of_none() {
        // Feature 0 means "striped", feature 1 "winged"; feature 2 is always there.
        let sets: Vec<Vec<u32>> =
            (0..80).map(|i| (0..2).filter(|bit| i >> bit & 1 == 1).collect()).collect();
        let values: Vec<f32> = (0..80)
            .flat_map(|i| [f32::from(i & 1 == 1), f32::from(i >> 1 & 1 == 1), 0.5_f32])
            .collect();
        let rows = DenseRows::new(&values, 3).unwrap();
        let classes = ["striped", "winged"].map(String::from);
        let options = Options { inverse_penalty: Some(1000.0), ..Options::default() };
        let samples = LabelSets::new(&rows, &sets, &classes);
        let head = fit_multi_label(&samples, &options, &Cancel::default(), &mut |_, _| {}).unwrap();
        let both = head.predict(&[1.0, 1.0, 0.5]).unwrap().probabilities;
        let none = head.predict(&[0.0, 0.0, 0.5]).unwrap().probabilities;
        assert!(both.iter().all(|p| *p > 0.6), "{both:?}");
        assert!(none.iter().all(|p| *p < 0.4), "{none:?}");
    }

    #[test]
    fn sets_are_judged_whole_and_class_by_class() {
        let classes = ["striped", "winged"].map(String::from);
        let truth = [vec![0], vec![0, 1], vec![], vec![1]];
        // Right, one class missing, right, one class too many.
        let found = [0.9, 0.1, 0.8, 0.4, 0.2, 0.3, 0.7, 0.9];
        let mut tally = SetTally::new(2);
        for (set, found) in truth.iter().zip(found.chunks(2)) {
            tally.add(set, &found.iter().map(|&probability| Some(probability)).collect::<Vec<_>>());
        }
        let report = tally.report(&classes);
        assert_eq!((report.samples, report.accuracy), (4, 0.5));
        let [striped, winged] = report.per_class.as_slice() else { panic!("two classes") };
        assert!((striped.precision - 2.0 / 3.0).abs() < 1e-9 && striped.recall == 1.0);
        assert_eq!((winged.precision, winged.recall), (1.0, 0.5));
        assert!(report.log_loss.is_finite() && report.confusion.is_empty());
    }

    /// `count` samples of the classes "even" and "odd", told apart by the first feature; the class
    /// "rare" has sample 3 alone.
    fn with_a_rare_class(count: usize) -> (Vec<f32>, Vec<Vec<u32>>, [String; 3]) {
        let values = (0..count).flat_map(|i| [f32::from(u8::from(i % 2 == 0)), 0.5]).collect();
        let set = |i: usize| if i == 3 { vec![0, 2] } else { vec![1 + (i % 2) as u32] };
        let sets = (0..count).map(set).collect();
        (values, sets, ["rare", "even", "odd"].map(String::from))
    }

    #[test]
    fn a_class_of_one_sample_is_wrong_once_and_no_fold_is_left_out_for_it() {
        let (values, sets, classes) = with_a_rare_class(40);
        let rows = DenseRows::new(&values, 2).unwrap();
        let samples = LabelSets::new(&rows, &sets, &classes);
        let options = Options { inverse_penalty: Some(1000.0), ..Options::default() };
        let (report, folds) =
            cross_validate_sets(&samples, &options, &Cancel::default(), &mut |_, _| {}).unwrap();
        assert_eq!((report.samples, folds.len()), (40, 5));
        assert!((report.accuracy - 39.0 / 40.0).abs() < 1e-9, "{report:?}");
        assert_eq!((report.per_class[0].samples, report.per_class[0].recall), (1, 0.0));
        assert!(report.log_loss < 0.5, "{}", report.log_loss);
        // Where every fold lacks a class, all samples are judged none the less.
        let sets: Vec<Vec<u32>> = (0..4).map(|i| vec![i]).collect();
        let classes = ["a", "b", "c", "d"].map(String::from);
        let rows = DenseRows::new(&values[..8], 2).unwrap();
        let samples = LabelSets::new(&rows, &sets, &classes);
        let (report, folds) =
            cross_validate_sets(&samples, &options, &Cancel::default(), &mut |_, _| {}).unwrap();
        assert_eq!((report.samples, report.accuracy, folds), (4, 0.0, vec![0.0; 4]));
    }

    #[test]
    fn there_are_no_more_folds_than_samples() {
        let (values, sets, classes) = with_a_rare_class(12);
        let rows = DenseRows::new(&values, 2).unwrap();
        let samples = LabelSets::new(&rows, &sets, &classes);
        let options = Options { folds: 20, inverse_penalty: Some(1000.0), ..Options::default() };
        let (report, folds) =
            cross_validate_sets(&samples, &options, &Cancel::default(), &mut |_, _| {}).unwrap();
        assert_eq!((report.samples, folds.len()), (12, 12));
        assert!((report.accuracy - folds.iter().sum::<f64>() / 12.0).abs() < 1e-9, "{folds:?}");
    }

    /// Of 100 samples, ten have the class; on the feature it lies nearer to the others than half way.
    fn lopsided() -> (Vec<f32>, Vec<Vec<u32>>) {
        let noise = |i: usize| ((i * 37 + 11) % 23) as f32 / 23.0;
        let values = (0..100).flat_map(|i| [noise(i) + if i < 10 { 0.6 } else { 0.0 }, 1.0]);
        let sets = (0..100).map(|i| if i < 10 { vec![0] } else { Vec::new() });
        (values.collect(), sets.collect())
    }

    #[test]
    fn with_balance_a_rare_class_is_found_as_if_it_were_as_common_as_the_rest() {
        let (values, sets) = lopsided();
        let rows = DenseRows::new(&values, 2).unwrap();
        let classes = ["rare".to_owned()];
        let samples = LabelSets::new(&rows, &sets, &classes);
        let found = |options: &Options, samples: &LabelSets<'_>| {
            let head = fit_multi_label(samples, options, &Cancel::default(), &mut |_, _| {});
            let report =
                evaluate_sets(&head.unwrap(), &rows, &sets, &classes, &Cancel::default()).unwrap();
            report.per_class[0].recall
        };
        let plain = Options {
            inverse_penalty: Some(1000.0),
            features: Some(Features::Raw),
            ..Options::default()
        };
        let balanced = Options { balance: true, ..plain.clone() };
        let (without, with) = (found(&plain, &samples), found(&balanced, &samples));
        assert!(with >= 0.8 && with > without + 0.15, "{without} {with}");
        // Samples that count nine times do the same.
        let weights = sets.iter().map(|set| if set.is_empty() { 1.0 } else { 9.0 }).collect();
        let weighted = LabelSets { weights, ..LabelSets::new(&rows, &sets, &classes) };
        assert_eq!(found(&plain, &weighted), with);
    }

    #[test]
    fn a_copy_is_never_judged_by_a_multi_label_head_that_saw_its_original() {
        let values: Vec<f32> = (0..24).map(|i| (i % 12 + 1) as f32).collect();
        let rows = DenseRows::new(&values, 1).unwrap();
        let sets: Vec<Vec<u32>> = (0..24).map(|i| vec![(i % 2) as u32]).collect();
        let classes = ["even", "odd"].map(String::from);
        let copy_of = (0..24).map(|i| i % 12).collect();
        let samples = LabelSets { copy_of, ..LabelSets::new(&rows, &sets, &classes) };
        let assigned = samples.folds(3, 0);
        assert!((0..12).all(|i| assigned[i] == assigned[i + 12]), "{assigned:?}");
        let options = Options { folds: 3, features: Some(Features::Raw), ..Options::default() };
        let (report, _) =
            cross_validate_sets(&samples, &options, &Cancel::default(), &mut |_, _| {}).unwrap();
        assert_eq!(report.samples, 12);
    }
}
