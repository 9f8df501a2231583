//! `graftd models add`: an ONNX file becomes a backbone.

use std::path::PathBuf;

use clap::Args;

use super::{MAX_MODEL_BYTES, checker, id, print_installed, report_refused, writable};
use crate::backbones::{NewBackbone, read_labels};
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::cli::preprocessing::PreprocessingFlags;
use crate::cli::{CliError, Global, Outcome};

/// Add an ONNX file as a backbone.
///
/// The file is loaded and run once in a child process with limits on memory and time before it is
/// accepted.
#[derive(Args, Debug)]
pub(super) struct Add {
    /// The ONNX file, with its weights inside.
    file: PathBuf,
    /// Its id on this device: a-z, 0-9, '.', '_' and '-'.
    #[arg(long, value_parser = id)]
    id: Name,
    /// A text file with the name of one class a line, in the order of the classifier's outputs.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Its name for people [default: the id].
    #[arg(long)]
    name: Option<String>,
    /// The licence of its weights, an SPDX expression.
    #[arg(long)]
    licence: Option<String>,
    /// Where it came from.
    #[arg(long)]
    source: Option<String>,
    /// Replace a backbone of the same id.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Add {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        self.add(global).or_else(|error| report_refused(&self.id, error, self.json))
    }

    fn add(&self, global: &Global) -> Result<Outcome, CliError> {
        let description = self.preprocessing.description()?;
        let sha256 = description
            .sha256
            .as_deref()
            .map(str::parse::<Digest>)
            .transpose()
            .map_err(|error| CliError::Other(error.to_string()))?;
        let labels = self
            .labels
            .as_ref()
            .map(|path| {
                read_labels(path)
                    .map_err(|error| CliError::Other(format!("{}: {error}", path.display())))
            })
            .transpose()?;
        let text = |flag: &Option<String>, described: Option<String>| {
            flag.clone().or(described).unwrap_or_default()
        };
        let new = NewBackbone {
            id: self.id.clone(),
            name: text(&self.name, description.name),
            preprocessing: self.preprocessing.choice()?,
            labels,
            licence: text(&self.licence, description.licence),
            source: text(&self.source, description.source),
            sha256,
            size_bytes: None,
            tensors: description.tensors,
            replace: self.force,
        };

        // Said before anything is copied or tried.
        new.preprocessing.resolve(new.preprocessing.size.or(Some(1)))?;
        let (backbones, _lock) = writable(
            global,
            "send the file through the running daemon with `graftctl backbones upload`",
        )?;
        let mut incoming = backbones.receive(MAX_MODEL_BYTES)?;
        incoming.copy(&self.file)?;
        let (backbone, report) = backbones.install(incoming, &new, &checker()?)?;
        print_installed(&backbone, &report, self.json);
        Ok(Outcome::Complete)
    }
}
