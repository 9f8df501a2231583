//! From samples to a head: choose a recipe by cross-validation, calibrate on what was held out, fit
//! on everything.

use rayon::prelude::*;
use serde::Serialize;

use super::calibration::{fit_temperature, log_loss, top};
use super::lbfgs::Stop;
use super::recipe::{self, Recipe, candidates};
use super::rows::Subset;
use super::{Report, Samples, TrainError, folds, novelty, samples::balanced_weights};
use crate::base::cancel::Cancel;
use crate::heads::{Head, Kind, Novelty, NoveltyScore, log_sum_exp};

/// Samples that the choice of a recipe looks at; of more, a stratified part is taken.
const SELECTION_SAMPLES: usize = 4000;
/// In cross-validation a rough optimum will do.
const ROUGH: Stop = Stop { gradient: 1e-6, decrease: 1e-5, iterations: 300 };

/// How novelty is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
    samples.check()?;
    check_options(options)?;
    let samples = &Samples {
        rows: samples.rows,
        labels: samples.labels.clone(),
        weights: if options.balance { balanced_weights(samples) } else { samples.weights.clone() },
        classes: samples.classes.clone(),
    };
    let recipes = candidates(options);
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
    /// Held-out scores of the chosen recipe, before the temperature.
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
    // No more folds than samples of the largest class, or a fold could be empty.
    let largest = samples.counts().into_iter().max().unwrap_or(0);
    let folds = options.folds.min(largest).max(2);
    let assigned = folds::stratified(&samples.labels, classes, folds, options.seed);
    let mut trials = Vec::with_capacity(recipes.len());
    let mut held_out: Vec<Vec<f32>> = Vec::with_capacity(recipes.len());
    for (index, recipe) in recipes.iter().enumerate() {
        let scores = out_of_fold(&samples, &assigned, folds, recipe, options, cancel)?;
        let temperature = fit_temperature(&scores, &samples.labels, classes);
        let right = scores
            .chunks_exact(classes)
            .zip(&samples.labels)
            .filter(|(row, label)| top(row) == **label as usize)
            .count();
        trials.push(Trial {
            recipe: *recipe,
            accuracy: right as f64 / samples.len() as f64,
            log_loss: log_loss(&scores, &samples.labels, classes, temperature),
        });
        held_out.push(scores);
        progress(Progress {
            phase: Phase::Selecting,
            done: 0.8 * (index + 1) as f32 / recipes.len() as f32,
            loss: None,
            held_out_accuracy: trials.iter().map(|t| t.accuracy).reduce(f64::max),
        });
    }
    let best = best_of(&trials);
    let scores = held_out.swap_remove(best);
    let temperature = fit_temperature(&scores, &samples.labels, classes);
    let report = Report::new(&samples.classes, &samples.labels, &scores, temperature);
    let reason = reason(&trials, best, folds);
    let recipe = trials[best].recipe;
    Ok(Selection { recipe, trials, reason, report, temperature, chosen, assigned, scores })
}

/// The one with the least cross-entropy: a steadier judge than the accuracy, which a few samples can
/// turn.
fn best_of(trials: &[Trial]) -> usize {
    let mut best = 0;
    for (index, trial) in trials.iter().enumerate() {
        if trial.log_loss < trials[best].log_loss {
            best = index;
        }
    }
    best
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
    match runner_up {
        Some(other) => format!(
            "{score}; the best of another kind was {} with {:.1} % and {:.3}",
            other.recipe,
            100.0 * other.accuracy,
            other.log_loss
        ),
        None => score,
    }
}

/// All samples, or a stratified part if there are very many.
fn part_of(samples: &Samples<'_>, seed: u64) -> Vec<usize> {
    let parts = samples.len().div_ceil(SELECTION_SAMPLES);
    if parts <= 1 {
        return (0..samples.len()).collect();
    }
    let assigned = folds::stratified(&samples.labels, samples.classes.len(), parts, seed);
    folds::split(&assigned, 0).1
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
            let (kept, held_out) = folds::split(assigned, fold);
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
                    let (kept, held_out) = folds::split(&selection.assigned, fold);
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
