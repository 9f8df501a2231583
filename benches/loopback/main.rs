//! The daemon over loopback gRPC beside the same work in this process: `just loopback`.
//!
//! One photograph of 640 x 480, `MobileNetV2`, a real `graftd serve` as a child. Tables: how soon the
//! daemon is ready and what it holds; one request at a time, alone and beside other work; many at a
//! time. Whatever is compared takes turns, so that what else the machine does hits both alike.

#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark")]

mod beside;
#[path = "../common/mod.rs"]
mod common;
mod daemon;
mod latency;
mod local;
mod process;
mod report;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Parser;
use graftd::client::{Client, Picture, messages::PredictRequest};
use graftd::vision::{ImageFormat, encode};
use serde_json::json;

use beside::Work;
use daemon::Daemon;
use local::Local;

/// The network's id on the device, and its file in the assets.
const BACKBONE: &str = "mobilenet-v2";
const MODEL: &str = "models/mobilenet-v2.onnx";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The daemon over loopback gRPC beside the same work in this process.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds for each of the ways in the comparison of throughput.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Requests in flight in the comparison of throughput.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Worker threads, and threads of this process beside them; default one a core.
    #[arg(long)]
    workers: Option<usize>,
    /// Pairs of requests in the comparison of latency.
    #[arg(long, default_value_t = 500)]
    requests: usize,
    /// Starts of the daemon.
    #[arg(long, default_value_t = 9)]
    starts: usize,
    /// The program to serve with; default the one built beside this benchmark.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_graftd"))]
    graftd: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let Some(model) = model() else { return ExitCode::SUCCESS };
    match run(&Arguments::parse(), &model) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The network's file: in `$GRAFTD_ASSETS`, else in `../shared/assets`.
fn model() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/assets");
    let file = std::env::var_os("GRAFTD_ASSETS").map_or_else(beside, PathBuf::from).join(MODEL);
    if !file.is_file() {
        eprintln!("skipped: no {} (set GRAFTD_ASSETS)", file.display());
        return None;
    }
    Some(file)
}

fn run(arguments: &Arguments, model: &std::path::Path) -> Result<(), Error> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = arguments.workers.unwrap_or_else(cores).max(1);
    let jpeg = encode(&common::photograph(640, 480), ImageFormat::Jpeg { quality: 90 })?;
    let jpeg = Bytes::from(jpeg);
    let large = encode(&common::photograph(4000, 3000), ImageFormat::Jpeg { quality: 90 })?;
    let large = Bytes::from(large);
    let runtime = tokio::runtime::Runtime::new()?;
    let state = tempfile::tempdir()?;
    daemon::add(&arguments.graftd, state.path(), model)?;

    let start = || Daemon::start(&arguments.graftd, state.path(), workers);
    let starts = runtime.block_on(daemon::starts(arguments.starts.max(1), start))?;

    let local = Local::load(state.path(), jpeg.clone())?;
    let report = runtime.block_on(async {
        let daemon = start().await?;
        let client = Client::connect(daemon.address()).await?;
        agree(&client, &local).await?;
        let latency = latency::compare(&client, &local, arguments.requests.max(1)).await?;
        let mut beside = Vec::new();
        for (work, in_flight) in [
            (Work::Explanations(jpeg.clone()), 2 * workers),
            (Work::Overlays(large), 2 * workers),
            (Work::Loading, 1),
        ] {
            let requests = arguments.requests.max(1);
            let plan = beside::Plan { requests, jpeg: jpeg.clone(), work, in_flight };
            beside.push(plan.compare(&client).await?.report());
        }
        let throughput = throughput::Plan {
            seconds: arguments.seconds.max(1.0),
            concurrency: arguments.concurrency.max(1),
            threads: workers,
        };
        let throughput = throughput.compare(&daemon, &client, &local).await?;
        let after = daemon.process().memory()?;
        daemon.stop().await?;
        Ok::<_, Error>(json!({
            "backbone": BACKBONE,
            "workers": workers,
            "photograph": { "width": 640, "height": 480, "bytes": jpeg.len() },
            "start": starts.report(),
            "latency": latency.report(),
            "beside": beside,
            "throughput": throughput.report(),
            "resident_mb_after": after.resident,
            "resident_mb_at_most": after.at_most,
        }))
    })?;
    if arguments.json {
        println!("{report}");
    } else {
        print!("{}", report::text(&report));
    }
    Ok(())
}

/// The request that is measured.
fn request(jpeg: &Bytes) -> PredictRequest {
    Picture::from_bytes(jpeg.clone()).into()
}

/// Both sides must do the same work: they see the same class.
async fn agree(client: &Client, local: &Local) -> Result<(), Error> {
    let answer = client.predict(request(local.jpeg())).await?;
    let remote = answer.predictions.first().map(|best| best.index as usize);
    let here = local.answer()?;
    if remote != Some(here) || answer.backbone != BACKBONE {
        return Err(format!("the daemon says {remote:?}, this process {here}").into());
    }
    Ok(())
}
