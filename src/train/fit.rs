//! From samples to a head: choose a recipe by cross-validation, calibrate on what was held out, fit
//! on everything.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{fit_temperature, log_loss, top};
use super::lbfgs::Stop;
use super::recipe::{self, Features, Recipe, candidates};
use super::rows::Subset;
use super::{Report, Samples, TrainError, folds, novelty, samples::balanced_weights};
use crate::base::cancel::Cancel;
use crate::heads::{Head, Kind, Novelty, NoveltyScore, log_sum_exp};

/// Samples that the choice of a recipe looks at; of more, a stratified part is taken.
const SELECTION_SAMPLES: usize = 4000;
/// Scores that are kept of every recipe that is tried; where there are more, those of the chosen one
/// are made again.
const KEPT_SCORES: usize = 1_000_000;
/// In cross-validation a rough optimum will do.
const ROUGH: Stop = Stop { gradient: 1e-6, decrease: 1e-5, iterations: 300 };

/// How novelty is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoveltyMethod {
    /// Distance to the nearest class.
    Mahalanobis,
    /// From the logits alone: needs no further memory.
    Energy,
}

/// What is wanted of a training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    /// Kind of head; `None` lets cross-validation choose.
    pub kind: Option<Kind>,
    /// How embeddings are prepared: raw, of length 1 or standardised; `None` for what suits the
    /// kind.
    pub features: Option<Features>,
    /// Of everything random.
    pub seed: u64,
    /// Folds of the cross-validation inside the training samples, at least 2.
    pub folds: usize,
    /// Whether every class counts alike, however many samples it has.
    pub balance: bool,
    /// Share of each target that is spread over all classes, 0 to below 1.
    pub label_smoothing: f32,
    /// Inverse penalty of softmax regression; `None` lets cross-validation choose.
    pub inverse_penalty: Option<f64>,
    /// Voting neighbours of k-NN.
    pub neighbours: usize,
    /// Hidden units of a perceptron.
    pub hidden: usize,
    /// Novelty model; `None` for none.
    pub novelty: Option<NoveltyMethod>,
    /// Share of samples of known classes that may be called unknown, 0 to 1.
    pub false_alarm_rate: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: None,
            features: None,
            seed: 0,
            folds: 5,
            balance: false,
            label_smoothing: 0.0,
            inverse_penalty: None,
            neighbours: 10,
            hidden: 128,
            novelty: Some(NoveltyMethod::Mahalanobis),
            false_alarm_rate: 0.05,
        }
    }
}

/// What a training is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Cross-validating recipes.
    Selecting,
    /// Fitting the chosen recipe on all samples.
    Fitting,
    /// Fitting the novelty model.
    Novelty,
}

/// News of a training under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Share of the whole that is done, 0 to 1.
    pub done: f32,
    /// Training objective, while fitting.
    pub loss: Option<f64>,
    /// Accuracy on held-out folds of the best recipe so far.
    pub held_out_accuracy: Option<f64>,
}

/// One recipe's cross-validated scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub recipe: Recipe,
    /// Share right on held-out folds.
    pub accuracy: f64,
    /// Cross-entropy on held-out folds, with the temperature that is best for them.
    pub log_loss: f64,
}

/// A head with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The head, calibrated, with its novelty model.
    pub head: Head,
    /// The chosen recipe.
    pub recipe: Recipe,
    /// All that were tried.
    pub trials: Vec<Trial>,
    /// Why this one, in a sentence for a person.
    pub reason: String,
    /// Scores over the folds of the cross-validation.
    pub report: Report,
    /// Share right in each of these folds.
    pub folds: Vec<f64>,
}

