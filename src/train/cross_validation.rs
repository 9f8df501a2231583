//! Judging the whole way of training, not one head: everything, the choice of the recipe included,
//! is done anew for every fold without a look at what is held out.

use std::collections::BTreeSet;

use super::fit::{Options, fit};
use super::progress::{Listener, Progress};
use super::report::Tally;
use super::rows::Subset;
use super::{Report, Samples, TrainError, calibration::top, folds};
use crate::base::cancel::Cancel;
use crate::heads::Kind;

/// What came out over the folds.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossValidation {
    /// Accuracy of every fold.
    pub accuracies: Vec<f64>,
    /// Kind of head that was chosen in every fold.
    pub kinds: Vec<Kind>,
    /// Scores over all samples, each judged by the head that had not seen it.
    pub report: Report,
    /// Classes all of whose samples some fold holds out: its head does not have them, and is wrong
    /// about each of these samples.
    pub absent: Vec<String>,
}

impl CrossValidation {
    /// Mean of the folds' accuracies.
    pub fn accuracy(&self) -> f64 {
        self.accuracies.iter().sum::<f64>() / self.accuracies.len().max(1) as f64
    }
}

/// Trains once a fold; `assigned` says which fold (from 0, none empty) each sample is held out in.
///
/// # Errors
/// As [`fit`]; [`TrainError::Invalid`] for folds that do not fit the samples.
pub fn cross_validate(
    samples: &Samples<'_>,
    assigned: &[usize],
    options: &Options,
    cancel: &Cancel,
    progress: &mut Listener<'_>,
) -> Result<CrossValidation, TrainError> {
    samples.check(cancel)?;
    let count = assigned.iter().max().map_or(0, |fold| fold + 1);
    if assigned.len() != samples.len() || count < 2 {
        return Err(TrainError::Invalid("at least two folds over all samples are needed".into()));
    }
    // Whether something is unknown plays no part in the accuracy.
    let options = Options { novelty: None, ..options.clone() };
    let mut tally = Tally::new(samples.classes.len());
    let (mut accuracies, mut kinds) = (Vec::new(), Vec::new());
    let mut absent = BTreeSet::new();
    for fold in 0..count {
        let (kept, held_out) = folds::split(assigned, fold);
        if held_out.is_empty() {
            return Err(TrainError::Invalid(format!("fold {fold} holds no sample out")));
        }
        let rows = Subset::new(samples.rows, &kept);
        let train = samples.pick(&rows, &kept);
        let (train, present) = only_present(train);
        absent.extend((0..samples.classes.len()).filter(|class| !present.contains(class)));
        let mut within = |news: Progress| {
            let done = (fold as f32 + news.done) / count as f32;
            progress(Progress { done, ..news });
        };
        let trained = fit(&train, &options, cancel, &mut within)?;
        let mut row = vec![0.0_f32; samples.rows.width()];
        let mut right = 0;
        for &index in &held_out {
            cancel.check()?;
            samples.rows.read(index, &mut row);
            let mut logits = vec![f32::NEG_INFINITY; samples.classes.len()];
            for (&class, logit) in present.iter().zip(trained.head.logits(&row)?) {
                logits[class] = logit;
            }
            let truth = samples.labels[index] as usize;
            right += usize::from(top(&logits) == truth);
            let scores: Vec<f32> = logits.iter().map(|v| v * trained.head.temperature()).collect();
            tally.add(truth, &scores, &logits);
        }
        accuracies.push(right as f64 / held_out.len() as f64);
        kinds.push(trained.head.kind());
    }
    let mut report = tally.report(&samples.classes);
    if !report.log_loss.is_finite() {
        report.log_loss = f64::from(f32::MAX);
    }
    let absent = absent.into_iter().map(|class| samples.classes[class].clone()).collect();
    Ok(CrossValidation { accuracies, kinds, report, absent })
}

/// The same samples without the classes that none of them is of, and which those are that stay, in
/// ascending order.
fn only_present(mut samples: Samples<'_>) -> (Samples<'_>, Vec<usize>) {
    let counts = samples.counts();
    let present: Vec<usize> = (0..counts.len()).filter(|&class| counts[class] > 0).collect();
    if present.len() < counts.len() {
        let mut places = vec![0; counts.len()];
        present.iter().zip(0..).for_each(|(&class, place)| places[class] = place);
        samples.labels.iter_mut().for_each(|label| *label = places[*label as usize]);
        samples.classes = present.iter().map(|&class| samples.classes[class].clone()).collect();
    }
    (samples, present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DenseRows, learning_curve, recipe::candidates, stratified};

    #[test]
    fn every_sample_is_judged_once_and_an_easy_problem_is_solved() {
        let values: Vec<f32> = (0..60)
            .flat_map(|i| {
                (0..6).map(move |j| ((i * 7 + j * 3) % 11) as f32 * 0.02 + f32::from(j == i % 3))
            })
            .collect();
        let rows = DenseRows::new(&values, 6).unwrap();
        let labels: Vec<u32> = (0..60).map(|i| (i % 3) as u32).collect();
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let samples = Samples::new(&rows, labels.clone(), classes);
        let assigned = stratified(&labels, 3, 4, 1);
        let (options, cancel) = (Options::default(), Cancel::default());
        let result = cross_validate(&samples, &assigned, &options, &cancel, &mut |_| {}).unwrap();
        assert_eq!(result.accuracies, vec![1.0; 4]);
        assert_eq!(result.report.samples, 60);
        assert!(result.absent.is_empty());
    }

    #[test]
    fn a_class_of_one_sample_is_wrong_once_and_the_others_are_judged_all_the_same() {
        let row = |i: usize, j: usize| f32::from(j == i % 3) + ((i * 7 + j * 3) % 11) as f32 * 0.02;
        let values: Vec<f32> = (0..41)
            .flat_map(|i| (0..6).map(move |j| if i < 40 { row(i % 2, j) } else { row(2, j) }))
            .collect();
        let rows = DenseRows::new(&values, 6).unwrap();
        // The rare class comes first, so that the places of the others shift where it is absent.
        let labels: Vec<u32> =
            (0..41).map(|i| if i < 40 { 1 + (i % 2) as u32 } else { 0 }).collect();
        let classes = ["rare", "a", "b"].map(String::from).to_vec();
        let samples = Samples::new(&rows, labels.clone(), classes);
        let assigned = stratified(&labels, 3, 5, 1);
        let (options, cancel) = (Options::default(), Cancel::default());
        let judged = cross_validate(&samples, &assigned, &options, &cancel, &mut |_| {}).unwrap();
        assert_eq!(judged.absent, ["rare"]);
        assert_eq!(judged.report.samples, 41);
        assert!((judged.report.accuracy - 40.0 / 41.0).abs() < 1e-9, "{:?}", judged.report);
        assert_eq!(judged.report.confusion[0][0], 0);
        assert!(judged.report.log_loss.is_finite() && judged.report.ece_after.is_finite());
        let recipe = candidates(&options)[0];
        learning_curve(&samples, &recipe, &options, &cancel, &mut |_| {}).unwrap();
    }
}
