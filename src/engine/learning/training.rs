//! One training, from a request to a version that is live or says why it is not.

use std::time::Instant;

use super::embedding::embed_missing;
use super::job::{CurvePoint, JobProgress, TrainingOutcome, TrainingReport, TrainingRequest};
use super::labelled::Labelled;
use super::versions::{self, HeadRecord};
use super::{LearningError, decide};
use crate::base::cancel::Cancel;
use crate::engine::{Engine, Target};
use crate::heads::{Head, Provenance};
use crate::store::{JobId, Split, Store};
use crate::train::{self, Phase, Report, Trained};

/// Versions of a head that are kept.
const KEPT_VERSIONS: usize = 10;
/// Samples up to which the learning curve is measured.
const CURVE_SAMPLES: usize = 4000;
/// Share of the progress bar that embedding takes where there is anything to embed.
const EMBEDDING_SHARE: f32 = 0.5;

/// Runs a training to its end; on a thread that may be slow.
pub(super) fn run(
    engine: &Engine,
    store: &Store,
    id: JobId,
    request: &TrainingRequest,
    cancel: &Cancel,
    tell: &mut dyn FnMut(JobProgress),
) -> Result<TrainingOutcome, LearningError> {
    let target = Target::Backbone(request.backbone.to_string());
    let backbone = engine.snapshot().resolve(&target)?.backbone;
    let began = Instant::now();
    let embedded =
        embed_missing(engine, store, &request.dataset, &backbone, cancel, &mut |done| {
            let phase = "embedding".to_owned();
            tell(JobProgress { phase, done: EMBEDDING_SHARE * done, ..JobProgress::default() });
        })?;
    let embedding_seconds = began.elapsed().as_secs_f64();
    let start = if embedded > 0 { EMBEDDING_SHARE } else { 0.0 };

    let key = backbone.embedding_key();
    let snapshot = store.snapshot(&request.dataset)?;
    let training = Labelled::read(store, &request.dataset, key, Split::Train)?;
    let Some(rows) = training.rows() else {
        return Err(LearningError::NoSamples(format!(
            "dataset {} has no labelled samples for training with an embedding by {}",
            request.dataset, request.backbone
        )));
    };
    let began = Instant::now();
    let options = request.options.to_train();
    let fitted = train::fit(&training.samples(&rows), &options, cancel, &mut |news| {
        tell(JobProgress {
            phase: phase_name(news.phase).to_owned(),
            done: start + (0.9 - start) * news.done,
            remaining_seconds: None,
            loss: news.loss,
            held_out_accuracy: news.held_out_accuracy,
        });
    })?;
    let fit_seconds = began.elapsed().as_secs_f64();
    let Trained { head, recipe, reason, report: cross_validation, .. } = fitted;
    let learning_curve = learning_curve(&training.samples(&rows), &recipe, &options, cancel, tell)?;

    tell(JobProgress { phase: "judging".to_owned(), done: 0.95, ..JobProgress::default() });
    let held_out = Labelled::read(store, &request.dataset, key, Split::HeldOut)?;
    let Judgement { new, live, has_live } = judge(engine, request, &head, &held_out, cancel)?;
    let report = TrainingReport {
        kind: head.kind(),
        reason,
        pinned: new.is_some(),
        held_out: new.clone().unwrap_or_else(|| cross_validation.clone()),
        cross_validation,
        temperature: head.temperature(),
        live: live.clone(),
        embedding_seconds,
        fit_seconds,
        train_count: training.len() as u64,
        seed: request.options.seed,
        learning_curve,
    };
    let head = head.with_provenance(Provenance {
        backbone: request.backbone.to_string(),
        backbone_sha256: backbone.network.digest().to_string(),
        dataset: request.dataset.to_string(),
        dataset_snapshot: snapshot.digest.to_string(),
        samples: training.len() as u64,
        seed: request.options.seed,
        options: serde_json::to_value(&request.options)?,
        scores: serde_json::json!({
            "accuracy": report.held_out.accuracy,
            "ece": report.held_out.ece_after,
        }),
    });
    // The last moment at which nothing has happened yet.
    cancel.check()?;
    let record = HeadRecord {
        backbone: request.backbone.clone(),
        job: Some(id.0),
        options: Some(request.options.clone()),
        report: Some(report.clone()),
    };
    let version = versions::add(store, &request.head, &head, &record)?;
    let decision = decide(&request.promotion, new.as_ref(), live.as_ref(), has_live);
    if decision.promote {
        store.activate_head_version(&request.head, version)?;
    }
    store.prune_head_versions(&request.head, KEPT_VERSIONS)?;
    versions::publish(engine, store, &request.head)?;
    let (promoted, message) = (decision.promote, decision.message);
    Ok(TrainingOutcome { version, promoted, message, report })
}

/// Whether more samples would help; empty for many samples, where finding out would take long and
/// the answer is nearly always no.
fn learning_curve(
    samples: &train::Samples<'_>,
    recipe: &train::Recipe,
    options: &train::Options,
    cancel: &Cancel,
    tell: &mut dyn FnMut(JobProgress),
) -> Result<Vec<CurvePoint>, LearningError> {
    if samples.len() > CURVE_SAMPLES {
        return Ok(Vec::new());
    }
    tell(JobProgress { phase: "learning curve".to_owned(), done: 0.9, ..JobProgress::default() });
    match train::learning_curve(samples, recipe, options, cancel, &mut |_| {}) {
        Ok(points) => Ok(points
            .into_iter()
            .map(|point| CurvePoint { samples: point.samples as u64, accuracy: point.accuracy })
            .collect()),
        Err(train::TrainError::Cancelled(reason)) => Err(reason.into()),
        // A class with too few samples to be divided: the head is good without the curve.
        Err(error) => {
            tracing::debug!(%error, "no learning curve");
            Ok(Vec::new())
        }
    }
}

/// Two versions on the same held-out samples.
struct Judgement {
    /// `None` where there are no such samples.
    new: Option<Report>,
    /// `None` too where no version is live, or it cannot be compared.
    live: Option<Report>,
    has_live: bool,
}

/// Judges the new head and the live one.
fn judge(
    engine: &Engine,
    request: &TrainingRequest,
    new: &Head,
    held_out: &Labelled,
    cancel: &Cancel,
) -> Result<Judgement, LearningError> {
    let target = Target::Head { name: request.head.to_string(), version: None };
    let live = engine.snapshot().resolve(&target).ok().and_then(|answerer| answerer.head);
    let has_live = live.is_some();
    let Some(rows) = held_out.rows() else {
        return Ok(Judgement { new: None, live: None, has_live });
    };
    let samples = held_out.samples(&rows);
    let new = Some(train::evaluate(new, &samples, cancel)?);
    // A live version on another backbone takes other embeddings: it cannot be compared.
    let live = live
        .filter(|live| live.backbone == request.backbone)
        .map(|live| train::evaluate(&live.head, &samples, cancel))
        .transpose()?;
    Ok(Judgement { new, live, has_live })
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Selecting => "selecting",
        Phase::Fitting => "fitting",
        Phase::Novelty => "novelty",
    }
}
