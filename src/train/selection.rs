//! The choice of a recipe: each is fitted on all folds but one and judged on the one left out.

use rayon::prelude::*;
use serde::Serialize;

use super::calibration::{fit_temperature, log_loss, top};
use super::fit::Options;
use super::lbfgs::Stop;
use super::progress::Meter;
use super::recipe::{self, Recipe};
use super::rows::Subset;
use super::{Report, Samples, TrainError, folds};
use crate::base::cancel::Cancel;

/// Samples that the choice of a recipe looks at; of more, a stratified part is taken.
pub(super) const SELECTION_SAMPLES: usize = 4000;
/// Scores that are kept of every recipe that is tried; where there are more, those of the chosen one
/// are made again.
const KEPT_SCORES: usize = 1_000_000;
/// In cross-validation a rough optimum will do.
pub(super) const ROUGH: Stop = Stop { gradient: 1e-6, decrease: 1e-5, iterations: 300 };

/// One recipe's cross-validated scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub recipe: Recipe,
    /// Share right on held-out folds.
    pub accuracy: f64,
    /// Cross-entropy on held-out folds, with the temperature that was fitted on them; but for classes
    /// whose samples all lie in one fold.
    pub log_loss: f64,
}

/// What cross-validation found out.
pub(super) struct Selection {
    pub(super) recipe: Recipe,
    pub(super) trials: Vec<Trial>,
    pub(super) reason: String,
    pub(super) report: Report,
    pub(super) temperature: f32,
    /// Indices of the samples looked at, and the fold of each.
    pub(super) chosen: Vec<usize>,
    pub(super) assigned: Vec<usize>,
    /// Whether each class has samples in several folds. The others are unknown to the heads that judge
    /// them: wrong, but of no say in how sure to be.
    pub(super) known: Vec<bool>,
    /// Share right in each fold.
    pub(super) folds: Vec<f64>,
    /// Held-out scores of the chosen recipe, before the temperature; of originals alone. Minus infinity
    /// for a class that the fold's head does not have.
    pub(super) scores: Vec<f32>,
}

/// Judges each of `recipes` on samples that it has not seen, and chooses one.
pub(super) fn select(
    all: &Samples<'_>,
    recipes: &[Recipe],
    options: &Options,
    cancel: &Cancel,
    meter: &Meter<'_>,
) -> Result<Selection, TrainError> {
    let chosen = part_of(all, options.seed);
    let subset = Subset::new(all.rows, &chosen);
    let samples = all.pick(&subset, &chosen);
    let classes = samples.classes.len();
    let originals: Vec<usize> = (0..samples.len()).filter(|&i| samples.is_original(i)).collect();
    let labels: Vec<u32> = originals.iter().map(|&i| samples.labels[i]).collect();
    // No more folds than samples of the largest class, or a fold could be empty.
    let largest = (0..classes as u32).map(|c| labels.iter().filter(|l| **l == c).count()).max();
    let folds = options.folds.min(largest.unwrap_or(0)).max(2);
    let assigned = folds::of_samples(&samples, folds, options.seed);
    let known = folds::known_classes(&samples.labels, &assigned, classes);
    let telling: Vec<usize> = (0..labels.len()).filter(|&at| known[labels[at] as usize]).collect();
    let telling_labels: Vec<u32> = telling.iter().map(|&at| labels[at]).collect();
    // The temperature of scores, and the cross-entropy with it.
    let calibrate = |scores: &[f32]| -> Result<(f32, f64), TrainError> {
        let rows = telling.iter().map(|&at| &scores[at * classes..(at + 1) * classes]);
        let scores: Vec<f32> = rows.flatten().copied().collect();
        let temperature = fit_temperature(&scores, &telling_labels, classes, cancel)?;
        let loss = log_loss(&scores, &telling_labels, classes, temperature, cancel)?;
        Ok((temperature, loss))
    };
    let scores_by = |recipe: &Recipe| -> Result<Vec<f32>, TrainError> {
        let all = out_of_fold(&samples, &assigned, folds, recipe, options, cancel, meter)?;
        let rows = originals.iter().map(|&i| &all[i * classes..(i + 1) * classes]);
        Ok(rows.flatten().copied().collect())
    };
    let mut trials = Vec::with_capacity(recipes.len());
    let mut temperatures = Vec::with_capacity(recipes.len());
    let mut held_out: Vec<Option<Vec<f32>>> = Vec::with_capacity(recipes.len());
    for recipe in recipes {
        let scores = scores_by(recipe)?;
        let (temperature, log_loss) = calibrate(&scores)?;
        temperatures.push(temperature);
        let right = hits(&scores, &labels, classes).filter(|hit| *hit).count();
        trials.push(Trial {
            recipe: *recipe,
            accuracy: right as f64 / labels.len() as f64,
            log_loss,
        });
        held_out.push(Some(scores).filter(|scores| scores.len() <= KEPT_SCORES));
        meter.reached(right as f64 / labels.len() as f64);
    }
    let best = best_of(&trials, labels.len());
    let scores = match held_out.swap_remove(best) {
        Some(scores) => scores,
        None => scores_by(&recipes[best])?,
    };
    let (temperature, Trial { recipe, log_loss, .. }) = (temperatures[best], trials[best]);
    let report = Report::new(&samples.classes, &labels, &scores, temperature, cancel)?;
    let report = Report { log_loss, ..report };
    let reason = reason(&trials, best, folds);
    let mut right = vec![(0_u32, 0_u32); folds];
    for (&index, hit) in originals.iter().zip(hits(&scores, &labels, classes)) {
        let fold = &mut right[assigned[index]];
        *fold = (fold.0 + u32::from(hit), fold.1 + 1);
    }
    let folds =
        right.into_iter().map(|(hits, of)| f64::from(hits) / f64::from(of.max(1))).collect();
    Ok(Selection {
        recipe,
        trials,
        reason,
        report,
        temperature,
        chosen,
        assigned,
        known,
        folds,
        scores,
    })
}

