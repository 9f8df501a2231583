//! Trainings: what is asked, how far it is, what came out.

use super::field::{FieldError, ranged};
use super::sample::name;
use super::time::to_wire;
use crate::engine::learning::{
    CurvePoint, Job, JobProgress, Policy, Promotion, TrainingOptions, TrainingReport,
};
use crate::heads::Kind;
use crate::proto::graft as wire;
use crate::store::{JobId, JobState};
use crate::train::{Features, NoveltyMethod, Report};

/// The job's id in a field.
///
/// # Errors
/// Where it is no number.
pub fn job_id(field: &str, text: &str) -> Result<JobId, FieldError> {
    text.parse()
        .map(JobId)
        .map_err(|_| FieldError::new(field, format!("must be the id of a job, not {text:?}")))
}

/// How a head is to be fitted.
///
/// # Errors
/// Numbers out of range; options that have no part in the kind of head that is asked for.
pub fn options(options: wire::TrainingOptions) -> Result<TrainingOptions, FieldError> {
    let default = TrainingOptions::default();
    if options.regularization.is_some_and(|penalty| !(penalty.is_finite() && penalty > 0.0)) {
        return Err(FieldError::new("regularization", "must be a finite number above 0"));
    }
    let neighbours = match options.neighbours {
        Some(count) => Some(ranged("neighbours", Some(count), 1..=1000, count)?),
        None => None,
    };
    let kind = kind("kind", options.kind)?;
    let features = features("transform", options.transform)?;
    if kind == Some(Kind::Prototype) && features.is_some_and(|f| f != Features::UnitLength) {
        let problem = "must be FEATURE_TRANSFORM_NORMALIZE or unset for prototypes";
        return Err(FieldError::new("transform", problem));
    }
    if options.follow_dataset {
        if kind != Some(Kind::Slda) {
            return Err(FieldError::new("follow_dataset", "needs the kind HEAD_KIND_SLDA"));
        }
        if options.augmentations > 0 || features.is_some_and(|f| f != Features::UnitLength) {
            let problem = "learns samples as they come, of length 1: leave augmentations and \
                           transform unset";
            return Err(FieldError::new("follow_dataset", problem));
        }
    }
    let novelty = novelty("novelty", options.novelty)?;
    if options.follow_dataset && novelty == Some(NoveltyMethod::Mahalanobis) {
        let problem = "must be NOVELTY_METHOD_ENERGY or unset for a head that follows its dataset";
        return Err(FieldError::new("novelty", problem));
    }
    let wanted = TrainingOptions {
        kind,
        features,
        novelty,
        learning_curve: options.learning_curve.unwrap_or(default.learning_curve),
        follow_dataset: options.follow_dataset,
        augmentations: ranged("augmentations", Some(options.augmentations), 0..=32, 0)?,
        seed: options.seed,
        folds: ranged("folds", options.folds, 2..=20, default.folds)?,
        balance_classes: options.balance_classes.unwrap_or(default.balance_classes),
        label_smoothing: ranged(
            "label_smoothing",
            Some(options.label_smoothing),
            0.0..=0.5,
            default.label_smoothing,
        )?,
        regularization: options.regularization,
        false_alarm_rate: ranged(
            "false_alarm_rate",
            options.false_alarm_rate,
            0.0..=0.5,
            default.false_alarm_rate,
        )?,
        neighbours,
        hidden_width: ranged("hidden_width", options.hidden_width, 1..=4096, default.hidden_width)?,
    };
    if let Some(field) = wanted.without_effect() {
        let kind = wanted.kind.map_or("auto", Kind::name);
        let problem = format!("has no part in a head of the kind {kind}: leave it unset");
        return Err(FieldError::new(field, problem));
    }
    Ok(wanted)
}

fn features(field: &str, value: i32) -> Result<Option<Features>, FieldError> {
    use wire::FeatureTransform;
    match FeatureTransform::try_from(value) {
        Ok(FeatureTransform::Unspecified) => Ok(None),
        Ok(FeatureTransform::None) => Ok(Some(Features::Raw)),
        Ok(FeatureTransform::Standardize) => Ok(Some(Features::Standardised)),
        Ok(FeatureTransform::Normalize) => Ok(Some(Features::UnitLength)),
        Err(_) => Err(FieldError::new(field, format!("{value} is not a transform"))),
    }
}

fn novelty(field: &str, value: i32) -> Result<Option<NoveltyMethod>, FieldError> {
    match wire::NoveltyMethod::try_from(value) {
        Ok(wire::NoveltyMethod::Unspecified) => Ok(None),
        Ok(wire::NoveltyMethod::Mahalanobis) => Ok(Some(NoveltyMethod::Mahalanobis)),
        Ok(wire::NoveltyMethod::Energy) => Ok(Some(NoveltyMethod::Energy)),
        Err(_) => Err(FieldError::new(field, format!("{value} is not a method"))),
    }
}

