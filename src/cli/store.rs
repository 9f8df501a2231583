//! `graftd store`: the samples, embeddings and heads on this device, looked at from outside.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{CliError, Global, Outcome, held};
use crate::base::atomic;
use crate::base::name::Name;
use crate::store::{
    ExportTarget, Import, NewSample, Outcome as Stored, Receipt, Store, StoreError, StoreStats,
    Verification,
};
use crate::terminal::print;
use crate::vision::{self, Limits, VisionError};

/// The samples, embeddings and heads on this device.
#[derive(Args, Debug)]
pub(crate) struct StoreCommand {
    /// Print one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read everything and compare it with its checksums; runs beside a live daemon.
    Verify,
    /// Say how much is stored; runs beside a live daemon.
    Stats,
    /// Write a dataset out: a folder per class with a line for each sample; runs beside a live daemon.
    Export {
        /// The dataset.
        #[arg(long)]
        dataset: Name,
        /// A new folder, or a file that ends in `.tar`.
        target: PathBuf,
    },
    /// Take samples in from a folder per class, an export, or a tar of either. With a daemon running,
    /// use `graftctl samples push`.
    Import {
        /// The dataset; made where it does not exist.
        #[arg(long)]
        dataset: Name,
        /// The folder or tar.
        source: PathBuf,
    },
}