/// Trains a head. The same samples, options and seed give the same bytes, on any number of threads.
///
/// # Errors
/// [`TrainError`]: samples that cannot be learnt, options out of range, divergence, cancellation
/// (noticed within 100 ms).
pub fn fit(
    samples: &Samples<'_>,
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, TrainError> {
    samples.check(cancel)?;
    check_options(options)?;
    let samples = &Samples {
        rows: samples.rows,
        labels: samples.labels.clone(),
        weights: if options.balance { balanced_weights(samples) } else { samples.weights.clone() },
        classes: samples.classes.clone(),
        copy_of: samples.copy_of.clone(),
    };
    let mut recipes = candidates(options);
    if options.kind.is_none() {
        recipes.retain(|recipe| recipe.is_affordable(samples));
    }
    let selection = select(samples, &recipes, options, cancel, progress)?;
    let recipe = selection.recipe;
    let accuracy = Some(selection.report.accuracy);
    let fitted =
        recipe::fit(&recipe, samples, options, Stop::default(), cancel, &mut |_, loss| {
            let phase = Phase::Fitting;
            progress(Progress { phase, done: 0.8, loss: Some(loss), held_out_accuracy: accuracy });
        })?;
    let classes = samples.classes.clone();
    let mut head = Head::new(recipe.kind, classes, fitted.transform, fitted.classifier)?
        .with_temperature(selection.temperature)?;
    let phase = Phase::Novelty;
    progress(Progress { phase, done: 0.9, loss: None, held_out_accuracy: accuracy });
    if let Some(method) = options.novelty {
        head = head.with_novelty(fit_novelty(samples, &selection, method, options, cancel)?)?;
    }
    progress(Progress { phase, done: 1.0, loss: None, held_out_accuracy: accuracy });
    Ok(Trained {
        head,
        recipe,
        trials: selection.trials,
        reason: selection.reason,
        report: selection.report,
        folds: selection.folds,
    })
}

fn check_options(options: &Options) -> Result<(), TrainError> {
    let wrong = |what: &str| Err(TrainError::Invalid(what.to_owned()));
    if options.folds < 2 {
        return wrong("folds must be at least 2");
    }
    if !(0.0..1.0).contains(&options.label_smoothing) {
        return wrong("label smoothing must be from 0 to below 1");
    }
    if !(0.0..=1.0).contains(&options.false_alarm_rate) {
        return wrong("the false-alarm rate must be from 0 to 1");
    }
    if options.features.is_some_and(Features::is_kernel) {
        return wrong("features are raw, of length 1 or standardised");
    }
    if candidates(options).is_empty() {
        return wrong("prototypes work on embeddings of length 1: leave the features unset");
    }
    if options.neighbours == 0 || !(1..=4096).contains(&options.hidden) {
        return wrong("neighbours must be at least 1, hidden units from 1 to 4096");
    }
    Ok(())
}

/// What cross-validation found out.
pub(super) struct Selection {
    pub(super) recipe: Recipe,
    trials: Vec<Trial>,
    reason: String,
    pub(super) report: Report,
    pub(super) temperature: f32,
    /// Indices of the samples looked at, and the fold of each.
    pub(super) chosen: Vec<usize>,
    assigned: Vec<usize>,
    /// Share right in each fold.
    folds: Vec<f64>,
    /// Held-out scores of the chosen recipe, before the temperature; of originals alone.
    pub(super) scores: Vec<f32>,
}

pub(super) fn select(
    all: &Samples<'_>,
    recipes: &[Recipe],
    options: &Options,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
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
    let scores_by = |recipe: &Recipe| -> Result<Vec<f32>, TrainError> {
        let all = out_of_fold(&samples, &assigned, folds, recipe, options, cancel)?;
        let rows = originals.iter().map(|&i| &all[i * classes..(i + 1) * classes]);
        Ok(rows.flatten().copied().collect())
    };
    let mut trials = Vec::with_capacity(recipes.len());
    let mut held_out: Vec<Option<Vec<f32>>> = Vec::with_capacity(recipes.len());
    for (index, recipe) in recipes.iter().enumerate() {
        let scores = scores_by(recipe)?;
        let temperature = fit_temperature(&scores, &labels, classes);
        let right = hits(&scores, &labels, classes).filter(|hit| *hit).count();
        trials.push(Trial {
            recipe: *recipe,
            accuracy: right as f64 / labels.len() as f64,
            log_loss: log_loss(&scores, &labels, classes, temperature),
        });
        held_out.push(Some(scores).filter(|scores| scores.len() <= KEPT_SCORES));
        progress(Progress {
            phase: Phase::Selecting,
            done: 0.8 * (index + 1) as f32 / recipes.len() as f32,
            loss: None,
            held_out_accuracy: trials.iter().map(|t| t.accuracy).reduce(f64::max),
        });
    }
    let best = best_of(&trials, labels.len());
    let scores = match held_out.swap_remove(best) {
        Some(scores) => scores,
        None => scores_by(&recipes[best])?,
    };
    let temperature = fit_temperature(&scores, &labels, classes);
    let report = Report::new(&samples.classes, &labels, &scores, temperature);
    let reason = reason(&trials, best, folds);
    let recipe = trials[best].recipe;
    let mut right = vec![(0_u32, 0_u32); folds];
    for (&index, hit) in originals.iter().zip(hits(&scores, &labels, classes)) {
        let fold = &mut right[assigned[index]];
        *fold = (fold.0 + u32::from(hit), fold.1 + 1);
    }
    let folds =
        right.into_iter().map(|(hits, of)| f64::from(hits) / f64::from(of.max(1))).collect();
    Ok(Selection { recipe, trials, reason, report, temperature, chosen, assigned, folds, scores })
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
/// a few samples cannot turn; of equals the one that comes first, which is the simpler.
fn best_of(trials: &[Trial], samples: usize) -> usize {
    let most = trials.iter().map(|trial| trial.accuracy).fold(0.0, f64::max);
    let error = (most * (1.0 - most) / samples.max(1) as f64).sqrt();
    let mut best = None::<usize>;
    for (index, trial) in trials.iter().enumerate() {
        let eligible = trial.accuracy >= most - error;
        if eligible && best.is_none_or(|best| trial.log_loss < trials[best].log_loss) {
            best = Some(index);
        }
    }
    best.unwrap_or(0)
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

/// Scores of every sample by a head that was fitted without its fold.
fn out_of_fold(
    samples: &Samples<'_>,
    assigned: &[usize],
    folds: usize,
    recipe: &Recipe,
    options: &Options,
    cancel: &Cancel,
) -> Result<Vec<f32>, TrainError> {
    let classes = samples.classes.len();
    let parts: Result<Vec<_>, TrainError> = (0..folds)
        .into_par_iter()
        .map(|fold| {
            let (kept, held_out) = folds::split_samples(samples, assigned, fold);
            let rows = Subset::new(samples.rows, &kept);
            let train = samples.pick(&rows, &kept);
            let fitted = recipe::fit(recipe, &train, options, ROUGH, cancel, &mut |_, _| {})?;
            let rows = Subset::new(samples.rows, &held_out);
            let scores = fitted.scores(&samples.pick(&rows, &held_out), cancel)?;
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

/// The model on all samples, its threshold from samples that it had not seen.
fn fit_novelty(
    all: &Samples<'_>,
    selection: &Selection,
    method: NoveltyMethod,
    options: &Options,
    cancel: &Cancel,
) -> Result<Novelty, TrainError> {
    let classes = all.classes.len();
    let (score, held_out) = match method {
        NoveltyMethod::Energy => {
            let energies = selection
                .scores
                .chunks_exact(classes)
                .map(|row| {
                    let scaled: Vec<f32> = row.iter().map(|v| v / selection.temperature).collect();
                    -log_sum_exp(&scaled)
                })
                .collect();
            (NoveltyScore::Energy, energies)
        }
        NoveltyMethod::Mahalanobis => {
            let subset = Subset::new(all.rows, &selection.chosen);
            let samples = all.pick(&subset, &selection.chosen);
            let folds = selection.assigned.iter().max().map_or(0, |m| m + 1);
            let parts: Result<Vec<Vec<f32>>, TrainError> = (0..folds)
                .into_par_iter()
                .map(|fold| {
                    let (kept, held_out) =
                        folds::split_samples(&samples, &selection.assigned, fold);
                    let rows = Subset::new(samples.rows, &kept);
                    let model = novelty::fit(&samples.pick(&rows, &kept), cancel)?;
                    let rows = Subset::new(samples.rows, &held_out);
                    novelty::scores(&model, &samples.pick(&rows, &held_out), cancel)
                })
                .collect();
            (NoveltyScore::Mahalanobis(novelty::fit(all, cancel)?), parts?.concat())
        }
    };
    let threshold = novelty::threshold(held_out, options.false_alarm_rate);
    Ok(Novelty { score, threshold, false_alarm_rate: options.false_alarm_rate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::Loss;

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
}