fn transform(features: Option<Features>) -> wire::FeatureTransform {
    match features {
        Some(Features::Raw) => wire::FeatureTransform::None,
        Some(Features::Standardised) => wire::FeatureTransform::Standardize,
        Some(Features::UnitLength) => wire::FeatureTransform::Normalize,
        // The others come of a choice, they are never asked for.
        Some(Features::UnitLengthStandardised | Features::Kernel | Features::NarrowKernel)
        | None => wire::FeatureTransform::Unspecified,
    }
}

fn kind(field: &str, value: i32) -> Result<Option<Kind>, FieldError> {
    use wire::HeadKind;
    Ok(Some(match HeadKind::try_from(value) {
        Ok(HeadKind::Unspecified) => return Ok(None),
        Ok(HeadKind::Softmax) => Kind::Softmax,
        Ok(HeadKind::Lda) => Kind::Lda,
        Ok(HeadKind::Slda) => Kind::Slda,
        Ok(HeadKind::Prototype) => Kind::Prototype,
        Ok(HeadKind::Knn) => Kind::Knn,
        Ok(HeadKind::Mlp) => Kind::Mlp,
        Ok(HeadKind::MultiLabel) => Kind::MultiLabel,
        Ok(HeadKind::FineTuned) => {
            return Err(FieldError::new(field, "is trained by StartFineTuning"));
        }
        Err(_) => return Err(FieldError::new(field, format!("{value} is not a kind of head"))),
    }))
}

/// When a version is to go live.
///
/// # Errors
/// Tolerances outside 0 to 1.
pub fn promotion(promotion: Option<wire::Promotion>) -> Result<Promotion, FieldError> {
    let default = Promotion::default();
    let Some(promotion) = promotion else { return Ok(default) };
    let policy = match wire::PromotionPolicy::try_from(promotion.policy) {
        Ok(wire::PromotionPolicy::Unspecified | wire::PromotionPolicy::IfBetter) => {
            Policy::IfBetter
        }
        Ok(wire::PromotionPolicy::Manual) => Policy::Manual,
        Ok(wire::PromotionPolicy::Always) => Policy::Always,
        Err(_) => {
            let problem = format!("{} is not a policy", promotion.policy);
            return Err(FieldError::new("policy", problem));
        }
    };
    let share = |field, value: Option<f32>, default| {
        ranged(field, value.map(f64::from), 0.0..=1.0, default)
    };
    Ok(Promotion {
        policy,
        tolerance: share("tolerance", promotion.tolerance, default.tolerance)?,
        class_tolerance: share(
            "class_tolerance",
            promotion.class_tolerance,
            default.class_tolerance,
        )?,
    })
}

/// A job for the wire.
pub fn job(job: Job) -> wire::Job {
    let is_fault = job.is_fault();
    let Job { record, request, progress, outcome } = job;
    let JobProgress { phase, done, remaining_seconds, loss, held_out_accuracy } = progress;
    let running = record.state == JobState::Running;
    let failure = (record.state == JobState::Failed).then(|| wire::Failure {
        // INTERNAL, or FAILED_PRECONDITION: what was asked could not be done with what is there.
        code: if is_fault { 13 } else { 9 },
        message: record.error.clone().unwrap_or_else(|| "the training failed".to_owned()),
        reason: "TRAINING".to_owned(),
        ..wire::Failure::default()
    });
    let (version, promoted, promotion_message, report) = match outcome {
        Some(made) => (made.version, made.promoted, made.message, Some(made.report)),
        None => (0, false, String::new(), None),
    };
    wire::Job {
        id: record.id.to_string(),
        kind: wire::JobKind::Training.into(),
        state: wire::JobState::from(record.state).into(),
        phase: if running { phase } else { String::new() },
        progress: if record.state == JobState::Succeeded { 1.0 } else { done },
        remaining_seconds: remaining_seconds.filter(|_| running),
        loss: loss.map(|loss| loss as f32),
        held_out_accuracy: held_out_accuracy.map(|accuracy| accuracy as f32),
        head: request.head.to_string(),
        dataset: request.dataset.to_string(),
        backbone: request.backbone.to_string(),
        head_version: version,
        promoted,
        promotion_message,
        report: report.map(|found| self::report(&found)),
        failure,
        created_time: Some(to_wire(record.created_at)),
        started_time: record.started_at.map(to_wire),
        finished_time: record.finished_at.map(to_wire),
    }
}

impl From<JobState> for wire::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
            JobState::Interrupted => Self::Interrupted,
        }
    }
}

