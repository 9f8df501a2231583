//! One training, from a request to a version that is live or says why it is not.

use std::sync::Arc;
use std::time::Instant;

use super::embedding::{embed_copies, embed_missing};
use super::job::{
    CurvePoint, JobProgress, TrainingOptions, TrainingOutcome, TrainingReport, TrainingRequest,
};
use super::labelled::{Ids, Labelled, Reading, Several};
use super::lineage::{self, Rivals};
use super::versions::{self, Follow, HeadRecord};
use super::{Decision, LearningError, Line, Policy, Promotion, Rival, decide};
use crate::base::cancel::{Cancel, Cancelled};
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answerer, Engine, LiveBackbone, LiveHead, Target};
use crate::heads::{Head, Kind, Provenance, Scores};
use crate::store::{JobId, SampleKey, Split, Store};
use crate::train::{self, LabelSets, Phase, Progress, Report, Trained, Work};

/// Versions of a head that are kept.
const KEPT_VERSIONS: usize = 10;
/// Values of all embeddings, with those of changed copies, at most: 200 MB.
const MAXIMUM_VALUES: usize = 100_000_000;
/// Share of the progress bar that embedding takes where everything is to be embedded, copies included.
const EMBEDDING_SHARE: f32 = 0.5;
/// Where on the bar the held-out samples are judged.
const JUDGING: f32 = 0.95;

/// Hears how far a training is.
pub(super) type Tell<'a> = dyn FnMut(JobProgress) + Send + 'a;

/// Runs a training to its end; on a thread that may be slow.
pub(super) fn run(
    engine: &Engine,
    store: &Store,
    id: JobId,
    request: &TrainingRequest,
    cancel: &Cancel,
    tell: &mut Tell<'_>,
) -> Result<TrainingOutcome, LearningError> {
    let target = Target::Backbone(request.backbone.to_string());
    let backbone = engine.snapshot().resolve(&target)?.backbone;
    let key = backbone.embedding_key();
    let began = Instant::now();
    // Told before anything is embedded for it.
    let labels = store.dataset_stats(&request.dataset)?.labels;
    train::check_class_count(labels.values().filter(|count| count.train > 0).count())?;
    let newest = store.newest_sample(&request.dataset)?;
    // Each photograph is run once, and once for every copy.
    let runs = 1 + request.options.augmentations;
    let mut reached = 0.0;
    let mut told = |done: f32| {
        reached = EMBEDDING_SHARE * done / runs as f32;
        tell(phase("embedding", reached));
    };
    embed_missing(engine, store, &request.dataset, &backbone, None, cancel, &mut told)?;
    let goes_on = || cancel.check().is_ok();
    let Some(snapshot) = store.snapshot_while(&request.dataset, &goes_on)? else {
        return Err(cancel.check().err().unwrap_or(Cancelled::ByCaller).into());
    };
    let multi_label = request.options.kind == Some(Kind::MultiLabel);
    let several = if multi_label { Several::Keep } else { Several::Refuse };
    let reading = Reading::of(Split::Train, several);
    let mut training = Labelled::read(store, &request.dataset, key, reading, cancel)?;
    let (train_count, trained) = (training.len() as u64, training.known());
    let learnt = request.options.follow_dataset.then(|| training.learnt().to_text());
    if request.options.follow_dataset {
        training.forget_weights();
    }
    if request.options.augmentations > 0 {
        add_copies(engine, store, request, &backbone, &mut training, reached, cancel, tell)?;
        reached = EMBEDDING_SHARE;
    }
    let embedding_seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let fitted = fit(training, request, reached, cancel, tell)?;
    let fit_seconds = began.elapsed().as_secs_f64();
    let Fitted { head, reason, cross_validation, folds, learning_curve } = fitted;

    tell(phase("judging", JUDGING));
    let judges = Judges { engine, store, request, trained: &trained, cancel };
    let judgement = judges.judge(&head, key)?;
    let (new, live) = (&judgement.new, judgement.live());
    let report = TrainingReport {
        kind: head.kind(),
        reason,
        pinned: new.is_some(),
        held_out: new.clone().unwrap_or_else(|| cross_validation.clone()),
        cross_validation,
        folds: folds.clone(),
        temperature: head.temperature(),
        live: live.cloned(),
        embedding_seconds,
        fit_seconds,
        train_count,
        seed: request.options.seed,
        learning_curve,
    };
    let head = head.with_provenance(Provenance {
        backbone: request.backbone.to_string(),
        backbone_sha256: backbone.network.digest().to_string(),
        embeddings: backbone.embedding_key().to_string(),
        dataset: request.dataset.to_string(),
        dataset_snapshot: snapshot.digest.to_string(),
        samples: train_count,
        seed: request.options.seed,
        options: serde_json::to_value(&request.options)?,
        scores: serde_json::to_value(match new {
            Some(new) => scores(new),
            None => Scores { folds, ..scores(&report.cross_validation) },
        })?,
    });
    // The last moment at which nothing has happened yet.
    cancel.check()?;
    let follow = request.options.follow_dataset.then(|| Follow {
        dataset: request.dataset.clone(),
        promotion: request.promotion,
        samples: train_count,
        through: newest.map_or(0, SampleKey::to_token),
        learnt,
    });
    let decision = decide(&request.promotion, judgement.new.as_ref(), judgement.judged.as_deref());
    let record = HeadRecord {
        backbone: request.backbone.clone(),
        job: Some(id.0),
        options: Some(request.options.clone()),
        report: Some(report.clone()),
        about: None,
        follow,
        line: judgement.line(&request.promotion, &decision),
    };
    let version = versions::add(store, &request.head, &head, &record)?;
    let live = judgement.rivals.live();
    let decision = promote(store, request, live, version, decision);
    // Whatever fails from here on: what answers is what the store says is live.
    versions::publish(engine, store, &request.head)?;
    let Decision { promote, message } = decision?;
    if let Err(error) = prune(engine, store, &request.head) {
        tracing::warn!(head = %request.head, %error, "old versions could not be deleted");
    }
    Ok(TrainingOutcome { version, promoted: promote, message, report })
}

