//! `graftd train`: teach a backbone the classes of a folder, and say how well it learnt them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::class_folder::{ClassFolder, Embedded, Embedder, progress_bar};
use super::preprocessing::PreprocessingFlags;
use super::{CliError, Global, Outcome};
use crate::base::{atomic, cancel::Cancel};
use crate::engine::learning::TrainingOptions;
use crate::heads::{Head, Kind, Provenance, Scores};
use crate::terminal::{ClassLine, print, scores_text};
use crate::train::{
    CrossValidation, LearningPoint, NoveltyMethod, Report, Samples, Trained, cross_validate, fit,
    learning_curve, stratified,
};

/// Teach a backbone the classes of a folder: one folder a class, pictures in it. Prints how well it
/// does on photographs that it was not shown.
#[derive(Args, Debug)]
pub(crate) struct Train {
    /// The folder: one folder a class.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The backbone; default as the daemon chooses.
    #[arg(long, value_name = "ID")]
    backbone: Option<String>,
    /// Kind of head; auto chooses by cross-validation.
    #[arg(long, default_value = "auto", value_parser = kind_names())]
    kind: String,
    /// Number of folds to judge it with.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=1000))]
    folds: u32,
    /// A JSON object from path below the folder to fold, instead of folds of our own.
    #[arg(long, value_name = "FILE", conflicts_with = "folds")]
    folds_file: Option<PathBuf>,
    /// Of everything random: the same seed gives the same head, byte for byte.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Let every class count alike, however many pictures it has. Default: every picture counts alike.
    #[arg(long)]
    balance: bool,
    /// Share of each target that is spread over all classes.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    label_smoothing: f32,
    /// Share of photographs of known classes that may be called unknown.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    false_alarms: f32,
    /// How novelty is measured: by the distance to the nearest class, or by the energy of the logits,
    /// which takes no memory and finds fewer unknowns. Default: mahalanobis.
    #[arg(long, value_enum)]
    novelty: Option<Novelty>,
    /// Also train on an eighth, a quarter and a half of the pictures: would more help?
    #[arg(long)]
    learning_curve: bool,
    /// Write the head (safetensors), for `graftd evaluate` or for import.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write backbone and head as one ONNX file.
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// Worker threads; default one a core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Novelty {
    Mahalanobis,
    Energy,
}

impl From<Novelty> for NoveltyMethod {
    fn from(novelty: Novelty) -> Self {
        match novelty {
            Novelty::Mahalanobis => Self::Mahalanobis,
            Novelty::Energy => Self::Energy,
        }
    }
}

fn kind_names() -> clap::builder::PossibleValuesParser {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::MultiLabel);
    ["auto"].into_iter().chain(kinds.map(Kind::name)).collect::<Vec<_>>().into()
}

impl Train {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let folder = ClassFolder::read(&self.folder)?;
        let embedder = Embedder::start(
            &global.state_dir(),
            self.backbone.as_deref(),
            &self.preprocessing,
            self.threads,
            false,
        )?;
        let embedded = folder.embed(&embedder)?;
        let rows = embedded.rows()?;
        let samples = embedded.samples(&rows);
        let assigned = self.assign_folds(&embedded, &samples)?;
        let chosen = self.options();
        let options = chosen.to_train();
        let cancel = Cancel::default();

        let began = Instant::now();
        let bar = progress_bar(1000, "training");
        let show = |from: f32, to: f32, done: f32| {
            bar.set_position((1000.0 * (from + (to - from) * done)) as u64);
        };
        let judged = cross_validate(&samples, &assigned, &options, &cancel, &mut |news| {
            show(0.0, 0.8, news.done);
        })?;
        let trained = fit(&samples, &options, &cancel, &mut |news| show(0.8, 1.0, news.done))?;
        let curve = if self.learning_curve {
            learning_curve(&samples, &trained.recipe, &options, &cancel, &mut |_| {})?
        } else {
            Vec::new()
        };
        bar.finish_and_clear();
        let fit_seconds = began.elapsed().as_secs_f64();

        self.write_files(&trained, &embedded, &embedder, &chosen, &judged)?;
        if self.json {
            let object = self.object(&trained, &judged, &embedded, fit_seconds, &curve);
            print::json(&object);
        } else {
            print::text(text(&trained, &judged, &embedded, fit_seconds, &curve));
        }
        Ok(if embedded.failed == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }

    /// In the shape in which a device keeps them, so that it can show those of a head from here.
    fn options(&self) -> TrainingOptions {
        TrainingOptions {
            kind: Kind::ALL.into_iter().find(|kind| kind.name() == self.kind),
            seed: self.seed,
            balance_classes: self.balance,
            label_smoothing: self.label_smoothing,
            false_alarm_rate: self.false_alarms,
            novelty: self.novelty.map(Into::into),
            ..TrainingOptions::default()
        }
    }

