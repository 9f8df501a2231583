//! `graftctl samples push`: a folder of classes into a dataset, over a connection that may break.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Outcome, batch, output};
use crate::client::messages::{NewSample, PredictRequest, StreamSamplesRequest, new_sample};
use crate::client::{Client, ClientError, ErrorKind, Picture};
use crate::terminal;

/// Pictures that are read ahead of the connection.
const READ_AHEAD: usize = 16;
/// How often a cut connection is taken up again without a single sample getting through.
const ATTEMPTS: u32 = 8;

#[derive(Args, Debug)]
pub struct Push {
    /// A folder with a folder per class in it.
    folder: PathBuf,
    /// The dataset on the device; made where it does not exist.
    #[arg(long)]
    dataset: String,
}

/// What is left to send: by id, the class and the file.
type Left = BTreeMap<String, (String, PathBuf)>;

impl Push {
    /// Sends everything, however often the connection breaks.
    pub async fn run(&self, client: &Client, json: bool) -> Result<Outcome, ClientError> {
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
        let there = self.there(client).await;
        if json {
            output::json_line(&json!({
                "dataset": self.dataset,
                "stored": stored,
                "duplicates": duplicates,
                "refused": refused,
                "samples": there,
            }));
        } else {
            // A quota may have dropped what was stored a moment ago.
            let gone = match there {
                Some(there) if there < stored as u64 => {
                    format!(", where {there} are left: its quota drops the oldest")
                }
                _ => String::new(),
            };
            let verb = if gone.is_empty() { "are" } else { "were stored" };
            output::line(format_args!(
                "{stored} samples {verb} in {}, {duplicates} of them were before; {refused} \
                 refused{gone}",
                self.dataset
            ));
        }
        Ok(if refused == 0 { Outcome::Complete } else { Outcome::SomeFailed })
    }

    /// How many samples the dataset has now. Everything is stored by then, so a connection that breaks
    /// once more is no failure: nothing is told.
    async fn there(&self, client: &Client) -> Option<u64> {
        for _ in 0..ATTEMPTS {
            match client.list_datasets().await {
                Ok(datasets) => {
                    let known = datasets.into_iter().find(|dataset| dataset.name == self.dataset);
                    return Some(known.map_or(0, |dataset| dataset.sample_count));
                }
                Err(error) if error.is_temporary() => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// The pictures of the class folders, hidden ones apart; a sample's id is its path below the folder.
    fn find(&self) -> Result<Left, ClientError> {
        let local = |problem: String| ClientError::local(ErrorKind::InvalidArgument, problem);
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|error| local(format!("{}: {error}", self.folder.display())))?;
        let mut left = Left::new();
        for class in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let label = class.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if label.starts_with('.') {
                continue;
            }
            for file in terminal::pictures_in(&class) {
                let below = file.strip_prefix(&self.folder).unwrap_or(&file);
                let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
                left.insert(parts.join("/"), (label.clone(), file));
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
