//! `graftctl train` and `graftctl jobs`: training on a device.

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::{Outcome, output};
use crate::client::messages::{
    Evaluation, FeatureTransform, HeadKind, Job, JobState, ListJobsRequest, NoveltyMethod,
    Promotion, PromotionPolicy, StartTrainingRequest, TrainingOptions,
};
use crate::client::{Client, ClientError, ErrorKind};
use crate::terminal::{ClassLine, scores_text};

/// Train a head on the device and watch it.
#[derive(Args, Debug)]
pub struct Train {
    /// The dataset.
    #[arg(long)]
    dataset: String,
    /// The head; a new one is made, of an old one the next version.
    #[arg(long)]
    head: String,
    /// The backbone. Default: the head's own, else the device's choice.
    #[arg(long, default_value = "", hide_default_value = true)]
    backbone: String,
    /// The kind of head.
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    kind: Kind,
    /// Of everything random.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folds of the cross-validation.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=20))]
    folds: u32,
    /// Let every class count alike, however many samples it has. Default: every sample counts alike.
    #[arg(long)]
    balance: bool,
    /// Probability taken from the true class and spread over all, 0 to 0.5.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    label_smoothing: f32,
    /// How embeddings are prepared.
    #[arg(long, value_enum, default_value_t = Transform::Auto)]
    transform: Transform,
    /// Changed copies of each photograph that are learnt too: mirrored, cut, brighter or darker.
    #[arg(long, default_value_t = 0, value_name = "COPIES")]
    augment: u32,
    /// Share of known samples that may come back as unknown.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    false_alarms: f32,
    /// How novelty is measured: by the distance to the nearest class, or by the energy of the logits,
    /// which takes no memory and finds fewer unknowns. Default: mahalanobis, with `--follow` energy.
    #[arg(long, value_enum)]
    novelty: Option<Novelty>,
    /// Go on learning each new sample of the dataset as it comes; only with `--kind slda`.
    #[arg(long)]
    follow: bool,
    /// Do not measure whether more samples would help, which takes about as long as the fit itself.
    #[arg(long)]
    no_learning_curve: bool,
    /// When the new version goes live.
    #[arg(long, value_enum, default_value_t = Promote::IfBetter)]
    promote: Promote,
    /// How far accuracy may lie, with `--promote if-better`, below what went live before, 0 to 1.
    /// Default: 0.01.
    #[arg(long, value_name = "SHARE")]
    tolerance: Option<f32>,
    /// How far the recall of any class may fall, 0 to 1. Default: 0.1.
    #[arg(long, value_name = "SHARE")]
    class_tolerance: Option<f32>,
    /// Return at once; `graftctl jobs watch` shows how it goes.
    #[arg(long)]
    detach: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Auto,
    Softmax,
    Lda,
    Slda,
    Prototype,
    Knn,
    Mlp,
    /// Classes that do not exclude each other.
    MultiLabel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transform {
    /// What suits the kind.
    Auto,
    /// As they are.
    None,
    /// Mean 0 and variance 1 in each feature.
    Standardize,
    /// Length 1.
    Normalize,
}

impl From<Transform> for FeatureTransform {
    fn from(transform: Transform) -> Self {
        match transform {
            Transform::Auto => Self::Unspecified,
            Transform::None => Self::None,
            Transform::Standardize => Self::Standardize,
            Transform::Normalize => Self::Normalize,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Novelty {
    Mahalanobis,
    Energy,
}

impl From<Option<Novelty>> for NoveltyMethod {
    fn from(novelty: Option<Novelty>) -> Self {
        match novelty {
            None => Self::Unspecified,
            Some(Novelty::Mahalanobis) => Self::Mahalanobis,
            Some(Novelty::Energy) => Self::Energy,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Promote {
    Manual,
    IfBetter,
    Always,
}

impl From<Kind> for HeadKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Auto => Self::Unspecified,
            Kind::Softmax => Self::Softmax,
            Kind::Lda => Self::Lda,
            Kind::Slda => Self::Slda,
            Kind::Prototype => Self::Prototype,
            Kind::Knn => Self::Knn,
            Kind::Mlp => Self::Mlp,
            Kind::MultiLabel => Self::MultiLabel,
        }
    }
}

impl From<Promote> for PromotionPolicy {
    fn from(promote: Promote) -> Self {
        match promote {
            Promote::Manual => Self::Manual,
            Promote::IfBetter => Self::IfBetter,
            Promote::Always => Self::Always,
        }
    }
}

impl Train {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let options = TrainingOptions {
            kind: HeadKind::from(self.kind).into(),
            seed: self.seed,
            folds: Some(self.folds),
            balance_classes: self.balance.then_some(true),
            label_smoothing: self.label_smoothing,
            transform: FeatureTransform::from(self.transform).into(),
            augmentations: self.augment,
            false_alarm_rate: Some(self.false_alarms),
            follow_dataset: self.follow,
            novelty: NoveltyMethod::from(self.novelty).into(),
            learning_curve: self.no_learning_curve.then_some(false),
            ..TrainingOptions::default()
        };
        let policy = PromotionPolicy::from(self.promote).into();
        let request = StartTrainingRequest {
            head: self.head,
            dataset: self.dataset,
            backbone: self.backbone,
            options: Some(options),
            promotion: Some(Promotion {
                policy,
                tolerance: self.tolerance,
                class_tolerance: self.class_tolerance,
            }),
            ..StartTrainingRequest::default()
        };
        let job = client.start_training(request).await?.ok_or_else(no_job)?;
        let job = if self.detach { job } else { watch(client, &job.id).await? };
        Ok(show_end(&job, self.json))
    }
}

#[derive(Args, Debug)]
pub struct Jobs {
    /// Print one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<JobsAction>,
}

#[derive(Debug, Subcommand)]
enum JobsAction {
    /// List them, the latest first (the default).
    List,
    /// Show one.
    Show {
        /// The job's id.
        id: String,
    },
    /// Watch one until it has ended.
    Watch {
        /// The job's id.
        id: String,
    },
    /// Begin the training of an ended job again, as one that a restart interrupted.
    Restart {
        /// The job's id.
        id: String,
    },
    /// Tell one to stop.
    Cancel {
        /// The job's id.
        id: String,
    },
}

impl Jobs {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        match &self.action {
            None | Some(JobsAction::List) => {
                self.list(&all_jobs(client).await?);
            }
            Some(JobsAction::Show { id }) => {
                let job = client.get_job(id).await?.ok_or_else(no_job)?;
                show_end(&job, self.json);
            }
            Some(JobsAction::Watch { id }) => {
                return Ok(show_end(&watch(client, id).await?, self.json));
            }
            Some(JobsAction::Restart { id }) => {
                let request =
                    StartTrainingRequest { restart_job: id.clone(), ..Default::default() };
                self.list(client.start_training(request).await?.as_slice());
            }
            Some(JobsAction::Cancel { id }) => {
                self.list(client.cancel_job(id).await?.as_slice());
            }
        }
        Ok(Outcome::Complete)
    }

    fn list(&self, jobs: &[Job]) {
        if self.json {
            jobs.iter().for_each(|job| output::json_line(&object(job)));
            return;
        }
        let mut table =
            output::table(&["job", "state", "head", "dataset", "version", "live", "why not"]);
        for job in jobs {
            table.add_row([
                job.id.clone(),
                state(job),
                job.head.clone(),
                job.dataset.clone(),
                if job.head_version > 0 { job.head_version.to_string() } else { String::new() },
                if job.promoted { "yes".to_owned() } else { String::new() },
                why_not(job),
            ]);
        }
        output::print_table(&table);
    }
}

/// Every job that the device remembers, page by page.
async fn all_jobs(client: &Client) -> Result<Vec<Job>, ClientError> {
    let mut jobs = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest { page_token, ..ListJobsRequest::default() };
        let page = client.list_jobs(request).await?;
        jobs.extend(page.jobs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(jobs);
        }
    }
}

/// Why what a job made is not live, short enough for a list; `jobs show` has the whole.
fn why_not(job: &Job) -> String {
    const SHOWN: usize = 60;
    let reason = match &job.failure {
        Some(failure) => &failure.message,
        None if job.promoted => return String::new(),
        None => &job.promotion_message,
    };
    let line = reason.lines().next().unwrap_or_default();
    if line.chars().count() <= SHOWN {
        return line.to_owned();
    }
    line.chars().take(SHOWN - 1).chain(['…']).collect()
}

fn no_job() -> ClientError {
    ClientError::local(ErrorKind::Internal, "the device answered without a job")
}

fn state(job: &Job) -> String {
    job.state().as_str_name().trim_start_matches("JOB_STATE_").to_lowercase()
}

/// Shows a job's progress until it has ended.
async fn watch(client: &Client, id: &str) -> Result<Job, ClientError> {
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {msg}") {
        bar.set_style(style);
    }
    let mut news = client.watch_job(id).await?;
    let mut latest = None;
    while let Some(job) = news.next().await {
        let job = job?;
        bar.set_position((job.progress * 1000.0) as u64);
        let accuracy = job.held_out_accuracy.map(|a| format!(", {:.1} % so far", 100.0 * a));
        let left = job.remaining_seconds.map(|s| format!(", {s:.0} s left"));
        let phase = if job.phase.is_empty() { state(&job) } else { job.phase.clone() };
        bar.set_message(phase + &accuracy.unwrap_or_default() + &left.unwrap_or_default());
        latest = Some(job);
    }
    bar.finish_and_clear();
    latest.ok_or_else(no_job)
}

