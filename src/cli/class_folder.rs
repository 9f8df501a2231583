//! A folder of photographs with a folder a class, and their embeddings.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::f16;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::CliError;
use super::preprocessing::PreprocessingFlags;
use crate::app;
use crate::base::cancel::Cancel;
use crate::base::digest::Hasher;
use crate::engine::{
    Engine, EngineError, EngineOptions, LiveBackbone, PoolOptions, Priority, Snapshot, Subject,
    Target, Ticket, Timings, prepare,
};
use crate::heads::check_label;
use crate::terminal::pictures_in;
use crate::terminal::print;
use crate::train::doctor::PhotographFacts;
use crate::train::{HalfRows, Samples};
use crate::vision::{Limits, quality};

/// Photographs with their classes, sorted by class, then by path.
pub(crate) struct ClassFolder {
    classes: Vec<String>,
    pictures: Vec<Labelled>,
}

struct Labelled {
    path: PathBuf,
    /// Below the folder, with `/` between its parts.
    relative: String,
    class: u32,
}

impl ClassFolder {
    /// Lists the folder: every folder in it (but hidden ones) is a class, every picture below that a
    /// sample.
    pub(crate) fn read(root: &Path) -> Result<Self, CliError> {
        let unreadable = |error: std::io::Error| {
            CliError::Other(format!(
                "cannot read {}: {error}; give a folder that holds a folder of pictures for each \
                 class",
                root.display()
            ))
        };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(root).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            if let Some(name) = name.filter(|name| path.is_dir() && !name.starts_with('.')) {
                check_label(&name).map_err(|error| CliError::Other(error.to_string()))?;
                folders.push((name, path));
            }
        }
        folders.sort();
        let (mut classes, mut pictures) = (Vec::new(), Vec::new());
        for (name, folder) in folders {
            let class = classes.len() as u32;
            let found = pictures_in(&folder);
            if found.is_empty() {
                continue;
            }
            classes.push(name);
            pictures.extend(found.into_iter().map(|path| {
                let below = path.strip_prefix(root).unwrap_or(&path);
                let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
                Labelled { relative: parts.join("/"), path, class }
            }));
        }
        if classes.is_empty() {
            return Err(CliError::Other(format!(
                "{} holds no classes: make a folder for each class and put its pictures there",
                root.display()
            )));
        }
        Ok(Self { classes, pictures })
    }

    /// Computes all embeddings on all cores. Pictures that cannot be used are told on standard error
    /// and left out.
    pub(crate) fn embed(self, on: &Embedder) -> Result<Embedded, CliError> {
        let began = Instant::now();
        let bar = progress_bar(self.pictures.len() as u64, "embeddings");
        let mut result = Embedded {
            classes: self.classes,
            embeddings: Vec::new(),
            width: on.width,
            labels: Vec::new(),
            names: Vec::new(),
            facts: Vec::new(),
            failed: 0,
            seconds: 0.0,
        };
        let mut waiting: VecDeque<(Labelled, Pending)> = VecDeque::new();
        let mut rest = self.pictures.into_iter();
        loop {
            while waiting.len() < 2 * on.workers
                && let Some(picture) = rest.next()
            {
                let ticket = on.submit(&picture.path);
                waiting.push_back((picture, ticket));
            }
            let Some((picture, ticket)) = waiting.pop_front() else { break };
            let outcome = ticket.and_then(|ticket| {
                ticket.wait().and_then(|answer| answer).map_err(|error| error.to_string())
            });
            match outcome {
                Ok((embedding, facts)) => {
                    // f16 ends at 65504; a feature beyond is as large as can be.
                    let half = |v: &f32| f16::from_f32(v.clamp(-65504.0, 65504.0));
                    result.embeddings.extend(embedding.iter().map(half));
                    result.labels.push(picture.class);
                    result.names.push(picture.relative);
                    result.facts.push(facts);
                }
                Err(reason) => {
                    result.failed += 1;
                    bar.suspend(|| {
                        print::error(format_args!(
                            "{}: {reason}; left out",
                            picture.path.display()
                        ));
                    });
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        result.seconds = began.elapsed().as_secs_f64();
        result.drop_empty_classes();
        Ok(result)
    }
}

type Outcome = Result<(Vec<f32>, Option<PhotographFacts>), EngineError>;
type Pending = Result<Ticket<Outcome>, String>;

/// A backbone with workers.
pub(crate) struct Embedder {
    engine: Engine,
    workers: usize,
    width: usize,
    examine: bool,
}

impl Embedder {
    /// Loads the backbone, the one that the daemon would take where none is named. With `examine`,
    /// photographs are also measured for the dataset doctor.
    pub(crate) fn start(
        state_dir: &Path,
        backbone: Option<&str>,
        preprocessing: &PreprocessingFlags,
        threads: Option<u32>,
        examine: bool,
    ) -> Result<Self, CliError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = threads.map_or_else(cores, |threads| threads as usize);
        let mut backbone = app::load_backbone(state_dir, backbone)?;
        backbone.preprocessing = preprocessing.over(&backbone.preprocessing)?;
        let width = backbone.network.embedding().width;
        let options = EngineOptions {
            pool: PoolOptions { workers, queue: 4 * workers },
            limits: Limits { bytes: 1 << 30, ..Limits::default() },
        };
        let engine = Engine::start(Snapshot::of(backbone), options)
            .map_err(|error| CliError::Other(format!("cannot start worker threads: {error}")))?;
        Ok(Self { engine, workers, width, examine })
    }

    /// The backbone.
    pub(crate) fn backbone(&self) -> Result<std::sync::Arc<LiveBackbone>, CliError> {
        Ok(self.engine.snapshot().resolve(&Target::Default)?.backbone)
    }

    fn submit(&self, path: &Path) -> Pending {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let by = self.engine.snapshot().resolve(&Target::Default).map_err(|e| e.to_string())?;
        let (limits, examine) = (self.engine.limits(), self.examine);
        let work = move |cancel: &Cancel, mut timings: Timings| {
            let subject = Subject::Encoded(bytes.into());
            let prepared = prepare(&by, subject, &limits, cancel, &mut timings)?;
            let facts = prepared.picture.as_deref().filter(|_| examine).map(|picture| {
                let quality = quality(picture);
                PhotographFacts {
                    shorter_side: picture.width.min(picture.height),
                    sharpness: quality.sharpness,
                    contrast: quality.contrast,
                    hash: quality.hash,
                }
            });
            Ok((by.backbone.forward(&prepared.tensor)?.embedding().to_vec(), facts))
        };
        self.engine
            .run(Priority::Foreground, Cancel::default(), work)
            .map_err(|error| error.to_string())
    }
}

/// A folder's embeddings.
pub(crate) struct Embedded {
    /// Labels of the classes that have samples.
    pub(crate) classes: Vec<String>,
    embeddings: Vec<f16>,
    width: usize,
    labels: Vec<u32>,
    /// Paths below the folder, one a sample.
    pub(crate) names: Vec<String>,
    /// What is known of the photographs, one a sample.
    pub(crate) facts: Vec<Option<PhotographFacts>>,
    /// Pictures that could not be used.
    pub(crate) failed: usize,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Embedded {
    /// The rows, for [`Embedded::samples`].
    pub(crate) fn rows(&self) -> Result<HalfRows<'_>, CliError> {
        HalfRows::new(&self.embeddings, self.width)
            .ok_or_else(|| CliError::Other("the backbone has no embedding".into()))
    }

    /// What `train` takes.
    pub(crate) fn samples<'a>(&self, rows: &'a HalfRows<'a>) -> Samples<'a> {
        Samples::new(rows, self.labels.clone(), self.classes.clone())
    }

    /// SHA-256 over names and labels: tells two states of a folder apart.
    pub(crate) fn snapshot(&self) -> String {
        let mut hasher = Hasher::default();
        for (name, &label) in self.names.iter().zip(&self.labels) {
            hasher.update(name.as_bytes());
            hasher.update(b"\0");
            hasher.update(self.classes[label as usize].as_bytes());
            hasher.update(b"\0");
        }
        hasher.finish().to_string()
    }

    /// A class all of whose pictures failed is no class.
    fn drop_empty_classes(&mut self) {
        let mut counts = vec![0_usize; self.classes.len()];
        self.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let mut renumbered = Vec::with_capacity(counts.len());
        let mut next = 0_u32;
        for &count in &counts {
            renumbered.push(next);
            next += u32::from(count > 0);
        }
        let mut count = counts.iter();
        self.classes.retain(|_| count.next().is_some_and(|&n| n > 0));
        self.labels.iter_mut().for_each(|label| *label = renumbered[*label as usize]);
    }
}

/// A bar on standard error, where that is a terminal.
pub(crate) fn progress_bar(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = "{msg:12} {wide_bar} {pos}/{len} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}
