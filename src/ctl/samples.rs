//! `graftctl samples`: the labelled samples on a device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::push::Push;
use super::settings::Configure;
use super::{Outcome, output, report};
use crate::client::messages::{
    Dataset, DeleteSamplesRequest, GetSampleRequest, Labels, ListSamplesRequest, Sample,
    SampleFilter, SampleOrigin, UpdateSampleRequest, image,
};
use crate::client::{Client, ClientError, ErrorKind};

#[derive(Args, Debug)]
pub struct Samples {
    /// Print one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Send a folder with a folder per class; sending it again is harmless.
    Push(Push),
    /// List the datasets.
    Datasets,
    /// Set what a dataset keeps, and which predictions it captures; what no flag names stays.
    Configure(Configure),
    /// List samples.
    List {
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// Only with this label; may be repeated.
        #[arg(long)]
        label: Vec<String>,
        /// Only those that wait to be labelled.
        #[arg(long)]
        unlabelled: bool,
        /// Only pictures that were captured: with `--unlabelled`, the review queue.
        #[arg(long)]
        captured: bool,
    },
    /// Write what is kept of a sample's photograph to a file.
    Picture {
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// The sample's id.
        id: String,
        /// The file.
        file: PathBuf,
    },
    /// Give a sample other labels.
    Label {
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// The sample's id.
        id: String,
        /// Its labels from now on; none takes all away.
        labels: Vec<String>,
    },
    /// Find what is wrong with a dataset: duplicates, likely wrong labels, poor photographs.
    Report {
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// The backbone whose embeddings are compared. Default: the device's choice.
        #[arg(long, default_value = "", hide_default_value = true)]
        backbone: String,
    },
    /// Delete samples, or a whole dataset.
    Delete {
        /// The dataset.
        #[arg(long)]
        dataset: String,
        /// Only with this label; may be repeated.
        #[arg(long)]
        label: Vec<String>,
        /// Delete the dataset with everything in it.
        #[arg(long, conflicts_with_all = ["label", "ids"])]
        all: bool,
        /// Only these ids.
        ids: Vec<String>,
    },
}

impl Samples {
    /// Whether the device may take minutes to answer.
    pub fn is_slow(&self) -> bool {
        matches!(self.action, Action::Report { .. })
    }

    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        match &self.action {
            Action::Push(push) => return push.run(client, self.json).await,
            Action::Datasets => self.datasets(&client.list_datasets().await?),
            Action::Configure(configure) => {
                let configured = configure.run(client).await?;
                self.datasets(configured.as_slice());
                for dataset in configured.iter().filter(|_| !self.json) {
                    describe(dataset);
                }
            }
            Action::List { dataset, label, unlabelled, captured } => {
                let mut filter = filter(dataset, label, *unlabelled);
                if *captured {
                    filter.set_origin(SampleOrigin::Capture);
                }
                self.list(client, filter).await?;
            }
            Action::Picture { dataset, id, file } => picture(client, dataset, id, file).await?,
            Action::Label { dataset, id, labels } => {
                let request = UpdateSampleRequest {
                    dataset: dataset.clone(),
                    id: id.clone(),
                    labels: Some(Labels { values: labels.clone() }),
                    ..UpdateSampleRequest::default()
                };
                let sample = client.update_sample(request).await?;
                sample.iter().for_each(|sample| self.sample(sample));
            }
            Action::Report { dataset, backbone } => {
                let report = client.get_dataset_report(dataset, backbone).await?;
                report::show(&report, dataset, self.json);
            }
            Action::Delete { dataset, label, all, ids } => {
                check_ids(client, dataset, ids).await?;
                let filter = SampleFilter { ids: ids.clone(), ..filter(dataset, label, false) };
                let request = DeleteSamplesRequest {
                    filter: Some(filter),
                    whole_dataset: *all,
                    dry_run: false,
                };
                let deleted = client.delete_samples(request).await?;
                if self.json {
                    output::json_line(&json!({
                        "deleted": deleted.deleted_count, "bytes": deleted.deleted_bytes,
                    }));
                } else {
                    let size = output::bytes(deleted.deleted_bytes);
                    output::line(format_args!("{} samples deleted, {size}", deleted.deleted_count));
                }
            }
        }
        Ok(Outcome::Complete)
    }

    fn datasets(&self, datasets: &[Dataset]) {
        if self.json {
            for dataset in datasets {
                let count = |label: &crate::client::messages::LabelCount| {
                    (label.label.clone(), label.train_count + label.held_out_count)
                };
                output::json_line(&json!({
                    "dataset": dataset.name,
                    "samples": dataset.sample_count,
                    "bytes": dataset.stored_bytes,
                    "unlabelled": dataset.unlabelled_count,
                    "settings": settings(dataset),
                    "labels": dataset.labels.iter().map(count).collect::<BTreeMap<_, _>>(),
                }));
            }
            return;
        }
        let mut table = output::table(&["dataset", "samples", "labels", "unlabelled", "size"]);
        for dataset in datasets {
            table.add_row([
                dataset.name.clone(),
                dataset.sample_count.to_string(),
                dataset.labels.len().to_string(),
                dataset.unlabelled_count.to_string(),
                output::bytes(dataset.stored_bytes),
            ]);
        }
        output::align_right(&mut table, &[1, 2, 3, 4]);
        output::print_table(&table);
    }

    async fn list(&self, client: &Client, filter: SampleFilter) -> Result<(), ClientError> {
        let mut request =
            ListSamplesRequest { filter: Some(filter), ..ListSamplesRequest::default() };
        loop {
            let page = client.list_samples(request.clone()).await?;
            page.samples.iter().for_each(|sample| self.sample(sample));
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }

    fn sample(&self, sample: &Sample) {
        let split = sample.split().as_str_name().trim_start_matches("SPLIT_").to_lowercase();
        if self.json {
            output::json_line(&json!({
                "id": sample.id,
                "labels": sample.labels,
                "split": split,
                "weight": sample.weight,
                "source": sample.source,
                "note": sample.note,
                "pinned": sample.pinned,
                "captured": sample.captured.as_ref().map(|thought| json!({
                    "head": thought.head,
                    "label": thought.label,
                    "probability": thought.probability,
                    "novelty": thought.novelty,
                })),
            }));
            return;
        }
        let labels = sample.labels.join(", ");
        let thought = sample.captured.as_ref().map(|thought| {
            let percent = 100.0 * thought.probability;
            format!("  ({} thought {}, {percent:.0} %)", thought.head, thought.label)
        });
        output::line(format_args!(
            "{}  {split}  {labels}{}",
            sample.id,
            thought.unwrap_or_default()
        ));
    }
}