/// Prints how a job ended.
fn show_end(job: &Job, json: bool) -> Outcome {
    if json {
        output::json_line(&object(job));
    } else {
        output::line(format_args!("job {}: {}", job.id, state(job)));
        if let Some(failure) = &job.failure {
            output::line(&failure.message);
        }
        if let Some(report) = &job.report {
            output::line(format_args!(
                "{}@{}: {}",
                job.head, job.head_version, report.kind_message
            ));
            match &report.held_out {
                Some(held_out) => show_evaluation(held_out),
                None => output::line(format_args!(
                    "no held-out samples; {:.1} % right over the folds of the cross-validation",
                    100.0 * report.cross_validation_accuracy
                )),
            }
            output::line(format_args!(
                "calibration error {:.3} before, {:.3} after the temperature ({:.2})",
                report.ece_before, report.ece_after, report.temperature
            ));
            for point in &report.learning_curve {
                let (samples, accuracy) = (point.train_count, 100.0 * point.accuracy);
                output::line(format_args!("trained on {samples:6} samples: {accuracy:.1} %"));
            }
            if !report.learning_curve_message.is_empty() {
                output::line(&report.learning_curve_message);
            }
            let live = if job.promoted { "live" } else { "not live" };
            output::line(format_args!("{live}: {}", job.promotion_message));
        }
    }
    match job.state() {
        JobState::Failed | JobState::Cancelled | JobState::Interrupted => Outcome::SomeFailed,
        JobState::Unspecified | JobState::Queued | JobState::Running | JobState::Succeeded => {
            Outcome::Complete
        }
    }
}

