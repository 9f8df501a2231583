//! `graftd models remove`: a backbone leaves this device.

use clap::Args;

use super::{id, writable};
use crate::base::name::Name;
use crate::cli::{CliError, Global, Outcome};

/// Remove a backbone from this device.
#[derive(Args, Debug)]
pub(super) struct Remove {
    /// Its id.
    #[arg(value_parser = id)]
    id: Name,
}

impl Remove {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let (backbones, _lock) = writable(global)?;
        backbones.remove(&self.id)?;
        Ok(Outcome::Complete)
    }
}
