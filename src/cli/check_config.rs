//! `graftd check-config`: every mistake at once.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Outcome};
use crate::app::{Config, ConfigSource, default_toml};
use crate::terminal::print;

/// Check a configuration.
#[derive(Args, Debug)]
pub(crate) struct CheckConfig {
    /// The file; without it the defaults and the environment are checked.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The file, as `graftd serve` takes it.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Print the defaults, every key explained, and check nothing.
    #[arg(long)]
    print_default: bool,
}

impl CheckConfig {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<Outcome, CliError> {
        if self.print_default {
            print::text(default_toml());
            return Ok(Outcome::Complete);
        }
        let file = self.file.clone().or_else(|| self.config.clone());
        let config = Config::load(&ConfigSource::of_process(file, Vec::new()))?;
        print::line(format_args!(
            "the configuration is right; the daemon would listen on {}",
            config.listen()
        ));
        Ok(Outcome::Complete)
    }
}
