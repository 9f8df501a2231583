//! What is asked of a training, how far it is and what came out: kept with its job as JSON.

use serde::{Deserialize, Serialize};

use super::{LearningError, Promotion};
use crate::base::name::Name;
use crate::heads::Kind;
use crate::store;
use crate::train::{Features, NoveltyMethod, Options, Report};

/// What a training is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingRequest {
    /// The head; a new one is made, of an old one the next version.
    pub head: Name,
    /// What it learns from.
    pub dataset: Name,
    /// What it stands on.
    pub backbone: Name,
    /// How it is fitted.
    pub options: TrainingOptions,
    /// When it goes live.
    pub promotion: Promotion,
}

/// How a head is fitted. What is absent is as in [`Options::default`], the defaults of `graftd train`
/// and `graftctl train` alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingOptions {
    /// The kind; `None` lets cross-validation choose.
    pub kind: Option<Kind>,
    /// Of everything random.
    pub seed: u64,
    /// Folds of the cross-validation, 2 to 20.
    pub folds: u32,
    /// Whether every class counts the same.
    #[serde(alias = "balance")] // in heads that `graftd train` of old saved
    pub balance_classes: bool,
    /// Probability spread over all classes, 0 to 0.5.
    pub label_smoothing: f32,
    /// Strength of the penalty on weights; `None` lets cross-validation choose.
    pub regularization: Option<f32>,
    /// Share of known samples that may come back as unknown, 0 to 0.5.
    pub false_alarm_rate: f32,
    /// Neighbours asked by k-NN.
    pub neighbours: Option<u32>,
    /// Width of a perceptron's hidden layer.
    #[serde(alias = "hidden")]
    pub hidden_width: u32,
    /// How embeddings are prepared; `None` for what suits the kind.
    pub features: Option<Features>,
    /// How novelty is measured; `None` for the distance to the nearest class, or, for a head that
    /// follows its dataset, the energy.
    pub novelty: Option<NoveltyMethod>,
    /// Changed copies of each photograph that are trained on too, 0 to 32.
    pub augmentations: u32,
    /// Whether the head, which must be of kind `slda`, goes on learning each new sample.
    pub follow_dataset: bool,
    /// Whether it is measured if more samples would help.
    pub learning_curve: bool,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        let common = Options::default();
        Self {
            kind: common.kind,
            seed: common.seed,
            folds: common.folds as u32,
            balance_classes: common.balance,
            label_smoothing: common.label_smoothing,
            regularization: None,
            false_alarm_rate: common.false_alarm_rate,
            neighbours: None,
            hidden_width: common.hidden as u32,
            features: common.features,
            novelty: None,
            augmentations: 0,
            follow_dataset: false,
            learning_curve: true,
        }
    }
}

