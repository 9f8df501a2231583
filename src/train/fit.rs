//! From samples to a head: choose a recipe by cross-validation, calibrate on what was held out, fit
//! on everything.

use serde::{Deserialize, Serialize};

use super::lbfgs::Stop;
use super::progress::{Listener, Meter, Phase};
use super::recipe::{self, Features, Recipe, candidates};
use super::rows::Subset;
use super::selection::{SELECTION_SAMPLES, Selection, Trial, select};
use super::{Report, Samples, TrainError, folds, learning_curve, novelty};
use crate::base::cancel::Cancel;
use crate::heads::{Head, Kind, Novelty, NoveltyScore, log_sum_exp};

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
