//! `graftctl`: a device's services from the command line, through [`crate::client`] like anyone else.

mod audit;
mod backbones;
mod batch;
mod device;
mod embed;
mod explain;
mod explanation;
mod heads;
mod output;
mod predict;
mod push;
mod report;
mod samples;
mod settings;
mod training;
mod upload;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::client::{Client, ClientError, Options};
use crate::terminal::print;

/// Talks to a graftd device.
#[derive(Debug, Parser)]
#[command(name = "graftctl", version, arg_required_else_help = true)]
struct Arguments {
    /// The device's address, HOST:PORT; without a port 7411.
    #[arg(long, global = true, env = "GRAFTCTL_TARGET", default_value = "127.0.0.1:7411")]
    target: String,
    /// Seconds that one call may take; 0 means no limit. Default: 60, and 3600 for a dataset's report.
    #[arg(long, global = true)]
    timeout: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what pictures show.
    Predict(predict::Predict),
    /// Say what pictures show as they appear in a folder.
    Watch(watch::Watch),
    /// Give the vectors that enter the classifier.
    Embed(embed::Embed),
    /// Say where the network looked.
    Explain(explain::Explain),
    /// Say class by class whether the network looks at the objects of a dataset or past them.
    Audit(audit::Audit),
    /// The pretrained networks on the device.
    Backbones(backbones::Backbones),
    /// The labelled samples on the device.
    Samples(samples::Samples),
    /// Train a head on the device and watch it.
    Train(training::Train),
    /// Trainings, past and present.
    Jobs(training::Jobs),
    /// The trained classifiers on the device.
    Heads(heads::Heads),
    /// The device and how it fares.
    Device(device::Device),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which classifier answers.
#[derive(Args, Clone, Debug, Default)]
struct Model {
    /// A backbone's id: its own classifier answers. Default: the device's choice.
    #[arg(long, value_name = "ID", conflicts_with = "head")]
    backbone: Option<String>,
    /// A head's name, or name@version.
    #[arg(long, value_name = "NAME")]
    head: Option<String>,
}

impl Model {
    fn backbone(&self) -> String {
        self.backbone.clone().unwrap_or_default()
    }

    fn head(&self) -> String {
        self.head.clone().unwrap_or_default()
    }
}

/// How a command ends: all went well, or some inputs failed and were reported as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    SomeFailed,
}

/// Runs `graftctl` with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::error(format_args!("error: the system grants no threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::FAILURE,
        Err(error) => {
            print::error(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<Outcome, ClientError> {
    if let Command::Completions { shell } = arguments.command {
        print::completions(shell, &mut Arguments::command());
        return Ok(Outcome::Complete);
    }
    let slow = matches!(&arguments.command, Command::Samples(command) if command.is_slow());
    let timeout = arguments.timeout.unwrap_or(if slow { 3600 } else { 60 });
    let options = Options {
        request_timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
        ..Options::default()
    };
    let client = Client::connect_with(&arguments.target, options).await?;
    match arguments.command {
        Command::Predict(command) => command.run(&client).await,
        Command::Watch(command) => command.run(&client).await,
        Command::Embed(command) => command.run(&client).await,
        Command::Explain(command) => command.run(&client).await,
        Command::Audit(command) => command.run(&client).await,
        Command::Backbones(command) => command.run(&client).await,
        Command::Samples(command) => command.run(&client).await,
        Command::Train(command) => command.run(&client).await,
        Command::Jobs(command) => command.run(&client).await,
        Command::Heads(command) => command.run(&client).await,
        Command::Device(command) => command.run(&client).await,
        Command::Completions { .. } => Ok(Outcome::Complete),
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
