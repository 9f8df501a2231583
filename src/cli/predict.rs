//! `graftd predict`: what photographs show, without a daemon.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::answering::Answering;
use super::{CliError, Global, Outcome, output};
use crate::base::cancel::Cancel;
use crate::engine::{Answer, Engine, EngineError, Subject, Target, Ticket};
use crate::rpc;
use crate::terminal;
use crate::terminal::print;

/// Say what photographs show.
#[derive(Args, Debug)]
pub(crate) struct Predict {
    /// Photographs, folders of them, or patterns with * and ?.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    answering: Answering,
    /// How many classes to show.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Worker threads; default one a core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// An image in the queue, or what was wrong with it before it got there.
type Waiting = (PathBuf, Result<Ticket<Result<Answer, EngineError>>, Trouble>);

/// Why one image has no answer.
enum Trouble {
    File(std::io::Error),
    Engine(EngineError),
}

impl Predict {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let images = terminal::pictures(&self.images)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.threads.map_or_else(cores, |threads| threads as usize);
        let engine = self.answering.engine(global, workers)?;
        let mut outcome = Outcome::Complete;
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut rest = images.into_iter();
        // As many in flight as keep every worker busy; answers come in the order of the inputs.
        loop {
            while waiting.len() < 2 * workers
                && let Some(image) = rest.next()
            {
                let ticket = submit(&engine, &image);
                waiting.push_back((image, ticket));
            }
            let Some((image, ticket)) = waiting.pop_front() else { break };
            let waited = ticket.and_then(|ticket| match ticket.wait() {
                Ok(answer) => answer.map_err(Trouble::Engine),
                Err(error) => Err(Trouble::Engine(error)),
            });
            match waited {
                Ok(answer) => self.print(&image, &answer),
                Err(trouble) => {
                    outcome = Outcome::SomeFailed;
                    self.print_trouble(&image, trouble);
                }
            }
        }
        Ok(outcome)
    }

    fn print(&self, image: &Path, answer: &Answer) {
        let top_k = self.top_k as usize;
        if self.json {
            let mut object = json!({
                "image": image.to_string_lossy(),
                "backbone": answer.by.backbone.name.as_str(),
                "predictions": output::predictions(&answer.top(top_k)),
                "timings_ms": output::timings(&answer.timings),
            });
            if let Some(head) = &answer.by.head {
                object["head"] = json!(head.name.as_str());
            }
            print::json(&object);
        } else {
            print::line(output::line(image, answer, top_k));
        }
    }

    fn print_trouble(&self, image: &Path, trouble: Trouble) {
        let error = match trouble {
            Trouble::File(error) => output::unreadable(image, &error),
            Trouble::Engine(error) => rpc::failure(error).into(),
        };
        output::print_failure(image, &error, self.json);
    }
}

fn submit(engine: &Engine, image: &Path) -> Result<Ticket<Result<Answer, EngineError>>, Trouble> {
    let bytes = std::fs::read(image).map_err(Trouble::File)?;
    let subject = Subject::Encoded(bytes.into());
    engine.predict(&Target::Default, subject, Cancel::default()).map_err(Trouble::Engine)
}
