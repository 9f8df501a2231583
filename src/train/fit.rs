//! From samples to a head: choose a recipe by cross-validation, calibrate on what was held out, fit
//! on everything.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{fit_temperature, log_loss, top};
use super::lbfgs::Stop;
use super::learning_curve;
use super::progress::{Listener, Meter, Phase};
use super::recipe::{self, Features, Recipe, candidates};
use super::rows::Subset;
use super::{Report, Samples, TrainError, folds, novelty};
use crate::base::cancel::Cancel;
use crate::heads::{Head, Kind, Novelty, NoveltyScore, log_sum_exp};

/// Samples that the choice of a recipe looks at; of more, a stratified part is taken.
const SELECTION_SAMPLES: usize = 4000;
/// Scores that are kept of every recipe that is tried; where there are more, those of the chosen one
/// are made again.
const KEPT_SCORES: usize = 1_000_000;
/// In cross-validation a rough optimum will do.
pub(super) const ROUGH: Stop = Stop { gradient: 1e-6, decrease: 1e-5, iterations: 300 };
/// A fit to convergence is about so many rough ones.
const TO_CONVERGENCE: f64 = 3.0;

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

/// One recipe's cross-validated scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub recipe: Recipe,
    /// Share right on held-out folds.
    pub accuracy: f64,
    /// Cross-entropy on held-out folds, with the temperature that was fitted on them; but for classes
    /// whose samples all lie in one fold.
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

/// How much work a training is likely to be, in samples times rough fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Choosing a recipe by cross-validation.
    pub selection: f64,
    /// Fitting it on all samples.
    pub fitting: f64,
    /// The novelty model.
    pub novelty: f64,
    /// The learning curve.
    pub curve: f64,
}

impl Work {
    /// That of [`fit`] and [`super::learning_curve()`].
    pub fn of(samples: &Samples<'_>, options: &Options) -> Self {
        Self::of_recipes(samples.len(), &recipes_for(samples, options), options)
    }

    /// That of a head whose classes do not exclude each other.
    pub fn of_sets(samples: usize, options: &Options) -> Self {
        let all = TO_CONVERGENCE * samples as f64;
        let selection = all * (options.folds as f64 - 1.0);
        let curve = TO_CONVERGENCE * learning_curve::work(samples, options.folds);
        Self { selection, fitting: all, novelty: 0.0, curve }
    }

    fn of_recipes(samples: usize, recipes: &[Recipe], options: &Options) -> Self {
        let others = options.folds as f64 - 1.0;
        let selected = samples.min(SELECTION_SAMPLES) as f64;
        let novelty = match options.novelty {
            Some(NoveltyMethod::Mahalanobis) => others * selected + samples as f64,
            Some(NoveltyMethod::Energy) | None => 0.0,
        };
        Self {
            selection: recipes.len() as f64 * others * selected,
            fitting: TO_CONVERGENCE * samples as f64,
            novelty,
            curve: TO_CONVERGENCE * learning_curve::work(samples, options.folds),
        }
    }

    /// All but the learning curve.
    pub fn of_fit(&self) -> f64 {
        self.selection + self.fitting + self.novelty
    }
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
    progress: &mut Listener<'_>,
) -> Result<Trained, TrainError> {
    samples.check(cancel)?;
    check_options(options)?;
    let samples = &samples.weighted(options.balance);
    if options.kind == Some(Kind::Knn) && are_unequal(&samples.weights) {
        return Err(TrainError::Invalid(
            "k-nearest-neighbours lets every sample count alike: choose another kind, or give all \
             samples the same weight and do not balance the classes"
                .into(),
        ));
    }
    let recipes = recipes_for(samples, options);
    let work = Work::of_recipes(samples.len(), &recipes, options);
    let meter = Meter::new(Phase::Selecting, work.of_fit(), progress);
    let selection = select(samples, &recipes, options, cancel, &meter)?;
    let recipe = selection.recipe;
    meter.enter(Phase::Fitting);
    let mut part = meter.fit(work.fitting);
    let fitted =
        recipe::fit(&recipe, samples, options, Stop::default(), cancel, &mut |iteration, loss| {
            part.iterated(iteration, Some(loss));
        })?;
    part.end();
    let classes = samples.classes.clone();
    let mut head = Head::new(recipe.kind, classes, fitted.transform, fitted.classifier)?
        .with_temperature(selection.temperature)?;
    if let Some(method) = options.novelty {
        meter.enter(Phase::Novelty);
        let novelty = fit_novelty(samples, &selection, method, options, cancel, &meter)?;
        head = head.with_novelty(novelty)?;
    }
    meter.end();
    Ok(Trained {
        head,
        recipe,
        trials: selection.trials,
        reason: selection.reason,
        report: selection.report,
        folds: selection.folds,
    })
}

