//! Many pictures at once, answered in the order given.

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::{Outcome, output};
use crate::client::{Client, ClientError, ErrorKind, Picture};
use crate::terminal;

/// Attempts at one picture while the device is busy.
const ATTEMPTS: u32 = 10;

/// The pictures of a command and how its answers are shown.
#[derive(Args, Debug)]
pub struct Batch {
    /// Picture files, folders or patterns.
    #[arg(required = true, value_name = "PICTURE")]
    pictures: Vec<String>,
    /// Pictures in work at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

impl Batch {
    /// The picture files that the names stand for.
    pub fn files(&self) -> Result<Vec<PathBuf>, ClientError> {
        terminal::pictures(&self.pictures)
            .map_err(|error| ClientError::local(ErrorKind::InvalidArgument, error.to_string()))
    }

    /// Calls `call` for every picture, at most `concurrency` at a time, and `show` with every answer
    /// in the order of the pictures. Failures are reported as they come; the rest goes on.
    pub async fn run<T, F>(
        &self,
        client: &Client,
        call: impl Fn(Client, Picture) -> F + Clone + Send + 'static,
        mut show: impl FnMut(&Path, T) -> Result<(), ClientError>,
    ) -> Result<Outcome, ClientError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ClientError>> + Send + 'static,
    {
        let pictures = self.files()?;
        let bar = progress_bar(pictures.len() as u64, "pictures");
        let mut waiting = pictures.into_iter();
        let mut running: VecDeque<(PathBuf, JoinHandle<Result<T, ClientError>>)> = VecDeque::new();
        let mut outcome = Outcome::Complete;
        loop {
            while running.len() < usize::from(self.concurrency) {
                let Some(path) = waiting.next() else { break };
                let task = one(client.clone(), call.clone(), path.clone());
                running.push_back((path, tokio::spawn(task)));
            }
            let Some((path, task)) = running.pop_front() else { break };
            let answer = task.await.unwrap_or_else(|error| {
                Err(ClientError::local(ErrorKind::Internal, error.to_string()))
            });
            bar.inc(1);
            let shown = bar.suspend(|| match answer {
                Ok(answer) => show(&path, answer),
                Err(error) => Err(error),
            });
            if let Err(error) = shown {
                outcome = Outcome::SomeFailed;
                bar.suspend(|| output::failure(&path, &error, self.json));
            }
        }
        bar.finish_and_clear();
        Ok(outcome)
    }
}

/// One picture: read, sent, and sent again while the device is busy.
async fn one<T, F>(
    client: Client,
    call: impl Fn(Client, Picture) -> F,
    path: PathBuf,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let picture =
        Picture::from_bytes(tokio::fs::read(&path).await.map_err(
            |error| match terminal::explained(&path, &error) {
                Some(text) => ClientError::local(ErrorKind::NotFound, text),
                None => ClientError::local(
                    ErrorKind::InvalidArgument,
                    format!("cannot be read: {error}"),
                ),
            },
        )?);
    patiently(move || call(client.clone(), picture.clone())).await
}

/// Calls again, later and later, while the device is busy.
pub async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error)
                if error.kind == ErrorKind::ResourceExhausted
                    && error.retry_after.is_some()
                    && attempt < ATTEMPTS =>
            {
                let wait = error.retry_after.unwrap_or(Duration::from_millis(50));
                tokio::time::sleep(wait.min(Duration::from_secs(5)) * attempt).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// A progress bar on standard error, hidden where that is no terminal or there is only one item.
pub fn progress_bar(total: u64, what: &str) -> ProgressBar {
    if total < 2 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{per_sec}}, {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}