/// Deletes the oldest versions; those that cannot be deleted now go after the next training.
fn prune(engine: &Engine, store: &Store, head: &Name) -> Result<(), LearningError> {
    let line = lineage::kept(store, head)?;
    if store.prune_head_versions(head, KEPT_VERSIONS, &line)?.is_empty() {
        return Ok(());
    }
    versions::publish(engine, store, head)
}

/// Makes a version live, if that was decided. One that was compared with `live` replaces nothing else.
fn promote(
    store: &Store,
    request: &TrainingRequest,
    live: Option<u32>,
    version: u32,
    decision: Decision,
) -> Result<Decision, LearningError> {
    if !decision.promote {
        return Ok(decision);
    }
    if request.promotion.policy == Policy::Always {
        store.activate_head_version(&request.head, version)?;
        return Ok(decision);
    }
    if store.replace_active_head_version(&request.head, live, version)? {
        return Ok(decision);
    }
    let message = "another version was made live while it was judged: activate it by hand";
    Ok(Decision { promote: false, message: message.to_owned() })
}

/// What a head remembers of how it was judged.
pub(super) fn scores(report: &Report) -> Scores {
    let (accuracy, ece) = (Some(report.accuracy), Some(report.ece_after));
    Scores { accuracy, ece, folds: Vec::new() }
}

/// What fitting gives.
struct Fitted {
    head: Head,
    reason: String,
    cross_validation: Report,
    folds: Vec<f64>,
    learning_curve: Vec<CurvePoint>,
}

fn phase(name: &str, done: f32) -> JobProgress {
    JobProgress { phase: name.to_owned(), done, ..JobProgress::default() }
}

/// Fits a head. The samples are gone afterwards, before those that are held out are read: a device has
/// no memory for both.
fn fit(
    training: Labelled,
    request: &TrainingRequest,
    reached: f32,
    cancel: &Cancel,
    tell: &mut Tell<'_>,
) -> Result<Fitted, LearningError> {
    let Some(rows) = training.rows() else {
        return Err(LearningError::NoSamples(format!(
            "dataset {} has no labelled samples for training with an embedding by {}",
            request.dataset, request.backbone
        )));
    };
    if request.options.kind == Some(Kind::MultiLabel) {
        fit_sets(&training.label_sets(&rows), &request.options, reached, cancel, tell)
    } else {
        fit_classes(&training.samples(&rows), &request.options, reached, cancel, tell)
    }
}

