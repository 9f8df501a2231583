//! `graftd models list`: what is on this device, and what can be had.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};

use super::{megabytes, preprocessing, table};
use crate::backbones::{
    BUILT_IN, Backbones, Catalog, CatalogEntry, Listed, built_in_preprocessing,
};
use crate::cli::{CliError, Global, Outcome};
use crate::client::ErrorKind;
use crate::terminal::print;

/// List the backbones on this device and in the catalogue.
#[derive(Args, Debug)]
pub(super) struct List {
    /// Only those on this device.
    #[arg(long)]
    installed: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let listed = Backbones::new(&global.state_dir()).list()?;
        let catalog = Catalog::built_in()?;
        let here: BTreeSet<_> = listed.iter().map(|listed| listed.id.clone()).collect();
        let elsewhere: Vec<&CatalogEntry> = catalog
            .entries()
            .iter()
            .filter(|entry| !self.installed && !here.contains(&entry.id))
            .collect();
        if self.json {
            print::json(&built_in());
            for line in listed.iter().map(installed).chain(elsewhere.into_iter().map(available)) {
                print::json(&line);
            }
        } else {
            print_table(&listed, &elsewhere);
        }
        Ok(Outcome::Complete)
    }
}

fn built_in() -> Value {
    json!({
        "id": BUILT_IN,
        "state": "built_in",
        "preprocessing": preprocessing(&built_in_preprocessing()),
    })
}

fn installed(listed: &Listed) -> Value {
    match &listed.backbone {
        Ok(backbone) => json!({
            "id": listed.id.as_str(),
            "state": "installed",
            "name": backbone.manifest.name,
            "enabled": backbone.manifest.enabled,
            "sha256": backbone.manifest.sha256.to_string(),
            "size_bytes": backbone.manifest.size_bytes,
            "licence": backbone.manifest.licence,
            "source": backbone.manifest.source,
            "preprocessing": preprocessing(&backbone.manifest.preprocessing),
        }),
        Err(error) => json!({
            "id": listed.id.as_str(),
            "state": "damaged",
            "error": { "code": ErrorKind::FailedPrecondition.code_name(), "message": error.to_string() },
        }),
    }
}

fn available(entry: &CatalogEntry) -> Value {
    json!({
        "id": entry.id.as_str(),
        "state": "available",
        "name": entry.name,
        "verified": entry.verified,
        "sha256": entry.sha256.to_string(),
        "size_bytes": entry.size_bytes,
        "licence": entry.licence,
    })
}

fn print_table(listed: &[Listed], elsewhere: &[&CatalogEntry]) {
    let mut table = table(&["ID", "STATE", "NAME", "SIZE", "LICENCE"]);
    table.add_row([BUILT_IN, "built in", "for heads, without classes of its own", "", ""]);
    for Listed { id, backbone } in listed {
        match backbone {
            Ok(backbone) => {
                let manifest = &backbone.manifest;
                let state = if manifest.enabled { "installed" } else { "installed, not enabled" };
                let size = megabytes(manifest.size_bytes);
                table.add_row([id.as_str(), state, &manifest.name, &size, &manifest.licence]);
            }
            Err(error) => {
                table.add_row([id.as_str(), "damaged", &error.to_string(), "", ""]);
            }
        }
    }
    for entry in elsewhere {
        let state = if entry.verified { "available" } else { "available, not verified" };
        let size = megabytes(entry.size_bytes);
        table.add_row([entry.id.as_str(), state, &entry.name, &size, &entry.licence]);
    }
    print::line(&table);
    if elsewhere.iter().any(|entry| !entry.verified) {
        print::line(
            "not verified: its preprocessing and labels were taken from its documentation; nobody \
             has yet run this very file in graftd",
        );
    }
}
