//! What answers a command that needs no daemon: a backbone, or a saved head on it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::preprocessing::PreprocessingFlags;
use super::train::read_head;
use super::{CliError, Global};
use crate::app::{self, AppError};
use crate::base::name::{InvalidName, Name};
use crate::engine::{Engine, EngineOptions, LiveHead, PoolOptions, Snapshot};
use crate::vision::Limits;

/// The backbone and the head.
#[derive(Args, Clone, Debug)]
pub(super) struct Answering {
    /// The backbone; default the one that the head names, else the latest added that is enabled, else
    /// the built-in one. The daemon's configuration is not read.
    #[arg(long, value_name = "ID")]
    backbone: Option<String>,
    /// A head that `graftd train --save` wrote; it answers instead of the backbone's own classifier.
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    #[command(flatten)]
    preprocessing: PreprocessingFlags,
}

impl Answering {
    /// Workers for this backbone; the head, if there is one, answers what names nothing.
    pub(super) fn engine(&self, global: &Global, workers: usize) -> Result<Engine, CliError> {
        let head = self.head.as_deref().map(|file| Ok::<_, CliError>((file, read_head(file)?)));
        let head = head.transpose()?;
        let named = head.as_ref().map(|(_, head)| head.provenance().backbone.clone());
        let named = self.backbone.clone().or(named.filter(|name| !name.is_empty()));
        let mut backbone = app::load_backbone(&global.existing_state_dir()?, named.as_deref())?;
        backbone.preprocessing = self.preprocessing.over(&backbone.preprocessing)?;
        let backbone_name = backbone.name.clone();
        let mut snapshot = Snapshot::of(backbone);
        if let Some((file, head)) = head {
            let name = name_of(file)?;
            snapshot.add_default(LiveHead { name, version: 1, backbone: backbone_name, head })?;
        }
        let options = EngineOptions {
            pool: PoolOptions { workers, queue: 4 * workers },
            limits: Limits { bytes: 1 << 30, ..Limits::default() },
        };
        Engine::start(snapshot, options)
            .map_err(|reason| AppError::System { what: "worker threads", reason }.into())
    }
}

/// The file's name without its ending, where it can be a head's name.
fn name_of(file: &Path) -> Result<Name, CliError> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
    let named: Option<Name> = stem.and_then(|stem| stem.parse().ok());
    named
        .map_or_else(|| "head".parse(), Ok)
        .map_err(|error: InvalidName| CliError::Other(error.to_string()))
}