/// Adds changed copies of the training photographs; the bar stands at `reached`.
fn add_copies(
    engine: &Engine,
    store: &Store,
    request: &TrainingRequest,
    backbone: &Arc<LiveBackbone>,
    training: &mut Labelled,
    reached: f32,
    cancel: &Cancel,
    tell: &mut Tell<'_>,
) -> Result<(), LearningError> {
    let TrainingOptions { augmentations, seed, .. } = request.options;
    let (originals, copies) = (training.len(), training.len() * augmentations as usize);
    let values = (originals + copies) * backbone.network.embedding().width;
    if values > MAXIMUM_VALUES {
        return Err(LearningError::NoSamples(format!(
            "{} samples with {augmentations} copies each are too many for the memory of a device: \
             ask for fewer copies",
            training.len()
        )));
    }
    let ids = training.ids().to_vec();
    training.expect_copies(copies);
    let mut keep = |original, values: &[f32]| training.add_copy(original, values);
    let mut told = |done| tell(phase("augmenting", reached + (EMBEDDING_SHARE - reached) * done));
    let (of, which) = ((&request.dataset, ids.as_slice()), (augmentations, seed));
    embed_copies(engine, store, of, backbone, which, cancel, &mut keep, &mut told)?;
    if training.len() == originals {
        return Err(LearningError::NoSamples(format!(
            "dataset {} keeps no photographs that could be changed: train without augmentations",
            request.dataset
        )));
    }
    Ok(())
}

/// How the rest of the bar is divided: by samples times fits.
struct Bar {
    /// Where fitting begins and where it ends.
    fitting: (f32, f32),
}

impl Bar {
    fn new(reached: f32, work: &Work, options: &TrainingOptions) -> Self {
        let curve = if options.learning_curve { work.curve } else { 0.0 };
        let share = work.of_fit() / (work.of_fit() + curve).max(1.0);
        Self { fitting: (reached, reached + (JUDGING - reached) * share as f32) }
    }

    fn at(&self, news: Progress) -> JobProgress {
        let Progress { phase, done, loss, held_out_accuracy } = news;
        let (name, (from, to)) = match phase {
            Phase::Selecting => ("selecting", self.fitting),
            Phase::Fitting => ("fitting", self.fitting),
            Phase::Novelty => ("novelty", self.fitting),
            Phase::LearningCurve => ("learning curve", (self.fitting.1, JUDGING)),
        };
        let done = from + (to - from) * done;
        JobProgress {
            phase: name.to_owned(),
            done,
            remaining_seconds: None,
            loss,
            held_out_accuracy,
        }
    }
}

/// A head whose classes exclude each other.
fn fit_classes(
    samples: &train::Samples<'_>,
    wanted: &TrainingOptions,
    reached: f32,
    cancel: &Cancel,
    tell: &mut Tell<'_>,
) -> Result<Fitted, LearningError> {
    let options = wanted.to_train();
    let bar = Bar::new(reached, &Work::of(samples, &options), wanted);
    let mut told = |news| tell(bar.at(news));
    let trained = train::fit(samples, &options, cancel, &mut told)?;
    let Trained { head, recipe, reason, report: cross_validation, folds, .. } = trained;
    let learning_curve = if wanted.learning_curve {
        curve(train::learning_curve(samples, &recipe, &options, cancel, &mut told))?
    } else {
        Vec::new()
    };
    Ok(Fitted { head, reason, cross_validation, folds, learning_curve })
}