/// The options that a head was fitted with, for the wire.
pub fn fitted_with(options: &TrainingOptions) -> wire::TrainingOptions {
    wire::TrainingOptions {
        kind: options.kind.map_or(wire::HeadKind::Unspecified, Into::into).into(),
        seed: options.seed,
        folds: Some(options.folds),
        balance_classes: Some(options.balance_classes),
        label_smoothing: options.label_smoothing,
        regularization: options.regularization,
        false_alarm_rate: Some(options.false_alarm_rate),
        neighbours: options.neighbours,
        hidden_width: Some(options.hidden_width),
        transform: transform(options.features).into(),
        augmentations: options.augmentations,
        follow_dataset: options.follow_dataset,
        learning_curve: Some(options.learning_curve),
        novelty: match options.novelty {
            None => wire::NoveltyMethod::Unspecified,
            Some(NoveltyMethod::Mahalanobis) => wire::NoveltyMethod::Mahalanobis,
            Some(NoveltyMethod::Energy) => wire::NoveltyMethod::Energy,
        }
        .into(),
    }
}

/// What a training found, for the wire.
pub fn report(report: &TrainingReport) -> wire::TrainingReport {
    wire::TrainingReport {
        kind: wire::HeadKind::from(report.kind).into(),
        kind_message: report.reason.clone(),
        // Without held-out samples it is the cross-validation's, which chose the recipe: flattering.
        held_out: report.pinned.then(|| evaluation(&report.held_out)),
        cross_validation_accuracy: report.cross_validation.accuracy as f32,
        temperature: report.temperature,
        ece_before: report.held_out.ece_before as f32,
        ece_after: report.held_out.ece_after as f32,
        live: report.live.as_ref().map(evaluation),
        embedding_seconds: report.embedding_seconds,
        fit_seconds: report.fit_seconds,
        train_count: report.train_count,
        seed: report.seed,
        learning_curve: report
            .learning_curve
            .iter()
            .map(|point| wire::LearningCurvePoint {
                train_count: point.samples,
                accuracy: point.accuracy as f32,
            })
            .collect(),
        learning_curve_message: would_more_help(&report.learning_curve),
        folds: report.folds.iter().map(|&accuracy| accuracy as f32).collect(),
    }
}

/// Whether more samples are likely to help, told from what the last doubling brought.
fn would_more_help(curve: &[CurvePoint]) -> String {
    let [.., half, all] = curve else { return String::new() };
    let gain = 100.0 * (all.accuracy - half.accuracy);
    let gain_text = format!("doubling to {} samples brought {gain:.1} points", all.samples);
    if gain >= 1.0 {
        format!("{gain_text}: more samples are likely to help")
    } else {
        format!("{gain_text}: more of the same samples will hardly help")
    }
}

/// How a head does, for the wire.
pub fn evaluation(report: &Report) -> wire::Evaluation {
    let classes = report.per_class.iter().map(|class| wire::ClassEvaluation {
        label: class.label.clone(),
        sample_count: class.samples as u64,
        precision: class.precision as f32,
        recall: class.recall as f32,
        f1: class.f1 as f32,
    });
    wire::Evaluation {
        sample_count: report.samples as u64,
        accuracy: report.accuracy as f32,
        accuracy_low: report.interval.0 as f32,
        accuracy_high: report.interval.1 as f32,
        classes: classes.collect(),
        confusion_matrix: report.confusion.iter().flatten().map(|&count| count.into()).collect(),
        ece: report.ece_after as f32,
        log_loss: report.log_loss as f32,
    }
}

