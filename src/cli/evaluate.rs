//! `graftd evaluate`: how good a saved head is on a folder of labelled photographs.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::class_folder::{ClassFolder, Embedder};
use super::preprocessing::PreprocessingFlags;
use super::train::{per_class, read_head, report_text, write};
use super::{CliError, Global, Outcome};
use crate::base::cancel::Cancel;
use crate::heads::Head;
use crate::terminal::print;
use crate::train::{Samples, compare, evaluate};

/// Judge a saved head on a folder of labelled photographs: one folder a class.
#[derive(Args, Debug)]
pub(crate) struct Evaluate {
    /// The folder: one folder a class.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The head, as `graftd train --save` wrote it.
    #[arg(long, value_name = "FILE")]
    head: PathBuf,
    /// Another head to compare with on the same photographs.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// The backbone; default the one that the head names.
    #[arg(long, value_name = "ID")]
    backbone: Option<String>,
    /// Also write what the head says of every photograph, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Worker threads; default one a core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let head = read_head(&self.head)?;
        let other = self.against.as_deref().map(read_head).transpose()?;
        let folder = ClassFolder::read(&self.folder)?;
        let named = Some(head.provenance().backbone.as_str()).filter(|name| !name.is_empty());
        let embedder = Embedder::start(
            &global.state_dir(),
            self.backbone.as_deref().or(named),
            &self.preprocessing,
            self.threads,
            false,
        )?;
        let backbone = embedder.backbone()?;
        for head in other.iter().chain([&head]) {
            if !backbone.suits(head) {
                let sha256 = &head.provenance().backbone_sha256;
                return Err(CliError::Other(format!(
                    "the head was trained on the backbone with SHA-256 {sha256} and the \
                     preprocessing of that time: name them by --backbone and the flags of `train`"
                )));
            }
        }
        let embedded = folder.embed(&embedder)?;
        let rows = embedded.rows()?;
        let samples = embedded.samples(&rows);
        let cancel = Cancel::default();
        let report = evaluate(&head, &samples, &cancel)?;
        let (unknown, lines) = predictions(&head, &samples, &embedded.names)?;
        if let Some(file) = &self.predictions {
            write(file, lines.as_bytes())?;
        }
        let comparison =
            other.as_ref().map(|old| compare(old, &head, &samples, &cancel)).transpose()?;
        if self.json {
            let object = json!({
                "kind": head.kind().name(),
                "classes": head.classes(),
                "samples": report.samples,
                "accuracy": report.accuracy,
                "interval": [report.interval.0, report.interval.1],
                "per_class": per_class(&report),
                "confusion": report.confusion,
                "ece_before": report.ece_before,
                "ece_after": report.ece_after,
                "unknown": unknown,
                "comparison": comparison,
            });
            print::json(&object);
        } else {
            print::line(format_args!(
                "{:.1} % right of {} (95 % interval {:.1} to {:.1} %), {:.1} % called unknown\n\n{}",
                100.0 * report.accuracy,
                report.samples,
                100.0 * report.interval.0,
                100.0 * report.interval.1,
                100.0 * unknown,
                report_text(&report)
            ));
            if let Some(c) = comparison {
                print::line(format_args!(
                    "against the other head: {} right only here, {} only there, {} both, {} neither; \
                     p = {:.3} that they are equally good",
                    c.only_new, c.only_old, c.both, c.neither, c.p_value
                ));
            }
        }
        Ok(if embedded.failed == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }
}

/// Share of the samples that the head's novelty model calls unknown (0 to 1), and a line a sample.
fn predictions(
    head: &Head,
    samples: &Samples<'_>,
    names: &[String],
) -> Result<(f64, String), CliError> {
    let mut row = vec![0.0_f32; samples.rows.width()];
    let (mut unknown, mut lines) = (0_u32, String::new());
    for (index, name) in names.iter().enumerate() {
        samples.rows.read(index, &mut row);
        let prediction = head.predict(&row).map_err(|error| CliError::Other(error.to_string()))?;
        unknown += u32::from(prediction.unknown);
        let object = json!({
            "image": name,
            "label": head.classes()[prediction.top()],
            "probabilities": prediction.probabilities,
            "novelty": prediction.novelty,
            "unknown": prediction.unknown,
        });
        lines.push_str(&format!("{object}\n"));
    }
    Ok((f64::from(unknown) / samples.len().max(1) as f64, lines))
}
