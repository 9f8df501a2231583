//! `graftctl samples`: the labelled samples on a device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::settings::Configure;
use super::{Outcome, batch, output, report};
use crate::client::messages::{
    Dataset, DeleteSamplesRequest, GetSampleRequest, Labels, ListSamplesRequest, NewSample,
    PredictRequest, Sample, SampleFilter, SampleOrigin, StreamSamplesRequest, UpdateSampleRequest,
    image, new_sample,
};
use crate::client::{Client, ClientError, ErrorKind, Picture};
use crate::terminal;

/// Pictures that are read ahead of the connection.
const READ_AHEAD: usize = 16;
/// How often a cut connection is taken up again without a single sample getting through.
const ATTEMPTS: u32 = 8;

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

#[derive(Args, Debug)]
struct Push {
    /// A folder with a folder per class in it.
    folder: PathBuf,
    /// The dataset on the device; made where it does not exist.
    #[arg(long)]
    dataset: String,
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
                self.datasets(configure.run(client).await?.as_slice());
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
            format!("{} thought {}, {percent:.0} %", thought.head, thought.label)
        });
        output::line(format_args!(
            "{}  {split}  {labels}{}",
            sample.id,
            thought.unwrap_or_default()
        ));
    }
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

/// What is left to send: by id, the class and the file.
type Left = BTreeMap<String, (String, PathBuf)>;

impl Push {
    async fn run(&self, client: &Client, json: bool) -> Result<Outcome, ClientError> {
        let mut left = self.find()?;
        let total = left.len();
        let bar = batch::progress_bar(total as u64, "samples");
        let (mut refused, mut duplicates, mut fruitless) = (0, 0, 0);
        while !left.is_empty() {
            let before = left.len();
            let ended =
                self.stream(client, &mut left, &bar, json, &mut refused, &mut duplicates).await;
            fruitless = if left.len() < before { 0 } else { fruitless + 1 };
            match ended {
                // What was not acknowledged is sent again; ids make that harmless.
                Err(error) if error.is_temporary() && fruitless < ATTEMPTS => {
                    bar.println(format!("{error}; trying again"));
                    tokio::time::sleep(Duration::from_millis(250 << fruitless.min(5))).await;
                }
                Err(error) => return Err(error),
                Ok(()) if fruitless >= ATTEMPTS => {
                    let problem = "the device ends the stream without answering";
                    return Err(ClientError::local(ErrorKind::Internal, problem));
                }
                Ok(()) => {}
            }
        }
        bar.finish_and_clear();
        let stored = total - refused;
        if json {
            output::json_line(&json!({
                "dataset": self.dataset,
                "stored": stored,
                "duplicates": duplicates,
                "refused": refused,
            }));
        } else {
            output::line(format_args!(
                "{stored} samples are in {}, {duplicates} of them were before; {refused} refused",
                self.dataset
            ));
        }
        Ok(if refused == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }

    /// The pictures of the class folders; a sample's id is `class/file`.
    fn find(&self) -> Result<Left, ClientError> {
        let local = |problem: String| ClientError::local(ErrorKind::InvalidArgument, problem);
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|error| local(format!("{}: {error}", self.folder.display())))?;
        let mut left = Left::new();
        for class in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let label = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for file in terminal::pictures_in(&class) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                left.insert(format!("{label}/{name}"), (label.clone(), file));
            }
        }
        if left.is_empty() {
            return Err(local(format!(
                "{} has no pictures in folders named after their class (FOLDER/CLASS/PICTURE.jpg)",
                self.folder.display()
            )));
        }
        Ok(left)
    }

    /// Sends what is left over one stream and takes out what was answered.
    async fn stream(
        &self,
        client: &Client,
        left: &mut Left,
        bar: &ProgressBar,
        json: bool,
        refused: &mut usize,
        duplicates: &mut usize,
    ) -> Result<(), ClientError> {
        let (sender, items) = mpsc::channel(READ_AHEAD);
        let (dataset, sending) = (self.dataset.clone(), left.clone());
        // Pictures are read as the device takes them; the task ends when the stream does.
        let reader = tokio::spawn(async move {
            let mut unreadable = Vec::new();
            for (id, (label, file)) in sending {
                match item(&dataset, &id, label, &file).await {
                    Ok(item) => {
                        if sender.send(item).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => unreadable.push((id, file, error)),
                }
            }
            unreadable
        });
        let mut answers = client.stream_samples(ReceiverStream::new(items)).await?;
        let mut failed = |left: &mut Left, id: &str, error: &ClientError| {
            if let Some((_, file)) = left.remove(id) {
                *refused += 1;
                bar.inc(1);
                bar.suspend(|| output::failure(&file, error, json));
            }
        };
        while let Some((id, result)) = answers.next().await? {
            match result {
                Ok(stored) => {
                    *duplicates += usize::from(stored.duplicate);
                    if left.remove(&id).is_some() {
                        bar.inc(1);
                    }
                }
                // There will be room later: it stays among what is left.
                Err(error) if error.kind == ErrorKind::Unavailable => {}
                Err(error) => failed(left, &id, &error),
            }
        }
        for (id, _, error) in reader.await.unwrap_or_default() {
            failed(left, &id, &error);
        }
        Ok(())
    }
}

async fn item(
    dataset: &str,
    id: &str,
    label: String,
    file: &Path,
) -> Result<StreamSamplesRequest, ClientError> {
    let request = PredictRequest::from(Picture::from_file(file).await?);
    Ok(StreamSamplesRequest {
        correlation_id: id.to_owned(),
        sample: Some(NewSample {
            dataset: dataset.to_owned(),
            id: id.to_owned(),
            labels: vec![label],
            content: request.image.map(new_sample::Content::Image),
            ..NewSample::default()
        }),
    })
}