/// A head whose classes do not exclude each other.
fn fit_sets(
    samples: &LabelSets<'_>,
    wanted: &TrainingOptions,
    reached: f32,
    cancel: &Cancel,
    tell: &mut Tell<'_>,
) -> Result<Fitted, LearningError> {
    let options = wanted.to_train();
    let work = Work::of_sets(samples.sets.len(), &options);
    let bar = Bar::new(reached, &work, wanted);
    let selection = (work.selection / work.of_fit()) as f32;
    let mut told = |news| tell(bar.at(news));
    let (cross_validation, folds) =
        train::cross_validate_sets(samples, &options, cancel, &mut |done, accuracy| {
            told(Progress {
                phase: Phase::Selecting,
                done: selection * done,
                loss: None,
                held_out_accuracy: Some(accuracy),
            });
        })?;
    let head = train::fit_multi_label(samples, &options, cancel, &mut |iteration, loss| {
        told(Progress {
            phase: Phase::Fitting,
            done: selection + (1.0 - selection) * train::share_of_iterations(iteration),
            loss: Some(loss),
            held_out_accuracy: Some(cross_validation.accuracy),
        });
    })?;
    let learning_curve = if wanted.learning_curve {
        curve(train::learning_curve_of_sets(samples, &options, cancel, &mut told))?
    } else {
        Vec::new()
    };
    let reason = "one yes or no a class".to_owned();
    Ok(Fitted { head, reason, cross_validation, folds, learning_curve })
}

/// Whether more samples would help; empty where that cannot be measured.
fn curve(
    measured: Result<Vec<train::LearningPoint>, train::TrainError>,
) -> Result<Vec<CurvePoint>, LearningError> {
    match measured {
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

/// The new version and those beside which it has to stand, on the same held-out samples.
struct Judgement {
    /// `None` where there are no such samples.
    new: Option<Report>,
    rivals: Rivals,
    judged: Option<Vec<Rival>>,
}

impl Judgement {
    /// How the live version does, if it can be judged.
    fn live(&self) -> Option<&Report> {
        Some(&self.judged.as_ref()?.first()?.report)
    }

    fn line(&self, promotion: &Promotion, decision: &Decision) -> Line {
        self.rivals.line(promotion, decision, self.new.as_ref(), self.judged.as_deref())
    }
}

/// What judges a new version and those beside which it has to stand.
struct Judges<'a> {
    engine: &'a Engine,
    store: &'a Store,
    request: &'a TrainingRequest,
    /// What the new version learnt: a sample that was moved to the held-out side since judges nothing.
    trained: &'a Ids,
    cancel: &'a Cancel,
}

impl Judges<'_> {
    fn judge(&self, new: &Head, key: Digest) -> Result<Judgement, LearningError> {
        let held_out = self.held_out(new.kind(), key)?;
        let rows = held_out.rows();
        let here = |head: &Head| {
            rows.as_ref().map(|rows| held_out.judge(rows, head, self.cancel)).transpose()
        };
        let rivals = Rivals::of(self.engine, self.store, &self.request.head)?;
        let judged = rivals.judge(new.kind(), |rival| {
            if rival.backbone == self.request.backbone {
                return here(&rival.head);
            }
            match self.elsewhere(rival, &held_out) {
                Err(error) if !error.is_cancelled() => {
                    let (head, version) = (&rival.name, rival.version);
                    tracing::warn!(%head, version, %error, "a version cannot be judged");
                    Ok(None)
                }
                judged => judged,
            }
        })?;
        Ok(Judgement { new: here(new)?, rivals, judged })
    }

    /// The samples that judge heads of a kind. Several labels judge multi-label heads alone.
    fn held_out(&self, kind: Kind, key: Digest) -> Result<Labelled, LearningError> {
        let several = if kind == Kind::MultiLabel { Several::Keep } else { Several::Skip };
        let reading =
            Reading { without: Some(self.trained), ..Reading::of(Split::HeldOut, several) };
        Labelled::read(self.store, &self.request.dataset, key, reading, self.cancel)
    }

    /// How a version on another backbone does on the same samples; `None` where that backbone is not
    /// loaded or has not seen them all.
    fn elsewhere(
        &self,
        rival: &LiveHead,
        held_out: &Labelled,
    ) -> Result<Option<Report>, LearningError> {
        let Self { engine, store, request, cancel, .. } = *self;
        let target = Target::Backbone(rival.backbone.to_string());
        let Ok(Answerer { backbone, .. }) = engine.snapshot().resolve(&target) else {
            return Ok(None);
        };
        embed_missing(engine, store, &request.dataset, &backbone, None, cancel, &mut |_| {})?;
        let same = self.held_out(rival.head.kind(), backbone.embedding_key())?;
        if same.ids() != held_out.ids() {
            return Ok(None);
        }
        same.rows().map(|rows| same.judge(&rows, &rival.head, cancel)).transpose()
    }
}
