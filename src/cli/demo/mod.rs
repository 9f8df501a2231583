//! `graftd demo`: the whole product in one command, with nothing else at hand.
//!
//! It draws its own photographs ([`drawing`], [`lessons`]), starts a daemon ([`device`]) and goes
//! through the [`steps`] as any client would, over gRPC; [`report`] prints and [`sheet`] lays out
//! what a person is to look at, with a [`caption`] below each.

mod caption;
mod device;
mod drawing;
mod lessons;
mod report;
mod sheet;
mod steps;

use std::path::PathBuf;

use clap::Args;

use self::device::Device;
use self::steps::Story;
use super::{CliError, Outcome};
use crate::app::AppError;

/// See the whole of graftd in a minute: it draws small parts, learns them, explains itself.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Folder for the pictures.
    #[arg(long, value_name = "DIR", default_value = "graftd-demo")]
    out: PathBuf,
    /// Leave the daemon running at the end, until Ctrl-C, so that you can try its calls.
    #[arg(long)]
    keep: bool,
    /// Of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Drawings a class for the first version of the head; the second learns from twice as many.
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u32).range(10..=1000))]
    samples: u32,
}

impl Demo {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<Outcome, CliError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|reason| AppError::System { what: "threads", reason })?;
        let shown = runtime.block_on(self.show());
        runtime.shutdown_background();
        shown.map(|()| Outcome::Complete)
    }

    async fn show(&self) -> Result<(), CliError> {
        let device = Device::start().await?;
        let story = Story::new(&device, &self.out, self.seed, self.samples);
        let told = story.tell().await;
        if told.is_ok() && self.keep {
            report::kept(device.address());
            tokio::signal::ctrl_c()
                .await
                .map_err(|reason| AppError::System { what: "signal handlers", reason })?;
        }
        let stopped = device.stop().await;
        told.and(stopped)
    }
}
