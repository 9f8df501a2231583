//! `graftd models`: the backbones on this device, and those that can be had.

mod add;
mod inspect;
mod list;
mod pull;
mod remove;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::{CliError, Global, Outcome, held, output};
use crate::backbones::{Backbone, BackboneError, Backbones, CheckReport, Checker};
use crate::base::name::Name;
use crate::client::{ClientError, ErrorKind};
use crate::engine::KeeperError;
use crate::rpc;
use crate::store::StateLock;
use crate::terminal::print;
use crate::vision::Preprocessing;

/// The largest model file that is accepted, in bytes: what a protobuf message can hold.
const MAX_MODEL_BYTES: u64 = 2 << 30;

/// The backbones on this device, and those that can be had.
#[derive(Args, Debug)]
pub(crate) struct Models {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Add an ONNX file as a backbone.
    Add(add::Add),
    /// Download a backbone of the catalogue.
    Pull(pull::Pull),
    /// List the backbones on this device and in the catalogue.
    List(list::List),
    /// Describe a backbone and its layers.
    Inspect(inspect::Inspect),
    /// Remove a backbone from this device.
    Remove(remove::Remove),
}

impl Models {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        match &self.command {
            ModelsCommand::Add(command) => command.run(global),
            ModelsCommand::Pull(command) => command.run(global),
            ModelsCommand::List(command) => command.run(global),
            ModelsCommand::Inspect(command) => command.run(global),
            ModelsCommand::Remove(command) => command.run(global),
        }
    }
}

/// The backbones, with the right to change them: while a daemon holds the state folder there is
/// none, and the error says so, and what to do `instead`.
fn writable(global: &Global, instead: &str) -> Result<(Backbones, StateLock), CliError> {
    let state_dir = global.state_dir();
    let other = |reason: String| CliError::Other(reason);
    std::fs::create_dir_all(&state_dir)
        .map_err(|error| other(format!("{}: {error}", state_dir.display())))?;
    let lock = StateLock::acquire(&state_dir).map_err(|error| held(error, instead))?;
    let backbones = Backbones::new(&state_dir);
    backbones.clean()?;
    Ok((backbones, lock))
}

/// This program, as the child that tries a model.
fn checker() -> Result<Checker, CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::Other(format!("cannot find this program: {error}")))?;
    Ok(Checker::new(program))
}

/// Reports a backbone that was just installed.
fn print_installed(backbone: &Backbone, report: &CheckReport, json: bool) {
    if json {
        print::json(&installed(backbone, report));
        return;
    }
    let CheckReport { size, layout, classes, embedding_width, layers, .. } = report;
    let classes = classes.map_or("no classifier".to_owned(), |count| format!("{count} classes"));
    print::line(format_args!(
        "{}: {size} x {size} {layout}, {classes}, embedding {embedding_width}, {layers} layers",
        backbone.id
    ));
    print::line(format_args!("try it:  graftd predict photo.jpg --backbone {}", backbone.id));
}

/// Reports a backbone that could not be installed: on standard output where `json`, else by the error
/// that ends the command.
fn report_refused(id: &Name, error: CliError, json: bool) -> Result<Outcome, CliError> {
    let CliError::Backbone(error) = error else { return Err(error) };
    if !json {
        return Err(error.into());
    }
    let error = told(error);
    print::json(&json!({ "id": id.as_str(), "error": output::error(&error) }));
    Ok(Outcome::SomeFailed)
}

/// What a daemon would say, except where it would only point to its log.
fn told(error: BackboneError) -> ClientError {
    let text = error.to_string();
    #[allow(clippy::wildcard_enum_match_arm)] // those that a daemon keeps to its log, and the rest
    match error {
        BackboneError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ClientError::local(ErrorKind::NotFound, text)
        }
        BackboneError::Io { .. } | BackboneError::Trial(_) => {
            ClientError::local(ErrorKind::Unavailable, text)
        }
        other => rpc::failure(KeeperError::from(other)).into(),
    }
}

fn installed(backbone: &Backbone, report: &CheckReport) -> Value {
    json!({
        "id": backbone.id.as_str(),
        "name": backbone.manifest.name,
        "sha256": backbone.manifest.sha256.to_string(),
        "size_bytes": backbone.manifest.size_bytes,
        "preprocessing": preprocessing(&backbone.manifest.preprocessing),
        "input": input(report),
        "classes": report.classes,
        "embedding_width": report.embedding_width,
        "layers": report.layers,
        "waists": report.waists,
    })
}

fn input(report: &CheckReport) -> Value {
    let CheckReport { input, layout, size, channels, .. } = report;
    json!({ "name": input, "layout": layout, "size": size, "channels": channels })
}

fn preprocessing(preprocessing: &Preprocessing) -> Value {
    json!(preprocessing)
}

/// An empty table with a header line, in the style of all our tables.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Bytes as people read them.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// For clap: a backbone's id.
fn id(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: crate::base::name::InvalidName| error.to_string())
}
