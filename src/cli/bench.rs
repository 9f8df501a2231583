//! `graftd bench`: how fast a backbone runs on this device.

mod explain;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::{CliError, Global, Outcome};
use crate::app::{self, AppError};
use crate::base::cancel::Cancel;
use crate::engine::{
    Answer, Answerer, Engine, EngineError, EngineOptions, LiveBackbone, PoolOptions, Priority,
    Snapshot, Subject, Target, Ticket, Timings, prepare,
};
use crate::terminal::print;
use crate::vision::{ImageFormat, Limits, Picture, encode};

/// Rounds of an interleaved comparison; its result is the median of their ratios.
const ROUNDS: usize = 9;

/// Measure how fast a backbone runs here: inference alone (`engine`) and from JPEG bytes to classes
/// (`end_to_end`), both through the workers and their queue.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The backbone; default the latest added that is enabled, else the built-in one. The daemon's
    /// configuration is not read.
    #[arg(long, value_name = "ID")]
    backbone: Option<String>,
    /// Worker threads, as many requests in flight; default one a core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Seconds for each of the two measurements.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The photograph; default a drawn JPEG of 640 x 480.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Also compare, in interleaved rounds, the engine with the bare network on one thread, and all
    /// threads with one.
    #[arg(long)]
    compare: bool,
    /// Also measure, in turns on one thread, a prediction and explanations of it at the last spatial
    /// layer and at the one half-way down.
    #[arg(long)]
    explain: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What a closed loop of requests has shown.
struct Measured {
    /// Sorted.
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Bench {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.map_or_else(cores, |threads| threads as usize);
        let began = Instant::now();
        let backbone = app::load_backbone(&global.existing_state_dir()?, self.backbone.as_deref())?;
        let load = began.elapsed();
        let backbone = Arc::new(backbone);
        let photograph = self.photograph()?;
        let engine = engine(&backbone, threads)?;
        let tensor = tensor(&engine, &photograph)?;
        let duration = Duration::from_secs_f64(self.seconds.clamp(0.1, 3600.0));

        let inference = closed_loop(threads, duration, || run_tensor(&engine, &tensor))?;
        let end_to_end = closed_loop(threads, duration, || run_photograph(&engine, &photograph))?;
        let mut report = json!({
            "backbone": backbone.name.as_str(),
            "threads": threads,
            "load_ms": load.as_secs_f64() * 1e3,
            "engine": inference.report(),
            "end_to_end": end_to_end.report(),
            "resident_memory_mb": resident_megabytes(),
        });
        if self.compare {
            report["compare"] = compare(&backbone, &tensor, threads)?;
        }
        if self.explain {
            report["explain"] = explain::compare(&backbone, &tensor, duration)?;
        }
        if self.json {
            print::json(&report);
        } else {
            print_table(&report);
        }
        Ok(Outcome::Complete)
    }

    fn photograph(&self) -> Result<Bytes, CliError> {
        match &self.image {
            Some(path) => read(path),
            None => drawn_photograph(),
        }
    }
}

fn read(path: &Path) -> Result<Bytes, CliError> {
    let bytes = std::fs::read(path);
    bytes.map(Bytes::from).map_err(|error| CliError::Other(format!("{}: {error}", path.display())))
}