/// Whether the best score of each row is that of its label.
fn hits<'a>(
    scores: &'a [f32],
    labels: &'a [u32],
    classes: usize,
) -> impl Iterator<Item = bool> + 'a {
    scores.chunks_exact(classes).zip(labels).map(|(row, label)| top(row) == *label as usize)
}

/// Of the recipes whose accuracy lies within one standard error of the best (Breiman et al. 1984,
/// "Classification and regression trees", section 3.4.3) the one with the least cross-entropy, which
/// a few samples cannot turn; of equals the one that comes first, which is the simpler. Equal are those
/// that differ by less than one nat over all samples, "not worth more than a bare mention" (Kass and
/// Raftery 1995, "Bayes factors", section 3.2): where all is right, as much as nothing tells them apart.
fn best_of(trials: &[Trial], samples: usize) -> usize {
    let most = trials.iter().map(|trial| trial.accuracy).fold(0.0, f64::max);
    let error = (most * (1.0 - most) / samples.max(1) as f64).sqrt();
    let eligible = |trial: &&Trial| trial.accuracy >= most - error;
    let losses = trials.iter().filter(eligible).map(|trial| trial.log_loss);
    let least = losses.fold(f64::INFINITY, f64::min) + 1.0 / samples.max(1) as f64;
    trials.iter().position(|trial| eligible(&trial) && trial.log_loss < least).unwrap_or(0)
}

fn reason(trials: &[Trial], best: usize, folds: usize) -> String {
    let chosen = &trials[best];
    let score = format!(
        "{}: {:.1} % right and cross-entropy {:.3} over {folds} folds",
        chosen.recipe,
        100.0 * chosen.accuracy,
        chosen.log_loss
    );
    let runner_up = trials
        .iter()
        .filter(|t| t.recipe.kind != chosen.recipe.kind)
        .max_by(|a, b| a.accuracy.total_cmp(&b.accuracy));
    let mut reason = match runner_up {
        Some(other) => format!(
            "{score}; the best of another kind was {} with {:.1} % and {:.3}",
            other.recipe,
            100.0 * other.accuracy,
            other.log_loss
        ),
        None => score,
    };
    if trials.iter().any(|trial| trial.accuracy > chosen.accuracy) {
        reason.push_str(
            "; of those whose accuracy lies within one standard error of the best, which a few \
             samples can turn, the least cross-entropy decides",
        );
    }
    reason
}

