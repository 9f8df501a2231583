//! Whether more samples would help: what growing parts of those at hand lead to.

use serde::Serialize;

use super::fit::Options;
use super::lbfgs::Stop;
use super::multi_label::{LabelSets, fit_multi_label, judge_sets};
use super::progress::{Listener, Meter, Phase};
use super::recipe::{self, Recipe};
use super::report::SetTally;
use super::rows::Subset;
use super::{Samples, TrainError, calibration::top, folds};
use crate::base::cancel::Cancel;

/// Above so many samples one fold judges: what it holds out is enough to tell a point of accuracy.
const MANY: usize = 4000;
/// The parts of a fold's training samples, in eighths. Smaller parts lie within larger ones.
const PARTS: [usize; 4] = [1, 2, 4, 8];

/// Accuracy on held-out samples after training on some number of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LearningPoint {
    /// Samples trained on.
    pub samples: usize,
    /// Share right of those held out.
    pub accuracy: f64,
}

/// Whether more samples would help: `recipe` fitted on an eighth, a quarter, a half and all of what
/// is not held out, each judged on the same held-out samples, over `options.folds` folds (over one of
/// them above 4,000 samples).
///
/// # Errors
/// As [`super::fit()`].
pub fn learning_curve(
    samples: &Samples<'_>,
    recipe: &Recipe,
    options: &Options,
    cancel: &Cancel,
    progress: &mut Listener<'_>,
) -> Result<Vec<LearningPoint>, TrainError> {
    samples.check(cancel)?;
    let samples = &samples.weighted(options.balance);
    let classes = samples.classes.len();
    let split = Split {
        folds: folds::of_samples(samples, options.folds.max(2), options.seed),
        eighths: folds::of_samples(samples, 8, options.seed.wrapping_add(1)),
        counts: &|index| samples.is_original(index),
    };
    split.grow(progress, &mut |kept, held_out, iterated| {
        let rows = Subset::new(samples.rows, kept);
        let train = samples.pick(&rows, kept);
        let fitted = recipe::fit(recipe, &train, options, Stop::default(), cancel, iterated)?;
        let rows = Subset::new(samples.rows, held_out);
        let test = samples.pick(&rows, held_out);
        let scores = fitted.scores(&test, cancel)?;
        let judged = scores.chunks_exact(classes).zip(&test.labels);
        Ok(Some(judged.filter(|&(row, &label)| top(row) == label as usize).count()))
    })
}

/// As [`learning_curve`], for classes that do not exclude each other; a sample is right where its
/// whole set is. A part without a sample of some class is left out.
///
/// # Errors
/// As [`fit_multi_label`].
pub fn learning_curve_of_sets(
    samples: &LabelSets<'_>,
    options: &Options,
    cancel: &Cancel,
    progress: &mut Listener<'_>,
) -> Result<Vec<LearningPoint>, TrainError> {
    samples.check_lengths()?;
    let split = Split {
        folds: samples.folds(options.folds.max(2), options.seed),
        eighths: samples.folds(8, options.seed.wrapping_add(1)),
        counts: &|index| samples.is_original(index),
    };
    split.grow(progress, &mut |kept, held_out, iterated| {
        let subset = Subset::new(samples.rows, kept);
        let train = samples.pick(&subset, kept);
        let head = match fit_multi_label(&train, options, cancel, iterated) {
            Err(TrainError::TooFew { .. }) => return Ok(None),
            other => other?,
        };
        let subset = Subset::new(samples.rows, held_out);
        let test = samples.pick(&subset, held_out);
        let mut tally = SetTally::new(samples.classes.len());
        judge_sets(&head, test.rows, &test.sets, &mut tally, cancel)?;
        Ok(Some(tally.right().1))
    })
}

/// How much work a curve is, in samples times fits.
pub(super) fn work(samples: usize, folds: usize) -> f64 {
    let folds = folds.max(2) as f64;
    let kept = samples as f64 * (1.0 - 1.0 / folds);
    let judging = if samples > MANY { 1.0 } else { folds };
    judging * kept * PARTS.iter().sum::<usize>() as f64 / 8.0
}

/// Fits on some samples, telling of each iteration, and counts how many of others come out right;
/// `None` where these cannot be trained on.
type Right<'a> = dyn FnMut(&[usize], &[usize], &mut dyn FnMut(usize, f64)) -> Result<Option<usize>, TrainError>
    + 'a;

/// Which samples are trained on and which judge.
struct Split<'a> {
    /// The fold that holds each sample out.
    folds: Vec<usize>,
    /// The eighth of the training samples that each belongs to.
    eighths: Vec<usize>,
    /// Whether a sample counts: a changed copy of another does not, and never judges.
    counts: &'a dyn Fn(usize) -> bool,
}

