//! `graftctl train` and `graftctl jobs`: training on a device.

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::{Outcome, output};
use crate::client::messages::{
    Evaluation, FeatureTransform, HeadKind, Job, JobState, ListJobsRequest, Promotion,
    PromotionPolicy, StartTrainingRequest, TrainingOptions,
};
use crate::client::{Client, ClientError, ErrorKind};

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
    /// Let large classes count for more than small ones.
    #[arg(long)]
    unbalanced: bool,
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
    /// Go on learning each new sample of the dataset as it comes; only with `--kind slda`.
    #[arg(long)]
    follow: bool,
    /// When the new version goes live.
    #[arg(long, value_enum, default_value_t = Promote::IfBetter)]
    promote: Promote,
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
            balance_classes: Some(!self.unbalanced),
            label_smoothing: self.label_smoothing,
            transform: FeatureTransform::from(self.transform).into(),
            augmentations: self.augment,
            false_alarm_rate: Some(self.false_alarms),
            follow_dataset: self.follow,
            ..TrainingOptions::default()
        };
        let policy = PromotionPolicy::from(self.promote).into();
        let request = StartTrainingRequest {
            head: self.head,
            dataset: self.dataset,
            backbone: self.backbone,
            options: Some(options),
            promotion: Some(Promotion { policy, ..Promotion::default() }),
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
                self.list(&client.list_jobs(ListJobsRequest::default()).await?.jobs);
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
        let mut table = output::table(&["job", "state", "head", "dataset", "version", "live"]);
        for job in jobs {
            table.add_row([
                job.id.clone(),
                state(job),
                job.head.clone(),
                job.dataset.clone(),
                if job.head_version > 0 { job.head_version.to_string() } else { String::new() },
                if job.promoted { "yes".to_owned() } else { String::new() },
            ]);
        }
        output::print_table(&table);
    }
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
            if let Some(held_out) = &report.held_out {
                show_evaluation(held_out);
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
    // Classes that do not exclude each other are not taken for one another.
    let width = if found.confusion_matrix.is_empty() { 0 } else { found.classes.len() };
    let mut header = vec!["class".to_owned(), "precision".to_owned(), "recall".to_owned()];
    header.extend(found.classes.iter().take(width).map(|class| class.label.clone()));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = output::table(&header);
    let mut rows = found.confusion_matrix.chunks(width.max(1));
    for class in &found.classes {
        let mut cells = vec![
            class.label.clone(),
            format!("{:.3}", class.precision),
            format!("{:.3}", class.recall),
        ];
        cells.extend(rows.next().unwrap_or_default().iter().map(u64::to_string));
        table.add_row(cells);
    }
    let numbers: Vec<usize> = (1..3 + width).collect();
    output::align_right(&mut table, &numbers);
    output::print_table(&table);
}

fn object(job: &Job) -> Value {
    let report = job.report.as_ref().map(|report| {
        json!({
            "kind": report.kind().as_str_name().trim_start_matches("HEAD_KIND_").to_lowercase(),
            "accuracy": report.held_out.as_ref().map(|found| found.accuracy),
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