impl StoreCommand {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let folder = global.state_dir();
        match &self.action {
            Action::Verify => {
                let found = Store::open_read_only(&folder)?.verify()?;
                self.verification(&found);
                Ok(if found.is_sound() { Outcome::Complete } else { Outcome::SomeFailed })
            }
            Action::Stats => {
                self.stats(&Store::open_read_only(&folder)?.stats()?);
                Ok(Outcome::Complete)
            }
            Action::Export { dataset, target } => {
                self.export(&Store::open_read_only(&folder)?, dataset, target)
            }
            Action::Import { dataset, source } => {
                let instead =
                    "send the samples through the running daemon with `graftctl samples push`";
                let store = Store::open(&folder).map_err(|error| held(error, instead))?;
                self.import(&store, dataset, source)
            }
        }
    }

    fn verification(&self, found: &Verification) {
        let Verification { samples, embeddings, images, head_versions, faults, fault_count } =
            found;
        if self.json {
            let listed: Vec<_> =
                faults.iter().map(|f| json!({ "place": f.place, "what": f.what })).collect();
            print::json(&json!({
                "sound": found.is_sound(), "samples": samples, "embeddings": embeddings,
                "images": images, "head_versions": head_versions,
                "fault_count": fault_count, "faults": listed,
            }));
            return;
        }
        print::line(format_args!(
            "{samples} samples, {embeddings} embeddings, {images} images and {head_versions} \
             versions of heads compared with their checksums"
        ));
        for fault in faults {
            print::line(format_args!("{}: {}", fault.place, fault.what));
        }
        match fault_count {
            0 => print::line("everything is as it was written"),
            count => print::line(format_args!(
                "{count} faults: export what is sound and import it afresh"
            )),
        }
    }

    fn stats(&self, stats: &StoreStats) {
        if self.json {
            let datasets: Vec<_> = stats
                .datasets
                .iter()
                .map(|found| {
                    let labels = found.labels.iter();
                    let labels = labels.map(|(label, n)| (label.clone(), n.train + n.held_out));
                    json!({
                        "dataset": found.dataset.name.as_str(), "samples": found.samples,
                        "held_out": found.held_out, "unlabelled": found.unlabelled,
                        "bytes": found.bytes,
                        "labels": labels.collect::<std::collections::BTreeMap<_, _>>(),
                    })
                })
                .collect();
            print::json(&json!({
                "datasets": datasets, "damaged": stats.damaged, "heads": stats.heads,
                "head_versions": stats.head_versions, "jobs": stats.jobs,
                "database_bytes": stats.database_bytes, "free_bytes": stats.free_bytes,
                "log_bytes": stats.log_bytes, "image_files": stats.image_files,
                "image_file_bytes": stats.image_file_bytes,
            }));
            return;
        }
        for found in &stats.datasets {
            print::line(format_args!(
                "dataset {}: {} samples ({} held out), {} labels, {} bytes",
                found.dataset.name,
                found.samples,
                found.held_out,
                found.labels.len(),
                found.bytes
            ));
        }
        if stats.damaged > 0 {
            print::line(format_args!(
                "{} damaged rows are in none of these; `graftd store verify` lists them",
                stats.damaged
            ));
        }
        for (backbone, count) in &stats.embeddings {
            print::line(format_args!("embeddings by {backbone}: {count}"));
        }
        print::line(format_args!("heads: {} with {} versions", stats.heads, stats.head_versions));
        print::line(format_args!(
            "database {} bytes, {} of them free; log {} bytes; {} image files with {} bytes",
            stats.database_bytes,
            stats.free_bytes,
            stats.log_bytes,
            stats.image_files,
            stats.image_file_bytes
        ));
    }

    fn export(
        &self,
        store: &Store,
        dataset: &Name,
        target: &std::path::Path,
    ) -> Result<Outcome, CliError> {
        let report = if target.extension().is_some_and(|ending| ending == "tar") {
            let unwritable = |error| CliError::Other(format!("{}: {error}", target.display()));
            let mut file = atomic::File::create(target).map_err(unwritable)?;
            let report = store.export(dataset, ExportTarget::Tar(&mut file))?;
            file.flush().map_err(unwritable)?;
            file.commit().map_err(unwritable)?;
            report
        } else {
            store.export(dataset, ExportTarget::Folder(target.to_owned()))?
        };
        for fault in &report.left_out {
            print::error(format_args!("{}: {}; left out", fault.place, fault.what));
        }
        if self.json {
            print::json(&json!({
                "samples": report.samples, "images": report.images,
                "embeddings": report.embeddings, "left_out": report.left_out.len(),
            }));
        } else {
            print::line(format_args!(
                "{} samples with {} images and {} embeddings are in {}",
                report.samples,
                report.images,
                report.embeddings,
                target.display()
            ));
        }
        Ok(if report.left_out.is_empty() { Outcome::Complete } else { Outcome::SomeFailed })
    }

    fn import(
        &self,
        store: &Store,
        dataset: &Name,
        source: &std::path::Path,
    ) -> Result<Outcome, CliError> {
        let items = Import::open(source)?;
        let settings = items.settings().clone();
        let (sender, receipts) = std::sync::mpsc::channel();
        let (mut sent, mut refused) = (0_u64, 0_u64);
        let mut refuse = |reason: std::fmt::Arguments<'_>| {
            refused += 1;
            print::error(reason);
        };
        for item in items {
            sent += 1;
            let sample = match item {
                Ok(sample) => sample,
                Err(error) => {
                    refuse(format_args!("{error}"));
                    continue;
                }
            };
            let id = sample.id.clone();
            match decodable(sample) {
                Ok(sample) => {
                    let sender = sender.clone();
                    let done = move |receipt: Result<Receipt, StoreError>| {
                        let outcome = receipt.map(|receipt| receipt.outcome);
                        let _ = sender.send(outcome.map_err(|error| (id, error)));
                    };
                    // Blocks while the writer is behind, so nothing piles up.
                    store.add_sample_making_with(dataset, &settings, sample, done);
                }
                Err(error) => refuse(format_args!("{id}: {error}")),
            }
        }
        drop(sender);
        let (mut added, mut duplicates) = (0_u64, 0_u64);
        for outcome in receipts {
            match outcome {
                Ok(Stored::Added) => added += 1,
                Ok(Stored::Duplicate) => duplicates += 1,
                Err((id, error)) => refuse(format_args!("{id}: {error}")),
            }
        }
        if self.json {
            print::json(&json!({ "added": added, "duplicates": duplicates, "refused": refused }));
        } else {
            print::line(format_args!(
                "{added} of {sent} samples added to {dataset}, {duplicates} were there, {refused} \
                 refused"
            ));
        }
        Ok(if refused == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }
}

/// Decodes the picture, so that none is stored which nothing could learn from, and notes how large it
/// is, which a folder of photographs does not say.
fn decodable(mut sample: NewSample) -> Result<NewSample, VisionError> {
    let limits = Limits::default();
    if let Some(image) = &sample.image {
        let picture = vision::decode(image, &limits)?;
        if sample.width.min(sample.height) == 0 {
            (sample.width, sample.height) = (picture.width, picture.height);
        }
    }
    if let Some(thumbnail) = &sample.thumbnail {
        vision::decode(thumbnail, &limits)?;
    }
    Ok(sample)
}
