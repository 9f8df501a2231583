//! `graftd dataset report`: what is likely wrong with a folder of labelled photographs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::class_folder::{ClassFolder, Embedded, Embedder};
use super::preprocessing::PreprocessingFlags;
use super::{CliError, Global, Outcome};
use crate::base::cancel::Cancel;
use crate::terminal::print;
use crate::train::doctor::{Diagnosis, Flaw, examine};

/// Findings of one sort that a person is shown; `--json` has all.
const SHOWN: usize = 20;

/// Look after a dataset.
#[derive(Args, Debug)]
pub(crate) struct Dataset {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Find duplicates, likely wrong labels, poor photographs and thin classes in a folder.
    Report(ReportCommand),
}

#[derive(Args, Debug)]
struct ReportCommand {
    /// The folder: one folder a class.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The backbone; default as the daemon chooses.
    #[arg(long, value_name = "ID")]
    backbone: Option<String>,
    /// Of the cross-validation that finds wrong labels.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Worker threads; default one a core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Dataset {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let Command::Report(report) = &self.command;
        report.run(global)
    }
}

impl ReportCommand {
    fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let folder = ClassFolder::read(&self.folder)?;
        let embedder = Embedder::start(
            &global.state_dir(),
            self.backbone.as_deref(),
            &self.preprocessing,
            self.threads,
            true,
        )?;
        let embedded = folder.embed(&embedder)?;
        let rows = embedded.rows()?;
        let samples = embedded.samples(&rows);
        let diagnosis = examine(&samples, &embedded.facts, self.seed, &Cancel::default())?;
        if self.json {
            print::json(&object(&diagnosis, &embedded));
        } else {
            print::text(text(&diagnosis, &embedded));
        }
        Ok(if embedded.failed == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }
}

fn flaw_name(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Tiny => "tiny",
        Flaw::Blurred => "blurred",
        Flaw::OneColoured => "one-coloured",
    }
}

fn object(diagnosis: &Diagnosis, embedded: &Embedded) -> Value {
    let (names, classes) = (&embedded.names, &embedded.classes);
    json!({
        "counts": diagnosis.counts,
        "imbalance": diagnosis.imbalance,
        "few_samples": diagnosis.few.iter().map(|&class| &classes[class]).collect::<Vec<_>>(),
        "duplicates": diagnosis.duplicates.iter().map(|pair| json!({
            "first": names[pair.first],
            "second": names[pair.second],
            "similarity": pair.similarity,
            "across_classes": pair.across_classes,
        })).collect::<Vec<_>>(),
        "likely_wrong_labels": diagnosis.doubts.iter().map(|doubt| json!({
            "sample": names[doubt.sample],
            "label": classes[doubt.labelled],
            "likely": classes[doubt.likely],
            "confidence": doubt.confidence,
        })).collect::<Vec<_>>(),
        "poor_photographs": diagnosis.flaws.iter().map(|&(sample, flaw)| json!({
            "sample": names[sample],
            "flaw": flaw_name(flaw),
        })).collect::<Vec<_>>(),
        "most_confused": diagnosis.confused.iter().map(|&(truth, called, count)| json!({
            "label": classes[truth],
            "called": classes[called],
            "samples": count,
        })).collect::<Vec<_>>(),
        "accuracy": diagnosis.accuracy,
    })
}

fn text(diagnosis: &Diagnosis, embedded: &Embedded) -> String {
    let (names, classes) = (&embedded.names, &embedded.classes);
    let mut text = String::new();
    for count in &diagnosis.counts {
        text.push_str(&format!("{:6}  {}\n", count.samples, count.label));
    }
    text.push_str(&format!("largest to smallest class: {:.1} to 1\n", diagnosis.imbalance));
    if let Some(accuracy) = diagnosis.accuracy {
        text.push_str(&format!("{:.1} % right in cross-validation\n", 100.0 * accuracy));
    }
    let few = diagnosis.few.iter().map(|&class| classes[class].clone()).collect();
    section(&mut text, "classes with fewer than 20 samples", few);
    let duplicates = diagnosis.duplicates.iter().map(|pair| {
        let across = if pair.across_classes { "  DIFFERENT LABELS" } else { "" };
        format!("{:.3}  {} = {}{across}", pair.similarity, names[pair.first], names[pair.second])
    });
    section(&mut text, "duplicates and near-duplicates", duplicates.collect());
    let doubts = diagnosis.doubts.iter().map(|doubt| {
        let (sample, likely) = (&names[doubt.sample], &classes[doubt.likely]);
        format!("{sample}: rather {likely} ({:.0} %)", 100.0 * doubt.confidence)
    });
    section(&mut text, "labels that are likely wrong", doubts.collect());
    let flaws = diagnosis.flaws.iter();
    let flaws = flaws.map(|&(sample, flaw)| format!("{}: {}", names[sample], flaw_name(flaw)));
    section(&mut text, "poor photographs", flaws.collect());
    let confused = diagnosis.confused.iter().map(|&(truth, called, count)| {
        format!("{count:4}  {} called {}", classes[truth], classes[called])
    });
    section(&mut text, "most confused", confused.collect());
    text
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        text.push_str(&format!("\nno {title}\n"));
        return;
    }
    text.push_str(&format!("\n{title} ({}):\n", lines.len()));
    for line in lines.iter().take(SHOWN) {
        text.push_str(&format!("  {line}\n"));
    }
    if lines.len() > SHOWN {
        text.push_str(&format!("  and {} more (--json has all)\n", lines.len() - SHOWN));
    }
}