    fn assign_folds(
        &self,
        embedded: &Embedded,
        samples: &Samples<'_>,
    ) -> Result<Vec<usize>, CliError> {
        let Some(file) = &self.folds_file else {
            let (classes, folds) = (samples.classes.len(), self.folds as usize);
            return Ok(stratified(&samples.labels, classes, folds, self.seed));
        };
        let wrong = |reason: String| CliError::Other(format!("{}: {reason}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let folds: BTreeMap<String, i64> =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let of_samples: Result<Vec<i64>, CliError> = embedded
            .names
            .iter()
            .map(|name| {
                folds.get(name).copied().ok_or_else(|| wrong(format!("has no fold for {name:?}")))
            })
            .collect();
        let of_samples = of_samples?;
        let mut used = of_samples.clone();
        used.sort_unstable();
        used.dedup();
        Ok(of_samples.iter().map(|fold| used.binary_search(fold).unwrap_or(0)).collect())
    }

    fn write_files(
        &self,
        trained: &Trained,
        embedded: &Embedded,
        embedder: &Embedder,
        options: &TrainingOptions,
        judged: &CrossValidation,
    ) -> Result<(), CliError> {
        if self.save.is_none() && self.onnx.is_none() {
            return Ok(());
        }
        let backbone = embedder.backbone()?;
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        let head = trained.head.clone().with_provenance(Provenance {
            backbone: backbone.name.to_string(),
            backbone_sha256: backbone.network.digest().to_string(),
            embeddings: backbone.embedding_key().to_string(),
            dataset: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            dataset_snapshot: embedded.snapshot(),
            samples: embedded.names.len() as u64,
            seed: self.seed,
            options: json!(options),
            scores: json!(Scores {
                accuracy: Some(judged.accuracy()),
                ece: Some(judged.report.ece_after),
                folds: judged.accuracies.clone(),
            }),
        });
        if let Some(file) = &self.save {
            write(file, &head.to_bytes().map_err(other)?)?;
        }
        if let Some(file) = &self.onnx {
            write(file, &head.to_onnx(&backbone.network).map_err(other)?)?;
        }
        Ok(())
    }

    fn object(
        &self,
        trained: &Trained,
        judged: &CrossValidation,
        embedded: &Embedded,
        fit_seconds: f64,
        curve: &[LearningPoint],
    ) -> Value {
        let mut object = json!({
            "kind": trained.head.kind().name(),
            "classes": embedded.classes,
            "accuracy": judged.accuracy(),
            "folds": judged.accuracies,
            "per_class": per_class(&judged.report),
            "embedding_seconds": embedded.seconds,
            "fit_seconds": fit_seconds,
            "temperature": trained.head.temperature(),
            "ece_before": judged.report.ece_before,
            "ece_after": judged.report.ece_after,
        });
        if !judged.absent.is_empty() {
            object["absent"] = json!(judged.absent);
        }
        if self.learning_curve {
            object["learning_curve"] = json!(curve);
        }
        object
    }
}

/// Scores by label.
pub(super) fn per_class(report: &Report) -> Value {
    let scores = report.per_class.iter().map(|class| {
        let scores = json!({
            "samples": class.samples,
            "precision": class.precision,
            "recall": class.recall,
            "f1": class.f1,
        });
        (class.label.clone(), scores)
    });
    Value::Object(scores.collect::<Map<_, _>>())
}

/// Accuracy, scores by class and confusion matrix for a person.
pub(super) fn report_text(report: &Report) -> String {
    let lines = report.per_class.iter().map(|class| ClassLine {
        label: class.label.clone(),
        samples: class.samples as u64,
        precision: class.precision,
        recall: class.recall,
        f1: class.f1,
    });
    scores_text(&lines.collect::<Vec<_>>(), &report.confusion)
}

fn text(
    trained: &Trained,
    judged: &CrossValidation,
    embedded: &Embedded,
    fit_seconds: f64,
    curve: &[LearningPoint],
) -> String {
    let report = &judged.report;
    let (low, high) = report.interval;
    let mut text = format!(
        "{:.1} % right on photographs not shown before (95 % interval {:.1} to {:.1} %), {} samples, \
         {} folds\n\n{}\n",
        100.0 * judged.accuracy(),
        100.0 * low,
        100.0 * high,
        report.samples,
        judged.accuracies.len(),
        report_text(report)
    );
    for class in &judged.absent {
        text.push_str(&format!(
            "{class}: all pictures of some fold's test, so that its head does not have this class \
             and counts as wrong about them; the final head has it. More pictures of it help\n"
        ));
    }
    text.push_str(&format!("chosen: {}\n", trained.reason));
    text.push_str(&format!(
        "calibration error {:.3} before, {:.3} after the temperature ({:.2} in the final head)\n",
        report.ece_before,
        report.ece_after,
        trained.head.temperature()
    ));
    for point in curve {
        let LearningPoint { samples, accuracy } = point;
        text.push_str(&format!("trained on {samples:6} samples: {:.1} %\n", 100.0 * accuracy));
    }
    text.push_str(&format!("embeddings {:.1} s, training {fit_seconds:.1} s\n", embedded.seconds));
    text
}

/// Writes a result file.
pub(super) fn write(file: &Path, bytes: &[u8]) -> Result<(), CliError> {
    atomic::write(file, bytes)
        .map_err(|error| CliError::Other(format!("cannot write {}: {error}", file.display())))
}

fn other(error: impl std::fmt::Display) -> CliError {
    CliError::Other(error.to_string())
}

/// Reads a head that `--save` wrote.
pub(super) fn read_head(file: &Path) -> Result<Head, CliError> {
    let wrong =
        |error: &dyn std::fmt::Display| CliError::Other(format!("{}: {error}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| wrong(&error))?;
    Head::from_bytes(&bytes).map_err(|error| wrong(&error))
}