/// Accuracy, the scores of the classes, and which is taken for which.
pub fn show_evaluation(found: &Evaluation) {
    output::line(format_args!(
        "{:.1} % of {} samples right (95 % interval {:.1} to {:.1})",
        100.0 * found.accuracy,
        found.sample_count,
        100.0 * found.accuracy_low,
        100.0 * found.accuracy_high,
    ));
    let lines = found.classes.iter().map(|class| ClassLine {
        label: class.label.clone(),
        samples: class.sample_count,
        precision: class.precision.into(),
        recall: class.recall.into(),
        f1: class.f1.into(),
    });
    output::line(scores_text(&lines.collect::<Vec<_>>(), &confusion(found)).trim_end());
}

/// `confusion[truth][prediction]` in samples; empty where classes do not exclude each other, or there
/// are too many.
pub fn confusion(found: &Evaluation) -> Vec<Vec<u32>> {
    let count = |count: &u64| u32::try_from(*count).unwrap_or(u32::MAX);
    let rows = found.confusion_matrix.chunks(found.classes.len().max(1));
    rows.map(|row| row.iter().map(count).collect()).collect()
}

/// Scores by label, as `graftd train --json` has them.
pub fn per_class(found: &Evaluation) -> Value {
    let scores = found.classes.iter().map(|class| {
        let scores = json!({
            "samples": class.sample_count,
            "precision": class.precision,
            "recall": class.recall,
            "f1": class.f1,
        });
        (class.label.clone(), scores)
    });
    Value::Object(scores.collect())
}

fn object(job: &Job) -> Value {
    let report = job.report.as_ref().map(|report| {
        let held_out = report.held_out.as_ref();
        let curve = report
            .learning_curve
            .iter()
            .map(|point| json!({ "samples": point.train_count, "accuracy": point.accuracy }));
        json!({
            "per_class": held_out.map(per_class),
            "confusion": held_out.map(confusion),
            "learning_curve": curve.collect::<Vec<_>>(),
            "kind_message": report.kind_message,
            "kind": report.kind().as_str_name().trim_start_matches("HEAD_KIND_").to_lowercase(),
            "accuracy": report.held_out.as_ref().map(|found| found.accuracy),
            "cross_validation_accuracy": report.cross_validation_accuracy,
            "folds": report.folds,
            "live_accuracy": report.live.as_ref().map(|found| found.accuracy),
            "temperature": report.temperature,
            "ece_before": report.ece_before,
            "ece_after": report.ece_after,
            "embedding_seconds": report.embedding_seconds,
            "fit_seconds": report.fit_seconds,
            "train_count": report.train_count,
        })
    });
    json!({
        "job": job.id,
        "state": state(job),
        "head": job.head,
        "dataset": job.dataset,
        "backbone": job.backbone,
        "version": job.head_version,
        "promoted": job.promoted,
        "promotion_message": job.promotion_message,
        "report": report,
        "error": job.failure.as_ref().map(|failure| &failure.message),
    })
}
