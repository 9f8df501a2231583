//! `graftctl watch`: what pictures show as they appear in a folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Model, Outcome, output, predict};
use crate::client::messages::{PredictRequest, PredictStreamRequest, StreamPolicy};
use crate::client::{Client, ClientError, ErrorKind, Picture};
use crate::terminal;

#[derive(Args, Debug)]
pub struct Watch {
    /// The folder.
    folder: PathBuf,
    #[command(flatten)]
    model: Model,
    /// How many classes to show, the most probable first.
    #[arg(long, default_value_t = 5)]
    top_k: u32,
    /// Milliseconds between two looks at the folder.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    interval: u64,
    /// Skip to the newest picture where they come faster than they can be answered.
    #[arg(long)]
    latest_only: bool,
    /// Answer the pictures that are there already too.
    #[arg(long)]
    existing: bool,
    /// End after so many answers, failures among them.
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Watch {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        if !self.folder.is_dir() {
            let message = format!("{} is not a folder", self.folder.display());
            return Err(ClientError::local(ErrorKind::NotFound, message));
        }
        let (sender, receiver) = mpsc::channel(4);
        let mut answers = client.predict_stream(ReceiverStream::new(receiver)).await?;
        let mut arrivals = Arrivals::default();
        if !self.existing {
            arrivals.ignore_present(&self.folder);
        }
        let mut interval = tokio::time::interval(Duration::from_millis(self.interval));
        let mut outcome = Outcome::Complete;
        let mut shown = 0;
        let mut pending: Vec<PathBuf> = Vec::new();
        while self.count.is_none_or(|count| shown < count) {
            tokio::select! {
                answer = answers.next() => {
                    let Some(answer) = answer? else { break };
                    let path = PathBuf::from(&answer.correlation_id);
                    shown += 1;
                    match answer.result {
                        Ok(found) if self.json => output::json_line(&predict::object(&path, &found)),
                        Ok(found) => predict::text(&path, &found),
                        Err(error) => {
                            outcome = Outcome::SomeFailed;
                            output::failure(&path, &error, self.json);
                        }
                    }
                }
                permit = sender.reserve(), if !pending.is_empty() => {
                    let Ok(permit) = permit else { break };
                    let path = pending.remove(0);
                    match Picture::from_file(&path).await {
                        Ok(picture) => permit.send(self.request(&path, picture)),
                        Err(error) => {
                            shown += 1;
                            outcome = Outcome::SomeFailed;
                            output::failure(&path, &error, self.json);
                        }
                    }
                }
                _ = interval.tick() => pending.extend(arrivals.look(&self.folder)),
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        Ok(outcome)
    }

    fn request(&self, path: &Path, picture: Picture) -> PredictStreamRequest {
        let policy =
            if self.latest_only { StreamPolicy::LatestOnly } else { StreamPolicy::AnswerAll };
        PredictStreamRequest {
            correlation_id: path.to_string_lossy().into_owned(),
            request: Some(PredictRequest {
                image: Some(picture.into()),
                head: self.model.head(),
                backbone: self.model.backbone(),
                top_k: Some(self.top_k),
                explain: None,
            }),
            policy: policy.into(),
        }
    }
}

/// Tells new pictures in a folder, once they have stopped growing.
#[derive(Debug, Default)]
struct Arrivals {
    /// Size at the last look and whether the picture was given out.
    seen: HashMap<PathBuf, (u64, bool)>,
}

impl Arrivals {
    fn ignore_present(&mut self, folder: &Path) {
        for path in terminal::pictures_in(folder) {
            self.seen.insert(path, (0, true));
        }
    }

    /// Pictures whose size has not changed since the look before, each once.
    fn look(&mut self, folder: &Path) -> Vec<PathBuf> {
        let present = terminal::pictures_in(folder);
        let mut seen = HashMap::with_capacity(present.len());
        let mut ready = Vec::new();
        for path in present {
            let size = path.metadata().map_or(0, |metadata| metadata.len());
            let complete = match self.seen.get(&path) {
                Some((_, true)) => true,
                Some((before, false)) if *before == size && size > 0 => {
                    ready.push(path.clone());
                    true
                }
                _ => false,
            };
            seen.insert(path, (size, complete));
        }
        self.seen = seen;
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_picture_is_given_out_once_and_only_when_it_has_stopped_growing() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old.jpg");
        std::fs::write(&old, b"old").unwrap();
        let mut arrivals = Arrivals::default();
        arrivals.ignore_present(folder.path());
        let new = folder.path().join("new.jpg");
        std::fs::write(&new, b"a").unwrap();
        assert!(arrivals.look(folder.path()).is_empty(), "seen for the first time");
        std::fs::write(&new, b"ab").unwrap();
        assert!(arrivals.look(folder.path()).is_empty(), "still growing");
        assert_eq!(arrivals.look(folder.path()), [new]);
        assert!(arrivals.look(folder.path()).is_empty(), "given out already");
    }
}
