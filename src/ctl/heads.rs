//! `graftctl heads`: the trained classifiers on a device.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{Outcome, output, training};
use crate::client::messages::{
    EvaluateHeadVersionRequest, Head, HeadFormat, HeadVersion, ImportedHead, SampleFilter,
};
use crate::client::{Client, ClientError, ErrorKind};
use crate::terminal::print;

#[derive(Args, Debug)]
pub struct Heads {
    /// Print one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (the default).
    List,
    /// Show one with its versions.
    Show {
        /// The head's name.
        head: String,
    },
    /// Make a version live: NAME@VERSION.
    Activate {
        /// For example trash@3.
        head: String,
    },
    /// Make the version live that was so before.
    Rollback {
        /// The head's name.
        head: String,
    },
    /// Delete NAME@VERSION, or with a name alone the whole head.
    Delete {
        /// For example trash@3.
        head: String,
    },
    /// Judge a version on the held-out samples of a dataset.
    Evaluate {
        /// The head's name, or name@version.
        head: String,
        /// The dataset.
        #[arg(long)]
        dataset: String,
    },
    /// Write a version to a file.
    Export {
        /// The head's name, or name@version.
        head: String,
        /// The file.
        file: PathBuf,
        /// The kind of file.
        #[arg(long, value_enum, default_value_t = Format::Safetensors)]
        format: Format,
    },
    /// Bring a version from a file that an export wrote.
    Import {
        /// The file.
        file: PathBuf,
        /// The head's name here. Default: its dataset's.
        #[arg(long, default_value = "", hide_default_value = true)]
        head: String,
        /// Make it live at once.
        #[arg(long)]
        activate: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For another graftd.
    Safetensors,
    /// Backbone and head as one network, for other runtimes.
    Onnx,
}

impl Heads {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        match &self.action {
            None | Some(Action::List) => self.list(&client.list_heads("").await?),
            Some(Action::Show { head }) => self.versions(client.get_head(head).await?.as_ref()),
            Some(Action::Activate { head }) => {
                self.list(client.activate_head_version(head).await?.as_slice());
            }
            Some(Action::Rollback { head }) => {
                self.list(client.rollback_head(head).await?.as_slice());
            }
            Some(Action::Delete { head }) => {
                client.delete_head_version(head).await?;
                print::error(format_args!("{head} is deleted"));
            }
            Some(Action::Evaluate { head, dataset }) => {
                self.evaluate(client, head, dataset).await?;
            }
            Some(Action::Export { head, file, format }) => {
                let format = match format {
                    Format::Safetensors => HeadFormat::Safetensors,
                    Format::Onnx => HeadFormat::Onnx,
                };
                let bytes = client.export_head_version(head, format).await?;
                crate::base::atomic::write(file, &bytes).map_err(|error| local(file, &error))?;
                let (size, file) = (output::bytes(bytes.len() as u64), file.display());
                print::error(format_args!("{head} is in {file}, {size}"));
            }
            Some(Action::Import { file, head, activate }) => {
                let bytes = tokio::fs::read(file).await.map_err(|error| local(file, &error))?;
                let import = ImportedHead {
                    name: head.clone(),
                    activate: *activate,
                    ..ImportedHead::default()
                };
                let imported = client.import_head_version(import, bytes).await?;
                self.list(imported.head.as_slice());
            }
        }
        Ok(Outcome::Complete)
    }

    async fn evaluate(
        &self,
        client: &Client,
        head: &str,
        dataset: &str,
    ) -> Result<(), ClientError> {
        let filter = SampleFilter { dataset: dataset.to_owned(), ..SampleFilter::default() };
        let request = EvaluateHeadVersionRequest { head: head.to_owned(), filter: Some(filter) };
        let judged = client.evaluate_head_version(request).await?;
        let Some(found) = judged.evaluation else { return Ok(()) };
        if self.json {
            output::json_line(&json!({
                "head": judged.head.map(|head| format!("{}@{}", head.name, head.version)),
                "samples": found.sample_count,
                "accuracy": found.accuracy,
                "ece": found.ece,
                "log_loss": found.log_loss,
                "per_class": training::per_class(&found),
                "confusion": training::confusion(&found),
            }));
        } else {
            training::show_evaluation(&found);
            output::line(format_args!("calibration error {:.3}", found.ece));
        }
        Ok(())
    }

    fn list(&self, heads: &[Head]) {
        if self.json {
            heads.iter().for_each(|head| output::json_line(&object(head)));
            return;
        }
        let mut table = output::table(&["head", "backbone", "live", "versions", "follows"]);
        for head in heads {
            let live = match head.active_version {
                0 => "none".to_owned(),
                version => format!("@{version}"),
            };
            table.add_row([
                head.name.clone(),
                head.backbone.clone(),
                live,
                head.versions.len().to_string(),
                head.followed_dataset.clone(),
            ]);
        }
        output::align_right(&mut table, &[3]);
        output::print_table(&table);
    }

    fn versions(&self, head: Option<&Head>) {
        let Some(head) = head else { return };
        if self.json {
            output::json_line(&object(head));
            return;
        }
        let mut table =
            output::table(&["version", "kind", "classes", "dataset", "accuracy", "size", "live"]);
        for version in &head.versions {
            let accuracy = version.accuracy.map(|accuracy| format!("{:.1} %", 100.0 * accuracy));
            table.add_row([
                format!("{}@{}", head.name, version.version),
                kind(version),
                version.classes.len().to_string(),
                version.dataset.clone(),
                accuracy.unwrap_or_default(),
                output::bytes(version.size_bytes),
                if version.active { "yes".to_owned() } else { String::new() },
            ]);
        }
        output::align_right(&mut table, &[2, 4, 5]);
        output::print_table(&table);
    }
}

fn local(file: &std::path::Path, error: &std::io::Error) -> ClientError {
    ClientError::local(ErrorKind::InvalidArgument, format!("{}: {error}", file.display()))
}

fn kind(version: &HeadVersion) -> String {
    version.kind().as_str_name().trim_start_matches("HEAD_KIND_").to_lowercase()
}

fn object(head: &Head) -> Value {
    json!({
        "head": head.name,
        "backbone": head.backbone,
        "active_version": head.active_version,
        "followed_dataset": head.followed_dataset,
        "versions": head.versions.iter().map(|version| json!({
            "version": version.version,
            "kind": kind(version),
            "accuracy": version.accuracy,
            "classes": version.classes,
            "dataset": version.dataset,
            "active": version.active,
        })).collect::<Vec<_>>(),
    })
}
