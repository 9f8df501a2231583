//! Heads whose classes do not exclude each other.

use super::fit::Options;
use super::lbfgs::Stop;
use super::logistic::{self, LogisticOptions, Targets};
use super::recipe::{self, Features};
use super::report::{SetTally, match_classes};
use super::rows::Subset;
use super::samples::check_class_count;
use super::{Report, Rows, TrainError, blocks, folds};
use crate::base::cancel::Cancel;
use crate::heads::{Classifier, Head, Kind, check_label};

/// Inverse penalty where none is chosen.
const INVERSE_PENALTY: f64 = 30.0;

/// Fits one logistic regression a class, on unit-length embeddings unless the options want others.
/// `sets[i]` are the classes of sample `i`, none of them twice; an empty set is a sample of no class.
///
/// # Errors
/// [`TrainError::Invalid`] for labels out of range or lengths that differ, a class without samples
/// as [`TrainError::TooFew`]; the rest as [`logistic::fit`].
pub fn fit_multi_label(
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    classes: &[String],
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Head, TrainError> {
    check_sets(rows, sets, classes)?;
    let mut counts = vec![0_usize; classes.len()];
    for &label in sets.iter().flatten() {
        *counts.get_mut(label as usize).ok_or_else(|| {
            TrainError::Invalid(format!("label {label} of {} classes", classes.len()))
        })? += 1;
    }
    for (class, &samples) in classes.iter().zip(&counts) {
        check_label(class)?;
        if samples == 0 {
            let (class, purpose) = (class.clone(), "to learn it");
            return Err(TrainError::TooFew { class, samples, needed: 1, purpose });
        }
    }
    blocks::check_finite(rows, cancel)?;
    let features = options.features.unwrap_or(Features::UnitLength);
    let transform = recipe::transform(features, rows, cancel)?;
    let logistic = LogisticOptions {
        inverse_penalty: options.inverse_penalty.unwrap_or(INVERSE_PENALTY),
        label_smoothing: f64::from(options.label_smoothing),
        stop: Stop::default(),
    };
    let targets = Targets::Sets(sets);
    let count = classes.len();
    let fitted =
        logistic::fit(rows, &targets, &[], count, &transform, &logistic, cancel, progress)?;
    Ok(Head::new(Kind::MultiLabel, classes.to_vec(), transform, Classifier::Linear(fitted.linear))?)
}

/// Whether there are samples, each with a set, of a number of classes that can be learnt.
///
/// # Errors
/// [`TrainError::Empty`] and [`TrainError::Invalid`].
pub(super) fn check_sets(
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    classes: &[String],
) -> Result<(), TrainError> {
    if rows.is_empty() || sets.is_empty() {
        return Err(TrainError::Empty);
    }
    if rows.len() != sets.len() {
        let (labels, embeddings) = (sets.len(), rows.len());
        return Err(TrainError::Invalid(format!(
            "{labels} label sets for {embeddings} embeddings"
        )));
    }
    check_class_count(classes.len())
}

/// Trains once a fold and judges what was held out; a fold whose training part lacks a class is left
/// out. Returns the report and the share of samples in each fold whose whole set is right.
///
/// # Errors
/// As [`fit_multi_label`].
pub fn cross_validate_sets(
    rows: &dyn Rows,
    sets: &[Vec<u32>],
    classes: &[String],
    options: &Options,
    cancel: &Cancel,
) -> Result<(Report, Vec<f64>), TrainError> {
    let assigned = folds::stratified(&vec![0; sets.len()], 1, options.folds, options.seed);
    let mut tally = SetTally::new(classes.len());
    let mut accuracies = Vec::new();
    for fold in 0..options.folds {
        let (kept, held_out) = folds::split(&assigned, fold);
        let train: Vec<Vec<u32>> = kept.iter().map(|&i| sets[i].clone()).collect();
        let subset = Subset::new(rows, &kept);
        let head = match fit_multi_label(&subset, &train, classes, options, cancel, &mut |_, _| {})
        {
            Err(TrainError::TooFew { .. } | TrainError::Empty) => continue,
            other => other?,
        };
        let test: Vec<Vec<u32>> = held_out.iter().map(|&i| sets[i].clone()).collect();
        let (before, right_before) = tally.right();
        judge_sets(&head, &Subset::new(rows, &held_out), &test, &mut tally, cancel)?;
        let (judged, right) = tally.right();
        accuracies.push((right - right_before) as f64 / (judged - before).max(1) as f64);
    }
    Ok((tally.report(classes), accuracies))
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
        tally.add(set, &head.predict(&row)?.probabilities);
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
        let head = fit_multi_label(
            &rows,
            &sets,
            &classes,
            &Options { inverse_penalty: Some(1000.0), ..Options::default() },
            &Cancel::default(),
            &mut |_, _| {},
        )
        .unwrap();
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
            tally.add(set, found);
        }
        let report = tally.report(&classes);
        assert_eq!((report.samples, report.accuracy), (4, 0.5));
        let [striped, winged] = report.per_class.as_slice() else { panic!("two classes") };
        assert!((striped.precision - 2.0 / 3.0).abs() < 1e-9 && striped.recall == 1.0);
        assert_eq!((winged.precision, winged.recall), (1.0, 0.5));
        assert!(report.log_loss.is_finite() && report.confusion.is_empty());
    }
}