/// All samples, or a stratified part if there are very many.
fn part_of(samples: &Samples<'_>, seed: u64) -> Vec<usize> {
    let parts = samples.len().div_ceil(SELECTION_SAMPLES);
    if parts <= 1 {
        return (0..samples.len()).collect();
    }
    folds::split(&folds::of_samples(samples, parts, seed), 0).1
}

/// Scores of every sample by a head that was fitted without its fold; minus infinity for a class that
/// this head does not have, whatever its kind makes of a class without samples.
fn out_of_fold(
    samples: &Samples<'_>,
    assigned: &[usize],
    folds: usize,
    recipe: &Recipe,
    options: &Options,
    cancel: &Cancel,
    meter: &Meter<'_>,
) -> Result<Vec<f32>, TrainError> {
    let classes = samples.classes.len();
    let parts: Result<Vec<_>, TrainError> = (0..folds)
        .into_par_iter()
        .map(|fold| {
            let (kept, held_out) = folds::split_samples(samples, assigned, fold);
            let rows = Subset::new(samples.rows, &kept);
            let train = samples.pick(&rows, &kept);
            let mut part = meter.fit(train.len() as f64);
            let fitted =
                recipe::fit(recipe, &train, options, ROUGH, cancel, &mut |iteration, _| {
                    part.iterated(iteration, None);
                })?;
            let rows = Subset::new(samples.rows, &held_out);
            let mut scores = fitted.scores(&samples.pick(&rows, &held_out), cancel)?;
            for (absent, _) in train.counts().iter().enumerate().filter(|(_, count)| **count == 0) {
                let column = scores.iter_mut().skip(absent).step_by(classes);
                column.for_each(|score| *score = f32::NEG_INFINITY);
            }
            part.end();
            Ok((held_out, scores))
        })
        .collect();
    let mut all = vec![0.0_f32; samples.len() * classes];
    for (held_out, scores) in parts? {
        for (&index, row) in held_out.iter().zip(scores.chunks_exact(classes)) {
            all[index * classes..(index + 1) * classes].copy_from_slice(row);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::Kind;
    use crate::train::recipe::{Features, Loss};

    fn trial(kind: Kind, accuracy: f64, log_loss: f64) -> Trial {
        let recipe = Recipe {
            kind,
            features: Features::UnitLength,
            loss: Loss::CrossEntropy,
            inverse_penalty: None,
        };
        Trial { recipe, accuracy, log_loss }
    }

    #[test]
    fn a_recipe_that_is_clearly_less_often_right_is_not_chosen_for_its_cross_entropy() {
        let trials = [
            trial(Kind::Prototype, 0.55, 1.2),
            trial(Kind::Softmax, 0.634, 1.15),
            trial(Kind::Knn, 0.512, 1.05),
        ];
        assert_eq!(trials[best_of(&trials, 82)].recipe.kind, Kind::Softmax);
    }

    #[test]
    fn of_recipes_that_are_about_as_often_right_the_surer_one_is_chosen_and_of_equals_the_simpler()
    {
        let trials = [
            trial(Kind::Prototype, 0.95, 0.3),
            trial(Kind::Lda, 0.94, 0.2),
            trial(Kind::Softmax, 0.95, 0.2),
        ];
        let best = best_of(&trials, 400);
        assert_eq!(trials[best].recipe.kind, Kind::Lda);
        let said = reason(&trials, best, 5);
        assert!(said.contains("95.0 %") && said.contains("one standard error"), "{said}");
        let alone = reason(&trials[2..], 0, 5);
        assert!(!alone.contains("standard error"), "{alone}");
    }

    #[test]
    fn a_cross_entropy_that_is_less_by_no_more_than_one_sample_does_not_outweigh_a_simpler_recipe()
    {
        let trials = [trial(Kind::Prototype, 1.0, 0.019), trial(Kind::Softmax, 1.0, 0.010)];
        assert_eq!(best_of(&trials, 100), 0);
        assert_eq!(best_of(&trials, 1000), 1);
    }
}