/// The backbone that a request names, if it does.
///
/// # Errors
/// Where it is no name.
pub fn optional_name(
    field: &str,
    text: &str,
) -> Result<Option<crate::base::name::Name>, FieldError> {
    if text.is_empty() { Ok(None) } else { name(field, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_options_mean_the_defaults_of_the_contract() {
        let default = options(wire::TrainingOptions::default()).unwrap();
        assert_eq!(default, TrainingOptions::default());
        assert_eq!(default.to_train(), crate::train::Options::default(), "as `graftd train` has");
        assert_eq!(promotion(None).unwrap(), Promotion::default());
        let round = options(fitted_with(&default)).unwrap();
        assert_eq!(round, default);
        let special = TrainingOptions {
            kind: Some(Kind::Slda),
            features: Some(Features::UnitLength),
            follow_dataset: true,
            novelty: Some(NoveltyMethod::Energy),
            learning_curve: false,
            ..default
        };
        assert_eq!(options(fitted_with(&special)).unwrap(), special);
    }

    #[test]
    fn options_out_of_range_are_refused_by_field() {
        let bad = [
            ("folds", wire::TrainingOptions { folds: Some(1), ..Default::default() }),
            ("kind", wire::TrainingOptions { kind: 99, ..Default::default() }),
            (
                "label_smoothing",
                wire::TrainingOptions { label_smoothing: f32::NAN, ..Default::default() },
            ),
            ("hidden_width", wire::TrainingOptions { hidden_width: Some(0), ..Default::default() }),
            ("transform", wire::TrainingOptions { transform: 9, ..Default::default() }),
            ("novelty", wire::TrainingOptions { novelty: 9, ..Default::default() }),
            (
                "novelty",
                wire::TrainingOptions {
                    kind: wire::HeadKind::Slda.into(),
                    follow_dataset: true,
                    novelty: wire::NoveltyMethod::Mahalanobis.into(),
                    ..Default::default()
                },
            ),
            ("augmentations", wire::TrainingOptions { augmentations: 33, ..Default::default() }),
            (
                "follow_dataset",
                wire::TrainingOptions { follow_dataset: true, ..Default::default() },
            ),
            (
                "transform",
                wire::TrainingOptions {
                    kind: wire::HeadKind::Prototype.into(),
                    transform: wire::FeatureTransform::Standardize.into(),
                    ..Default::default()
                },
            ),
            (
                "regularization",
                wire::TrainingOptions { regularization: Some(0.0), ..Default::default() },
            ),
        ];
        for (field, request) in bad {
            assert_eq!(options(request).unwrap_err().path(), field);
        }
    }

    #[test]
    fn an_option_that_a_kind_cannot_keep_to_is_refused_by_field_and_taken_by_one_that_can() {
        use wire::HeadKind::{Knn, Lda, Mlp, MultiLabel, Prototype, Slda, Softmax, Unspecified};
        let plain = wire::TrainingOptions::default();
        let energy = wire::NoveltyMethod::Energy.into();
        let cases = [
            (
                "balance_classes",
                wire::TrainingOptions { balance_classes: Some(true), ..plain },
                &[Knn][..],
                &[Unspecified, Softmax, Lda, Slda, Prototype, Mlp, MultiLabel][..],
            ),
            (
                "label_smoothing",
                wire::TrainingOptions { label_smoothing: 0.1, ..plain },
                &[Lda, Slda, Prototype, Knn],
                &[Unspecified, Softmax, Mlp, MultiLabel],
            ),
            (
                "regularization",
                wire::TrainingOptions { regularization: Some(0.1), ..plain },
                &[Lda, Slda, Prototype, Knn, Mlp],
                &[Unspecified, Softmax, MultiLabel],
            ),
            (
                "neighbours",
                wire::TrainingOptions { neighbours: Some(3), ..plain },
                &[Softmax, Lda, Slda, Prototype, Mlp, MultiLabel],
                &[Unspecified, Knn],
            ),
            (
                "hidden_width",
                wire::TrainingOptions { hidden_width: Some(64), ..plain },
                &[Unspecified, Softmax, Lda, Slda, Prototype, Knn, MultiLabel],
                &[Mlp],
            ),
            (
                "false_alarm_rate",
                wire::TrainingOptions { false_alarm_rate: Some(0.1), ..plain },
                &[MultiLabel],
                &[Unspecified, Softmax, Lda, Slda, Prototype, Knn, Mlp],
            ),
            (
                "novelty",
                wire::TrainingOptions { novelty: energy, ..plain },
                &[MultiLabel],
                &[Unspecified, Softmax, Lda, Slda, Prototype, Knn, Mlp],
            ),
        ];
        for (field, request, refused, taken) in cases {
            for kind in refused {
                let error = options(wire::TrainingOptions { kind: (*kind).into(), ..request });
                assert_eq!(error.unwrap_err().path(), field, "{kind:?}");
            }
            for kind in taken {
                let request = wire::TrainingOptions { kind: (*kind).into(), ..request };
                assert!(options(request).is_ok(), "{field}: {kind:?}");
            }
        }
    }

    #[test]
    fn more_samples_are_said_to_help_where_the_last_doubling_did() {
        let point = |samples, accuracy| CurvePoint { samples, accuracy };
        let said = would_more_help(&[point(10, 0.2), point(50, 0.80), point(100, 0.83)]);
        assert!(said.contains("100 samples brought 3.0 points"), "{said}");
        assert!(said.contains("more samples are likely to help"), "{said}");
        // What earlier doublings brought does not count, nor does a loss.
        for last in [0.805, 0.80, 0.75] {
            let said = would_more_help(&[point(10, 0.2), point(50, 0.80), point(100, last)]);
            assert!(said.contains("will hardly help"), "{said}");
        }
        assert_eq!(would_more_help(&[point(100, 0.9)]), "");
        assert_eq!(would_more_help(&[]), "");
    }

    #[test]
    fn every_kind_of_head_goes_to_the_wire_and_back() {
        for known in Kind::ALL {
            let there: i32 = wire::HeadKind::from(known).into();
            assert_eq!(kind("kind", there), Ok(Some(known)));
        }
    }
}
