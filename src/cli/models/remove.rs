//! `graftd models remove`: a backbone leaves this device.

use clap::Args;

use super::{id, writable};
use crate::backbones::BUILT_IN;
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
        if self.id.as_str() == BUILT_IN {
            let text = format!("{BUILT_IN} is part of graftd and cannot be removed");
            return Err(CliError::Other(text));
        }
        let (backbones, _lock) = writable(
            global,
            "delete it through the running daemon with `graftctl backbones delete`",
        )?;
        backbones.remove(&self.id)?;
        Ok(Outcome::Complete)
    }
}
