//! `graftd`: the daemon and the commands that need none. The only place of the daemon that prints.

mod answering;
mod audit;
mod bench;
mod boxes;
mod check_config;
mod check_model;
mod class_folder;
mod dataset;
mod demo;
mod evaluate;
mod explain;
mod models;
mod output;
mod predict;
mod preprocessing;
mod serve;
mod store;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::app::AppError;
use crate::backbones::BackboneError;
use crate::client::ClientError;
use crate::engine::EngineError;
use crate::store::StoreError;
use crate::terminal::InputError;
use crate::terminal::print;
use crate::train::TrainError;

/// A camera brain for small devices: runs, explains and teaches image networks over gRPC.
#[derive(Debug, Parser)]
#[command(name = "graftd", version, arg_required_else_help = true, after_help = NEXT)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const NEXT: &str = "\
First steps:
  graftd demo
  graftd models add mobilenet-v2.onnx --id mobilenet-v2 --preset imagenet --labels labels.txt
  graftd predict photo.jpg
  graftd serve";

/// Flags of every command.
#[allow(clippy::doc_markdown)] // shown as help, where backticks would be seen
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// Folder with everything that the device keeps. Default: $STATE_DIRECTORY, else /var/lib/graftd
    /// for root, else ~/.local/state/graftd.
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Global {
    /// The state folder.
    pub(crate) fn state_dir(&self) -> PathBuf {
        crate::app::state_dir(self.state_dir.clone())
    }

    /// The state folder, for commands that only read it: one that is named has to be there.
    pub(crate) fn existing_state_dir(&self) -> Result<PathBuf, CliError> {
        match &self.state_dir {
            Some(folder) if !folder.is_dir() => {
                Err(StoreError::NoState { folder: folder.clone() }.into())
            }
            _ => Ok(self.state_dir()),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See everything at once: draw small parts, learn them, explain the answers.
    Demo(demo::Demo),
    /// Run the daemon until SIGTERM or Ctrl-C.
    Serve(serve::Serve),
    /// Say what photographs show, without a daemon.
    Predict(predict::Predict),
    /// The backbones on this device, and those that can be had.
    Models(models::Models),
    /// Teach a backbone the classes of a folder, and say how well it learnt them.
    Train(train::Train),
    /// Judge a saved head on a folder of labelled photographs.
    Evaluate(evaluate::Evaluate),
    /// Look after a dataset.
    Dataset(dataset::Dataset),
    /// The samples, embeddings and heads on this device.
    Store(store::StoreCommand),
    /// Say where the network looked, without a daemon.
    Explain(explain::Explain),
    /// Explain a folder class by class: does the network look at the objects?
    Audit(audit::Audit),
    /// Measure how fast a backbone runs here.
    Bench(bench::Bench),
    /// Check a configuration and tell every mistake in it at once.
    CheckConfig(check_config::CheckConfig),
    /// Try a model within limits: what `models add` runs as a child.
    #[command(hide = true)]
    CheckModel(check_model::CheckModel),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How a command ends: all went well, or some inputs failed and were reported as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit status 0.
    Complete,
    /// Exit status 1.
    SomeFailed,
}

/// A fault that ends a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon or what it stands on.
    #[error(transparent)]
    App(#[from] AppError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A backbone's folder or file.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// What is stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The names given stand for no pictures.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A daemon's answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A head cannot be trained or judged.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// A state folder that another process holds, with what to do `instead` of this very command; all else
/// as it is.
pub(crate) fn held(error: StoreError, instead: &str) -> CliError {
    #[allow(clippy::wildcard_enum_match_arm)] // the others explain themselves
    match error {
        StoreError::Locked { folder, holder } => CliError::Other(format!(
            "the state folder {} is held by {holder}: stop it, or {instead}",
            folder.display()
        )),
        other => other.into(),
    }
}

/// Runs `graftd` with the process's arguments.
pub fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let outcome = match command {
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(&global),
        Command::Predict(command) => command.run(&global),
        Command::Models(command) => command.run(&global),
        Command::Train(command) => command.run(&global),
        Command::Evaluate(command) => command.run(&global),
        Command::Dataset(command) => command.run(&global),
        Command::Store(command) => command.run(&global),
        Command::Explain(command) => command.run(&global),
        Command::Audit(command) => command.run(&global),
        Command::Bench(command) => command.run(&global),
        Command::CheckModel(command) => Ok(command.run()),
        Command::CheckConfig(command) => command.run(),
        Command::Completions { shell } => {
            print::completions(shell, &mut Arguments::command());
            Ok(Outcome::Complete)
        }
    };
    match outcome {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::FAILURE,
        Err(error) => {
            print::error(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