/// The recipes that are tried. `auto` leaves out those that would take too much memory, and those that
/// let every sample count alike where samples do not.
fn recipes_for(samples: &Samples<'_>, options: &Options) -> Vec<Recipe> {
    let mut recipes = candidates(options);
    if options.kind.is_none() {
        let unequal = are_unequal(&samples.weights);
        recipes.retain(|recipe| {
            recipe.is_affordable(samples) && !(unequal && recipe.kind == Kind::Knn)
        });
    }
    recipes
}

fn are_unequal(weights: &[f32]) -> bool {
    weights.windows(2).any(|pair| pair[0].to_bits() != pair[1].to_bits())
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
    /// Whether each class has samples in several folds. The others are unknown to the heads that judge
    /// them: wrong, but of no say in how sure to be.
    pub(super) known: Vec<bool>,
    /// Share right in each fold.
    folds: Vec<f64>,
    /// Held-out scores of the chosen recipe, before the temperature; of originals alone. Minus infinity
    /// for a class that the fold's head does not have.
    pub(super) scores: Vec<f32>,
}

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
    let mut held_out: Vec<Option<Vec<f32>>> = Vec::with_capacity(recipes.len());
    for recipe in recipes {
        let scores = scores_by(recipe)?;
        let (_, log_loss) = calibrate(&scores)?;
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
    let (temperature, log_loss) = calibrate(&scores)?;
    let report = Report::new(&samples.classes, &labels, &scores, temperature, cancel)?;
    let report = Report { log_loss, ..report };
    let reason = reason(&trials, best, folds);
    let recipe = trials[best].recipe;
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

/// The model on all samples, its threshold from samples that it had not seen.
fn fit_novelty(
    all: &Samples<'_>,
    selection: &Selection,
    method: NoveltyMethod,
    options: &Options,
    cancel: &Cancel,
    meter: &Meter<'_>,
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
            // One after the other: each takes three matrices as wide as the embedding, and fills the
            // cores by itself.
            let parts: Result<Vec<Vec<f32>>, TrainError> = (0..folds)
                .map(|fold| {
                    let (kept, held_out) =
                        folds::split_samples(&samples, &selection.assigned, fold);
                    let part = meter.fit(kept.len() as f64);
                    let rows = Subset::new(samples.rows, &kept);
                    let model = novelty::fit(&samples.pick(&rows, &kept), cancel)?;
                    let rows = Subset::new(samples.rows, &held_out);
                    let scores = novelty::scores(&model, &samples.pick(&rows, &held_out), cancel);
                    part.end();
                    scores
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

    #[test]
    fn a_cross_entropy_that_is_less_by_no_more_than_one_sample_does_not_outweigh_a_simpler_recipe()
    {
        let trials = [trial(Kind::Prototype, 1.0, 0.019), trial(Kind::Softmax, 1.0, 0.010)];
        assert_eq!(best_of(&trials, 100), 0);
        assert_eq!(best_of(&trials, 1000), 1);
    }

    /// Two classes on a line, 200 samples of the common one and 20 of the rare one, which overlap.
    fn lopsided() -> (Vec<f32>, Vec<u32>, Vec<String>) {
        let noise = |i: usize| ((i * 37 + 11) % 101) as f32 / 101.0;
        let at = |i: usize| if i < 200 { noise(i) } else { 0.5 + 0.7 * noise(i) };
        let values = (0..220).flat_map(|i| [at(i), 1.0]).collect();
        let labels = (0..220).map(|i| u32::from(i >= 200)).collect();
        (values, labels, ["common", "rare"].map(String::from).to_vec())
    }

    #[test]
    fn balanced_classes_let_a_rare_one_be_found() {
        let (values, labels, classes) = lopsided();
        let rows = crate::train::DenseRows::new(&values, 2).unwrap();
        let samples = Samples::new(&rows, labels, classes);
        let cancel = Cancel::default();
        let recall = |balance: bool| {
            let options = Options {
                kind: Some(Kind::Softmax),
                features: Some(Features::Raw),
                inverse_penalty: Some(1000.0),
                novelty: None,
                balance,
                ..Options::default()
            };
            let head = fit(&samples, &options, &cancel, &mut |_| {}).unwrap().head;
            crate::train::evaluate(&head, &samples, &cancel).unwrap().per_class[1].recall
        };
        let (plain, balanced) = (recall(false), recall(true));
        assert!(plain < 0.4 && balanced > 0.7, "{plain} {balanced}");
    }

    #[test]
    fn a_class_of_one_sample_is_wrong_once_and_makes_no_kind_of_head_less_sure_of_the_others() {
        let noise = |i: usize, j: usize| ((i * 37 + j * 59 + 11) % 101) as f32 / 101.0;
        let row = |i: usize| {
            let class = if i < 100 { i % 2 } else { 2 };
            (0..4).map(move |j| 0.3 * noise(i, j) + 3.0 * f32::from(j == class))
        };
        let values: Vec<f32> = (0..101).flat_map(row).collect();
        let labels: Vec<u32> = (0..101).map(|i| if i < 100 { i % 2 } else { 2 }).collect();
        let classes = ["a", "b", "rare"].map(String::from);
        let without = crate::train::DenseRows::new(&values[..400], 4).unwrap();
        let without = Samples::new(&without, labels[..100].to_vec(), classes[..2].to_vec());
        let with = crate::train::DenseRows::new(&values, 4).unwrap();
        let with = Samples::new(&with, labels, classes.to_vec());
        for kind in [Kind::Lda, Kind::Slda, Kind::Softmax, Kind::Prototype, Kind::Knn] {
            let options = Options {
                kind: Some(kind),
                features: Some(Features::UnitLength),
                inverse_penalty: Some(30.0),
                novelty: None,
                ..Options::default()
            };
            let fitted = |samples| fit(samples, &options, &Cancel::default(), &mut |_| {}).unwrap();
            let (expected, found) = (fitted(&without), fitted(&with));
            let ratio = found.head.temperature() / expected.head.temperature();
            assert!((0.5..2.0).contains(&ratio), "{kind}: {ratio}");
            assert!((found.report.accuracy - 100.0 / 101.0).abs() < 1e-9, "{:?}", found.report);
            assert!(found.report.log_loss < 0.2 && found.trials[0].log_loss < 0.2, "{kind}");
        }
    }

    #[test]
    fn where_samples_differ_in_weight_neighbours_are_not_asked() {
        let (values, labels, classes) = lopsided();
        let rows = crate::train::DenseRows::new(&values, 2).unwrap();
        let samples = Samples::new(&rows, labels, classes);
        let fitted = |kind, balance| {
            let options = Options { kind, balance, novelty: None, ..Options::default() };
            fit(&samples, &options, &Cancel::default(), &mut |_| {})
        };
        assert!(fitted(Some(Kind::Knn), false).is_ok());
        let refused = fitted(Some(Kind::Knn), true).unwrap_err().to_string();
        assert!(refused.contains("every sample count alike"), "{refused}");
        let asks = |trained: Trained| trained.trials.iter().any(|t| t.recipe.kind == Kind::Knn);
        assert!(asks(fitted(None, false).unwrap()) && !asks(fitted(None, true).unwrap()));
    }

    #[test]
    fn news_go_through_the_phases_and_never_back_with_the_loss_of_every_iteration() {
        let (values, labels, classes) = lopsided();
        let rows = crate::train::DenseRows::new(&values, 2).unwrap();
        let samples = Samples::new(&rows, labels, classes);
        let options = Options { kind: Some(Kind::Softmax), ..Options::default() };
        let mut heard = Vec::new();
        let trained = fit(&samples, &options, &Cancel::default(), &mut |news| heard.push(news));
        trained.unwrap();
        assert!(heard.windows(2).all(|pair| pair[0].done <= pair[1].done), "{heard:?}");
        let mut phases: Vec<Phase> = heard.iter().map(|news| news.phase).collect();
        phases.dedup();
        assert_eq!(phases, [Phase::Selecting, Phase::Fitting, Phase::Novelty]);
        let selecting: Vec<_> =
            heard.iter().filter(|news| news.phase == Phase::Selecting).collect();
        assert!(selecting.len() > 50 && selecting.iter().all(|news| news.loss.is_none()));
        assert!(selecting.last().unwrap().held_out_accuracy.is_some());
        let fitting: Vec<_> = heard.iter().filter(|news| news.phase == Phase::Fitting).collect();
        assert!(fitting.len() > 3, "{fitting:?}");
        assert!(fitting[1..].iter().all(|n| n.loss.is_some() && n.held_out_accuracy.is_some()));
        assert!(fitting[1..].windows(2).all(|pair| pair[0].done < pair[1].done), "{fitting:?}");
        assert_eq!(heard.last().unwrap().done, 1.0);
    }
}