impl TrainingOptions {
    /// The first option that was set and has no part in a head of this kind, by the name of its field.
    /// What may have a part is let through where cross-validation chooses the kind.
    pub fn without_effect(&self) -> Option<&'static str> {
        use Kind::{Knn, Mlp, MultiLabel, Softmax};
        let default = Self::default();
        let differs = |value: f32, usual: f32| (value - usual).abs() > f32::EPSILON;
        let chosen = self.kind.is_none();
        let any_of = |kinds: &[Kind]| self.kind.is_some_and(|kind| kinds.contains(&kind));
        let options = [
            ("balance_classes", self.balance_classes, !any_of(&[Knn])),
            (
                "label_smoothing",
                self.label_smoothing > 0.0,
                chosen || any_of(&[Softmax, Mlp, MultiLabel]),
            ),
            (
                "regularization",
                self.regularization.is_some(),
                chosen || any_of(&[Softmax, MultiLabel]),
            ),
            ("neighbours", self.neighbours.is_some(), chosen || any_of(&[Knn])),
            // Never chosen by cross-validation.
            ("hidden_width", self.hidden_width != default.hidden_width, any_of(&[Mlp])),
            (
                "false_alarm_rate",
                differs(self.false_alarm_rate, default.false_alarm_rate),
                !any_of(&[MultiLabel]),
            ),
            ("novelty", self.novelty.is_some(), !any_of(&[MultiLabel])),
        ];
        let idle = options.into_iter().find(|(_, is_set, has_part)| *is_set && !has_part);
        idle.map(|(field, ..)| field)
    }

    /// As `train` wants them.
    pub fn to_train(&self) -> Options {
        let defaults = Options::default();
        Options {
            kind: self.kind,
            features: self.features,
            seed: self.seed,
            folds: self.folds as usize,
            balance: self.balance_classes,
            label_smoothing: self.label_smoothing,
            inverse_penalty: self.regularization.map(|penalty| 1.0 / f64::from(penalty)),
            neighbours: self.neighbours.map_or(defaults.neighbours, |count| count as usize),
            hidden: self.hidden_width as usize,
            // Each sample makes a version of a head that follows: it must stay small.
            novelty: self.novelty.or(Some(if self.follow_dataset {
                NoveltyMethod::Energy
            } else {
                NoveltyMethod::Mahalanobis
            })),
            false_alarm_rate: self.false_alarm_rate,
        }
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// What it does just now.
    pub phase: String,
    /// 0 to 1.
    pub done: f32,
    /// Its own estimate, in seconds.
    pub remaining_seconds: Option<f64>,
    /// Training objective.
    pub loss: Option<f64>,
    /// Best accuracy on held-out folds so far.
    pub held_out_accuracy: Option<f64>,
}

/// What a training made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingOutcome {
    /// The version of the head.
    pub version: u32,
    /// Whether it went live.
    pub promoted: bool,
    /// Why it did or did not.
    pub message: String,
    /// How good it is.
    pub report: TrainingReport,
}

/// How good a head is and how that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// The kind that was fitted.
    pub kind: Kind,
    /// Why this kind.
    pub reason: String,
    /// On the held-out samples; without any, over the folds of the cross-validation.
    pub held_out: Report,
    /// Whether `held_out` is on samples that training never saw in any way.
    pub pinned: bool,
    /// Over what the folds of the cross-validation held out, all together.
    pub cross_validation: Report,
    /// Share right in each of these folds.
    #[serde(default)]
    pub folds: Vec<f64>,
    /// What logits are divided by.
    pub temperature: f32,
    /// The live version on the same held-out samples.
    pub live: Option<Report>,
    /// Seconds spent on embeddings that were missing.
    pub embedding_seconds: f64,
    /// Seconds spent on fitting.
    pub fit_seconds: f64,
    /// Samples trained on.
    pub train_count: u64,
    /// Of everything random.
    pub seed: u64,
    /// Accuracy by number of training samples; empty where it was not measured.
    pub learning_curve: Vec<CurvePoint>,
}

/// How good a head is after so many samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Samples trained on.
    pub samples: u64,
    /// Share right of those held out.
    pub accuracy: f64,
}

/// How the stored error of a job begins that a fault of ours ended.
pub(super) const FAULT: &str = "internal error";

/// A job with its record read.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// State, times and error.
    pub record: store::Job,
    /// What was asked.
    pub request: TrainingRequest,
    /// How far it is.
    pub progress: JobProgress,
    /// What it made, once it succeeded.
    pub outcome: Option<TrainingOutcome>,
}

impl Job {
    /// Whether a fault of ours ended it, and nothing that was asked.
    pub fn is_fault(&self) -> bool {
        self.record.error.as_ref().is_some_and(|error| error.starts_with(FAULT))
    }
}

impl TryFrom<store::Job> for Job {
    type Error = LearningError;

    fn try_from(record: store::Job) -> Result<Self, LearningError> {
        let request = serde_json::from_str(&record.request)?;
        let progress = record.progress.as_deref().map(serde_json::from_str).transpose()?;
        let outcome = record.report.as_deref().map(serde_json::from_str).transpose()?;
        Ok(Self { request, progress: progress.unwrap_or_default(), outcome, record })
    }
}