impl Split<'_> {
    /// The curve.
    fn grow(
        &self,
        progress: &mut Listener<'_>,
        right: &mut Right<'_>,
    ) -> Result<Vec<LearningPoint>, TrainError> {
        let folds = self.folds.iter().max().map_or(0, |fold| fold + 1);
        let judging = if self.folds.len() > MANY { 1 } else { folds };
        let whole = judging * PARTS.iter().sum::<usize>();
        let meter = Meter::new(Phase::LearningCurve, whole as f64, progress);
        let mut points = Vec::new();
        for part in PARTS {
            let (mut trained_on, mut found, mut judged, mut trained) = (0, 0, 0, 0);
            for fold in 0..judging {
                let (mut kept, mut held_out) = folds::split(&self.folds, fold);
                kept.retain(|&index| self.eighths[index] < part);
                held_out.retain(|&index| (self.counts)(index));
                let mut fit = meter.fit(part as f64);
                let mut iterated = |iteration, _: f64| fit.iterated(iteration, None);
                if !kept.is_empty()
                    && let Some(right) = right(&kept, &held_out, &mut iterated)?
                {
                    found += right;
                    judged += held_out.len();
                    trained_on += kept.iter().filter(|&&index| (self.counts)(index)).count();
                    trained += 1;
                }
                fit.end();
            }
            if judged > 0 {
                let accuracy = found as f64 / judged as f64;
                points.push(LearningPoint { samples: trained_on / trained, accuracy });
            }
        }
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DenseRows, recipe::candidates};

    /// Noise of fixed pattern, at most 0.2.
    fn noise(row: usize, column: usize) -> f32 {
        ((row * 7 + column * 3) % 11) as f32 * 0.02
    }

    /// The curve of `count` samples of three classes that are easy to tell apart.
    fn easy(count: usize) -> Vec<LearningPoint> {
        let values: Vec<f32> = (0..count)
            .flat_map(|i| (0..6).map(move |j| noise(i, j) + f32::from(j == i % 3)))
            .collect();
        let rows = DenseRows::new(&values, 6).unwrap();
        let labels: Vec<u32> = (0..count).map(|i| (i % 3) as u32).collect();
        let samples = Samples::new(&rows, labels, ["a", "b", "c"].map(String::from).to_vec());
        let (options, cancel) = (Options::default(), Cancel::default());
        let recipe = candidates(&options)[0];
        learning_curve(&samples, &recipe, &options, &cancel, &mut |_| {}).unwrap()
    }

    #[test]
    fn a_curve_grows_in_samples_for_few_and_for_many_of_them() {
        for count in [60, 2 * MANY] {
            let curve = easy(count);
            assert_eq!(curve.len(), PARTS.len());
            assert!(curve.windows(2).all(|pair| pair[0].samples < pair[1].samples), "{curve:?}");
            assert_eq!(curve.last().unwrap().samples, count * 4 / 5);
            assert_eq!(curve.last().unwrap().accuracy, 1.0);
        }
    }

    #[test]
    fn the_curve_is_that_of_balanced_classes_where_the_head_is() {
        // Two classes on a line which overlap, 200 samples of one and 20 of the other.
        let at = |i: usize| ((i * 37 + 11) % 101) as f32 / 101.0;
        let at = |i: usize| if i < 200 { at(i) } else { 0.5 + 0.7 * at(i) };
        let values: Vec<f32> = (0..220).flat_map(|i| [at(i), 1.0]).collect();
        let rows = DenseRows::new(&values, 2).unwrap();
        let labels = (0..220).map(|i| u32::from(i >= 200)).collect();
        let mut samples =
            Samples::new(&rows, labels, ["common", "rare"].map(String::from).to_vec());
        let curve = |samples: &Samples<'_>, balance| {
            let kind = Some(crate::heads::Kind::Lda);
            let options = Options { kind, balance, ..Options::default() };
            let recipe = candidates(&options)[0];
            learning_curve(samples, &recipe, &options, &Cancel::default(), &mut |_| {}).unwrap()
        };
        let (plain, balanced) = (curve(&samples, false), curve(&samples, true));
        samples.weights = crate::train::balanced_weights(&samples);
        assert_eq!(balanced, curve(&samples, false));
        assert_ne!(balanced, plain);
    }

    #[test]
    fn a_problem_that_needs_many_samples_gains_by_each_part() {
        // Each of 64 columns means one of two classes: who has seen few samples knows few columns.
        let width = 64;
        let values: Vec<f32> =
            (0..256).flat_map(|i| (0..width).map(move |j| f32::from(j == i / 4))).collect();
        let rows = DenseRows::new(&values, width).unwrap();
        let labels: Vec<u32> = (0..256).map(|i| (i / 4 % 2) as u32).collect();
        let samples = Samples::new(&rows, labels, ["even", "odd"].map(String::from).to_vec());
        let (options, cancel) = (Options::default(), Cancel::default());
        let recipe = candidates(&options)[0];
        let curve = learning_curve(&samples, &recipe, &options, &cancel, &mut |_| {}).unwrap();
        assert!(curve.windows(2).all(|pair| pair[0].accuracy < pair[1].accuracy), "{curve:?}");
        assert!(curve[0].accuracy < 0.8 && curve[3].accuracy > 0.95, "{curve:?}");
    }

    #[test]
    fn a_curve_of_label_sets_leaves_out_the_parts_that_lack_a_class() {
        // Bit 0 is common; bit 1 is of one sample, so that whatever its fold trains on lacks the class.
        let sets: Vec<Vec<u32>> = (0..80)
            .map(|i| {
                let mut set = if i % 2 == 0 { vec![0] } else { Vec::new() };
                set.extend((i == 3).then_some(1));
                set
            })
            .collect();
        let values: Vec<f32> = (0..80_usize)
            .flat_map(|i| [f32::from(i % 2 == 0), f32::from(i == 3), 0.5].map(|v| v + noise(i, 0)))
            .collect();
        let rows = DenseRows::new(&values, 3).unwrap();
        let classes = ["common", "rare"].map(String::from);
        let options = Options { inverse_penalty: Some(1000.0), ..Options::default() };
        let samples = LabelSets::new(&rows, &sets, &classes);
        let curve =
            learning_curve_of_sets(&samples, &options, &Cancel::default(), &mut |_| {}).unwrap();
        let last = curve.last().unwrap();
        assert_eq!(last.samples, 64);
        assert!(last.accuracy > 0.9, "{curve:?}");
    }
}