/// Soft colour waves with fine grain: compresses about as well as a photograph does.
fn drawn_photograph() -> Result<Bytes, CliError> {
    let (width, height) = (640_u32, 480_u32);
    let mut grain = 0x9e37_79b9_u32;
    let mut pixels = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3_u32 {
                grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let phase =
                    f64::from(x * (channel + 1)) / 70.0 + f64::from(y * (3 - channel)) / 50.0;
                let noise = f64::from(grain >> 27) - 16.0;
                pixels.push((128.0 + 90.0 * phase.sin() + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    let picture = Picture::new(width, height, pixels).map_err(EngineError::from)?;
    let bytes = encode(&picture, ImageFormat::Jpeg { quality: 90 }).map_err(EngineError::from)?;
    Ok(bytes.into())
}

fn engine(backbone: &Arc<LiveBackbone>, workers: usize) -> Result<Engine, CliError> {
    let snapshot = Snapshot {
        backbones: [(backbone.name.clone(), Arc::clone(backbone))].into(),
        ..Snapshot::default()
    };
    let pool = PoolOptions { workers, queue: 2 * workers };
    Engine::start(snapshot, EngineOptions { pool, limits: Limits::default() })
        .map_err(|reason| AppError::System { what: "worker threads", reason }.into())
}

fn tensor(engine: &Engine, photograph: &Bytes) -> Result<Arc<[f32]>, CliError> {
    let by = engine.snapshot().resolve(&Target::Default)?;
    let subject = Subject::Encoded(photograph.clone());
    let mut timings = Timings::default();
    Ok(prepare(&by, subject, &engine.limits(), &Cancel::default(), &mut timings)?.tensor)
}

/// The network alone, through queue and worker.
fn run_tensor(engine: &Engine, tensor: &Arc<[f32]>) -> Result<(), EngineError> {
    let Answerer { backbone, .. } = engine.snapshot().resolve(&Target::Default)?;
    let tensor = Arc::clone(tensor);
    let work = move |_: &Cancel, _: Timings| backbone.forward(&tensor).map(drop);
    engine.run(Priority::Foreground, Cancel::default(), work)?.wait()?
}

/// From JPEG bytes to classes.
fn run_photograph(engine: &Engine, photograph: &Bytes) -> Result<(), EngineError> {
    let subject = Subject::Encoded(photograph.clone());
    let by = engine.snapshot().resolve(&Target::Default)?;
    if by.backbone.network.classifier().is_none() {
        let ticket =
            engine.embed(Priority::Foreground, &Target::Default, subject, Cancel::default())?;
        return ticket.wait()?.map(drop);
    }
    let ticket: Ticket<Result<Answer, EngineError>> =
        engine.predict(&Target::Default, subject, Cancel::default())?;
    ticket.wait()?.map(drop)
}

/// `threads` callers, each with one request in flight, for `duration`; a tenth of it warms up.
fn closed_loop(
    threads: usize,
    duration: Duration,
    request: impl Fn() -> Result<(), EngineError> + Sync,
) -> Result<Measured, EngineError> {
    let warm = Instant::now() + duration / 10;
    let end = warm + duration;
    let counted_from = AtomicU64::new(u64::MAX);
    let caller = || {
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let began = Instant::now();
            request()?;
            if began >= warm {
                let since_warm = began.duration_since(warm).as_nanos() as u64;
                counted_from.fetch_min(since_warm, Ordering::Relaxed);
                latencies.push(began.elapsed());
            }
        }
        Ok::<_, EngineError>(latencies)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let first = warm + Duration::from_nanos(counted_from.load(Ordering::Relaxed).min(1 << 40));
    let elapsed = first.elapsed();
    let mut latencies = Vec::new();
    for result in results {
        latencies.extend(result.map_err(|_| EngineError::Fault("a caller panicked".into()))??);
    }
    latencies.sort_unstable();
    Ok(Measured { latencies, elapsed })
}

impl Measured {
    /// The latency that a share of `percent` of the requests does not exceed, in milliseconds.
    fn percentile(&self, percent: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * percent / 100.0).round() as usize;
        self.latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    fn images_per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn report(&self) -> Value {
        json!({
            "median_ms": self.percentile(50.0),
            "p95_ms": self.percentile(95.0),
            "p99_ms": self.percentile(99.0),
            "images_per_second": self.images_per_second(),
            "images": self.latencies.len(),
        })
    }
}

/// Ratios measured side by side, in turns, so that whatever else the machine does meets both: the engine
/// and the bare network take turns image by image, the numbers of threads round by round.
fn compare(
    backbone: &Arc<LiveBackbone>,
    tensor: &Arc<[f32]>,
    threads: usize,
) -> Result<Value, CliError> {
    let single = engine(backbone, 1)?;
    let all = engine(backbone, threads)?;
    let (mut overheads, mut speedups) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bare, through) = in_turns(
            Duration::from_millis(1400),
            || backbone.forward(tensor).map(drop),
            || run_tensor(&single, tensor),
        )?;
        overheads.push(through.percentile(50.0) / bare.percentile(50.0));
        let one = closed_loop(1, Duration::from_millis(700), || run_tensor(&single, tensor))?;
        let many = closed_loop(threads, Duration::from_millis(700), || run_tensor(&all, tensor))?;
        speedups.push(many.images_per_second() / one.images_per_second());
    }
    Ok(json!({
        "rounds": ROUNDS,
        "engine_over_bare_network": median(&mut overheads),
        "threads_over_one": median(&mut speedups),
    }))
}

/// One request after the other, the first way and the second in turns, for `duration`.
fn in_turns(
    duration: Duration,
    first: impl Fn() -> Result<(), EngineError>,
    second: impl Fn() -> Result<(), EngineError>,
) -> Result<(Measured, Measured), EngineError> {
    let timed = |request: &dyn Fn() -> Result<(), EngineError>| {
        let began = Instant::now();
        request()?;
        Ok::<_, EngineError>(began.elapsed())
    };
    let began = Instant::now();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    while began.elapsed() < duration || one.is_empty() {
        one.push(timed(&first)?);
        other.push(timed(&second)?);
    }
    let measured = |mut latencies: Vec<Duration>| {
        latencies.sort_unstable();
        Measured { elapsed: latencies.iter().sum(), latencies }
    };
    Ok((measured(one), measured(other)))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resident memory of this process, in MB (10^6 bytes).
fn resident_megabytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

fn print_table(report: &Value) {
    let number =
        |value: &Value| value.as_f64().map_or("?".to_owned(), |number| format!("{number:.2}"));
    print::line(format_args!(
        "{} on {} threads",
        report["backbone"].as_str().unwrap_or_default(),
        report["threads"]
    ));
    print::line(format_args!(
        "{:12} {:>10} {:>10} {:>10} {:>10}",
        "", "median ms", "p95 ms", "p99 ms", "images/s"
    ));
    for part in ["engine", "end_to_end"] {
        let row = &report[part];
        let cells =
            ["median_ms", "p95_ms", "p99_ms", "images_per_second"].map(|name| number(&row[name]));
        print::line(format_args!(
            "{part:12} {:>10} {:>10} {:>10} {:>10}",
            cells[0], cells[1], cells[2], cells[3]
        ));
    }
    print::line(format_args!(
        "resident memory {} MB, loaded in {} ms",
        number(&report["resident_memory_mb"]),
        number(&report["load_ms"])
    ));
    if let Some(compare) = report.get("compare") {
        print::line(format_args!(
            "engine / bare network {}",
            number(&compare["engine_over_bare_network"])
        ));
        print::line(format_args!("all threads / one     {}", number(&compare["threads_over_one"])));
    }
    if let Some(explain) = report.get("explain") {
        let predict = number(&explain["predict_ms"]);
        print::line(format_args!("predict               {predict} ms"));
        for part in ["last_layer", "half_way"] {
            let row = &explain[part];
            let layer = row["layer"].as_str().unwrap_or_default();
            let ratio = number(&row["over_predict"]);
            print::line(format_args!("explain / predict     {ratio} at {layer}"));
        }
    }
}