/// Refuses to delete where an id names no sample: it is likely a slip.
async fn check_ids(client: &Client, dataset: &str, ids: &[String]) -> Result<(), ClientError> {
    for asked in ids.chunks(1000) {
        let filter = SampleFilter { ids: asked.to_vec(), ..filter(dataset, &[], false) };
        let request = ListSamplesRequest {
            filter: Some(filter),
            page_size: Some(1000),
            ..ListSamplesRequest::default()
        };
        let found = client.list_samples(request).await?.samples;
        if let Some(id) = asked.iter().find(|id| found.iter().all(|sample| sample.id != **id)) {
            let problem = format!("dataset {dataset} has no sample {id:?}; none was deleted");
            return Err(ClientError::local(ErrorKind::NotFound, problem));
        }
    }
    Ok(())
}

/// Says what is set, for a person.
fn describe(dataset: &Dataset) {
    let settings = settings(dataset);
    let text = |key: &str| settings[key].as_str().unwrap_or_default().replace('_', " ");
    let limit = |key: &str, unit: &str| match settings[key].as_u64() {
        Some(most) if most > 0 => format!("{most} {unit}"),
        _ => format!("any number of {unit}"),
    };
    output::line(format_args!("keeps {}", text("keep")));
    output::line(format_args!(
        "at most {} and {}; when full: {}",
        limit("max_samples", "samples"),
        limit("max_bytes", "bytes"),
        text("when_full")
    ));
    let share = settings["held_out"].as_f64().unwrap_or_default();
    output::line(format_args!("holds {:.0} % out to judge heads", 100.0 * share));
    let capture = dataset.settings.clone().unwrap_or_default().capture;
    let Some(capture) = capture else {
        output::line("captures nothing");
        return;
    };
    let head = if capture.head.is_empty() { "any head" } else { &capture.head };
    let unknown = if capture.unknown() { " or as unknown" } else { "" };
    output::line(format_args!(
        "captures what {head} answers with at most {}{unknown}: {} an hour, {} waiting at most",
        capture.maximum_probability(),
        capture.hourly_budget(),
        capture.total_budget()
    ));
}

async fn picture(client: &Client, dataset: &str, id: &str, file: &Path) -> Result<(), ClientError> {
    let request = GetSampleRequest {
        dataset: dataset.to_owned(),
        id: id.to_owned(),
        include_image: true,
        ..GetSampleRequest::default()
    };
    let found = client.get_sample(request).await?;
    let Some(image::Source::Encoded(bytes)) = found.image.and_then(|image| image.source) else {
        let problem = format!("dataset {dataset} keeps no picture of {id}");
        return Err(ClientError::local(ErrorKind::NotFound, problem));
    };
    crate::base::atomic::write(file, &bytes).map_err(|error| {
        ClientError::local(ErrorKind::Internal, format!("{}: {error}", file.display()))
    })
}

fn settings(dataset: &Dataset) -> serde_json::Value {
    let settings = dataset.settings.clone().unwrap_or_default();
    let name = |text: &str, prefix| text.trim_start_matches(prefix).to_lowercase();
    json!({
        "keep": name(settings.retention().as_str_name(), "RETENTION_"),
        "max_samples": settings.maximum_samples,
        "max_bytes": settings.maximum_bytes,
        "when_full": name(settings.quota_policy().as_str_name(), "QUOTA_POLICY_"),
        "held_out": settings.held_out_share,
        "capture": settings.capture.map(|capture| json!({
            "head": capture.head,
            "below": capture.maximum_probability,
            "unknown": capture.unknown,
            "hourly": capture.hourly_budget,
            "waiting": capture.total_budget,
        })),
    })
}

fn filter(dataset: &str, labels: &[String], unlabelled: bool) -> SampleFilter {
    SampleFilter {
        dataset: dataset.to_owned(),
        labels: labels.to_vec(),
        unlabelled,
        ..SampleFilter::default()
    }
}
