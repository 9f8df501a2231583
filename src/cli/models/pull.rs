//! `graftd models pull`: a backbone of the catalogue is downloaded.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{MAX_MODEL_BYTES, checker, id, print_installed, report_refused, writable};
use crate::backbones::{BackboneError, Catalog, Download, NewBackbone, TensorNames};
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::cli::{CliError, Global, Outcome};

/// Where downloads lie until they are complete, below the backbones.
const DOWNLOADS: &str = ".downloads";

/// Download a backbone of the catalogue.
///
/// An interrupted download goes on where it stopped. The file is accepted by its SHA-256 alone, then
/// loaded and run once in a child process with limits on memory and time.
#[derive(Args, Debug)]
pub(super) struct Pull {
    /// Its id in the catalogue; `graftd models list` shows it.
    #[arg(value_parser = id)]
    id: Name,
    /// Another id for it on this device.
    #[arg(long = "as", value_name = "ID", value_parser = id)]
    as_id: Option<Name>,
    /// Replace a backbone of the same id.
    #[arg(long)]
    force: bool,
    /// A catalogue of your own instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Pull {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        self.pull(global).or_else(|error| report_refused(&self.id, error, self.json))
    }

    fn pull(&self, global: &Global) -> Result<Outcome, CliError> {
        let catalog = match &self.catalog {
            None => Catalog::built_in()?,
            Some(path) => Catalog::read(path)?,
        };
        let entry = catalog.get(&self.id)?;
        let id = self.as_id.clone().unwrap_or_else(|| self.id.clone());
        let (backbones, _lock) = writable(
            global,
            "pull with another --state-dir and send its model.onnx through the running daemon with \
             `graftctl backbones upload`",
        )?;
        if !self.force && !matches!(backbones.get(&id), Err(BackboneError::Unknown(_))) {
            return Err(BackboneError::Exists(id).into());
        }

        let download = Download {
            addresses: catalog.addresses(entry),
            size_bytes: entry.size_bytes,
            sha256: entry.sha256,
        };
        let bar = ProgressBar::new(entry.size_bytes).with_style(style());
        let folder = backbones.root().join(DOWNLOADS);
        // A file that is there already came from one of these, and all of them have the same.
        let mut source = download.addresses.first().cloned().unwrap_or_default();
        let model = download.fetch(&folder, &Cancel::default(), &mut |progress| {
            bar.set_position(progress.received);
            if source != progress.address {
                progress.address.clone_into(&mut source);
                bar.set_message(source.clone());
            }
        })?;
        bar.finish_and_clear();

        let new = NewBackbone {
            id,
            name: entry.name.clone(),
            preprocessing: entry.preprocessing,
            labels: Some(entry.labels_text().to_owned()),
            licence: entry.licence.clone(),
            source,
            sha256: Some(entry.sha256),
            size_bytes: Some(entry.size_bytes),
            tensors: TensorNames::default(),
            replace: self.force,
        };
        let mut incoming = backbones.receive(MAX_MODEL_BYTES)?;
        incoming.adopt(&model)?;
        let (backbone, report) = backbones.install(incoming, &new, &checker()?)?;
        print_installed(&backbone, &report, self.json);
        Ok(Outcome::Complete)
    }
}

/// On standard error, and only where that is a terminal.
fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left  {wide_msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}
