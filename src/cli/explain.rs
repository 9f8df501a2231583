//! `graftd explain`: where the network looked, without a daemon.

mod report;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use self::report::{Shown, Tally};
use super::answering::Answering;
use super::{CliError, Global, Outcome, boxes, output};
use crate::base::atomic;
use crate::base::cancel::Cancel;
use crate::client::{ClientError, ErrorKind};
use crate::engine::{
    Beside, Drawing, Engine, EngineError, ExplainOptions, Explained, Overlay, Subject, Target,
    Ticket,
};
use crate::explain::{self, ClassSpec, Method, Request, SmoothGrad, sanity};
use crate::grad::{State, TABLE};
use crate::rpc;
use crate::terminal::{self, Overlays, print};
use crate::vision::{ColorMap, DEFAULT_STRENGTH, ImageFormat};

/// Say where the network looked.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Photographs, folders of them, or patterns with * and ?.
    #[arg(required_unless_present = "rules", value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    answering: Answering,
    #[command(flatten)]
    pub(super) choice: Choice,
    /// Write the photograph with the map over it, as .png or .jpg; a folder for several images, where
    /// those of one name are numbered.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Colours of the overlay: jet, turbo, viridis, inferno, magma or grey.
    #[arg(long, default_value = "jet")]
    colors: ColorMap,
    /// The map's share of the overlay's colour, 0 to 1.
    #[arg(long, default_value_t = DEFAULT_STRENGTH, value_parser = terminal::strength)]
    strength: f32,
    /// Pixels of the overlay's longer side at most. Default: the photograph's own size.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    longest_side: Option<u32>,
    /// Measure the explanation: insertion and deletion curves, average drop and, with --boxes, the
    /// pointing game and the energy inside. About a hundred more runs an image.
    #[arg(long)]
    score: bool,
    /// Where the objects are: a JSON list of {"file", "boxes": [[x0, y0, x1, y1], ...]}.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// Shuffle the weights of the head or the classifier, then of one layer more at a time down to the
    /// picture, and print how little the map stays the same (Adebayo et al. 2018).
    #[arg(long)]
    sanity: bool,
    /// At most so many stages of --sanity, 2 at least: several layers are shuffled at each after the
    /// first. Default: one a layer.
    #[arg(long, value_name = "N", requires = "sanity", value_parser = clap::value_parser!(u32).range(2..))]
    sanity_stages: Option<u32>,
    /// Print the table of gradient rules and do nothing else.
    #[arg(long)]
    rules: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How to explain; the same for `explain` and `audit`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Explanation")]
pub(crate) struct Choice {
    /// The class: an index (386), a label (label:tabby), the difference of two (281-207). Default:
    /// the most probable one.
    #[arg(long, default_value = "", value_parser = class)]
    class: ClassSpec,
    /// A spatial layer by its ONNX tensor name; the maps of several are averaged. Default: the last on
    /// which the score depends.
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// grad-cam, grad-cam++, hires-cam, xgrad-cam, layer-cam, eigen-cam, score-cam, ablation-cam,
    /// input-gradient or smooth-grad.
    #[arg(long, default_value_t)]
    method: Method,
    /// Which of the classifier's numbers is explained.
    #[arg(long, value_enum, default_value_t)]
    score_kind: ScoreKind,
    /// Which evidence the map shows.
    #[arg(long, value_enum, default_value_t)]
    evidence: Evidence,
    /// Subtract the map's minimum before scaling, as pytorch-grad-cam does.
    #[arg(long)]
    subtract_minimum: bool,
    /// Average with the map of the mirrored photograph.
    #[arg(long)]
    flip_smoothing: bool,
    /// Use the first principal component over the channels.
    #[arg(long)]
    eigen_smoothing: bool,
    /// Noisy copies of smooth-grad.
    #[arg(long, default_value_t = SmoothGrad::default().samples)]
    samples: u32,
    /// Noise of smooth-grad as a share of the input's range.
    #[arg(long, default_value_t = SmoothGrad::default().noise)]
    noise: f32,
    /// Channels that score-cam and ablation-cam run, the most active first. Default: all.
    #[arg(long, value_name = "N")]
    top_channels: Option<usize>,
    /// Share of the map's maximum at which the box is drawn.
    #[arg(long, default_value_t = 0.5)]
    box_threshold: f32,
    /// Seed of whatever is drawn at random.
    #[arg(long, default_value_t)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ScoreKind {
    #[default]
    Logit,
    Probability,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Evidence {
    #[default]
    For,
    Against,
    Signed,
}

fn class(text: &str) -> Result<ClassSpec, String> {
    text.parse().map_err(|error: explain::ExplainError| error.to_string())
}

impl Choice {
    /// As the engine takes it.
    pub(super) fn options(&self) -> ExplainOptions {
        let request = Request {
            method: self.method,
            class: self.class.clone(),
            score_kind: match self.score_kind {
                ScoreKind::Logit => explain::ScoreKind::Logit,
                ScoreKind::Probability => explain::ScoreKind::Probability,
            },
            evidence: match self.evidence {
                Evidence::For => explain::Evidence::For,
                Evidence::Against => explain::Evidence::Against,
                Evidence::Signed => explain::Evidence::Signed,
            },
            scaling: if self.subtract_minimum {
                explain::Scaling::MinimumToMaximum
            } else {
                explain::Scaling::Maximum
            },
            flip_smoothing: self.flip_smoothing,
            eigen_smoothing: self.eigen_smoothing,
            smooth_grad: SmoothGrad { samples: self.samples, noise: self.noise },
            channels: self.top_channels,
            seed: self.seed,
            box_threshold: self.box_threshold,
        };
        ExplainOptions { request, layers: self.layers.clone(), ..ExplainOptions::default() }
    }
}

/// How overlays are written as JPEG.
pub(super) const JPEG: ImageFormat = ImageFormat::Jpeg { quality: 90 };

/// An explanation in the queue, or what was wrong before it got there.
pub(super) type Waiting = Result<Ticket<Result<Explained, EngineError>>, ClientError>;

/// One a core.
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Explains `images`, several at a time, and hands each result to `show` in the images' order.
pub(super) fn run_all(
    engine: &Arc<Engine>,
    images: Vec<PathBuf>,
    options: impl Fn(&Path) -> ExplainOptions,
    mut show: impl FnMut(&Path, Result<Explained, ClientError>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let in_flight = 2 * engine.statistics().workers;
    let mut waiting: VecDeque<(PathBuf, Waiting)> = VecDeque::new();
    let mut rest = images.into_iter();
    loop {
        while waiting.len() < in_flight
            && let Some(image) = rest.next()
        {
            let ticket = submit(engine, &image, options(&image));
            waiting.push_back((image, ticket));
        }
        let Some((image, ticket)) = waiting.pop_front() else { return Ok(()) };
        let refused = |error: EngineError| ClientError::from(rpc::failure(error));
        let explained = ticket.and_then(|ticket| ticket.wait().map_err(refused)?.map_err(refused));
        show(&image, explained)?;
    }
}

fn submit(engine: &Arc<Engine>, image: &Path, options: ExplainOptions) -> Waiting {
    let bytes = std::fs::read(image).map_err(|error| output::unreadable(image, &error))?;
    let subject = Subject::Encoded(bytes.into());
    engine
        .explain(Beside::Nobody, &Target::Default, subject, options, Cancel::default())
        .map_err(|error| rpc::failure(error).into())
}

impl Explain {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        if self.rules {
            print_rules();
            return Ok(Outcome::Complete);
        }
        let images = terminal::pictures(&self.images)?;
        let overlays = |target: &PathBuf| Overlays::new(target, images.len());
        let mut overlays =
            self.overlay.as_ref().map(overlays).transpose().map_err(CliError::Other)?;
        let known = self.boxes.as_deref().map(boxes::read).transpose()?.unwrap_or_default();
        let engine = Arc::new(self.answering.engine(global, workers())?);
        let overlay = overlays.as_ref().map(|overlays| Overlay {
            format: if overlays.are_jpeg() { JPEG } else { ImageFormat::Png },
            colors: self.colors,
            strength: self.strength,
            longest_side: self.longest_side,
        });
        let options = |image: &Path| ExplainOptions {
            quality: self.score,
            boxes: known.of(image).to_vec(),
            drawing: Drawing { overlay, photograph_map: false },
            ..self.choice.options()
        };
        let mut tally = Tally::default();
        let mut outcome = Outcome::Complete;
        run_all(&engine, images, options, |image, explained| {
            let shown = explained.and_then(|explained| {
                let shown = Shown {
                    image,
                    explained: &explained,
                    cascade: self.sanity.then(|| self.shuffle(&explained)).transpose()?,
                };
                if let Some(overlays) = &mut overlays {
                    write_overlay(&overlays.file(image), &explained)?;
                }
                if self.json {
                    print::json(&shown.object());
                } else {
                    tally.add(&explained);
                    shown.print();
                }
                Ok(())
            });
            if let Err(error) = shown {
                outcome = Outcome::SomeFailed;
                output::print_failure(image, &error, self.json);
            }
            Ok(())
        })?;
        if !self.json {
            tally.print();
        }
        Ok(outcome)
    }

    fn shuffle(&self, explained: &Explained) -> Result<sanity::Cascade, ClientError> {
        let backbone = &explained.answer.by.backbone;
        let head = explained.answer.by.head.as_deref().map(|live| &live.head);
        let judge = explain::Judge { head, labels: &[] };
        let (network, intact) = (&backbone.network, &explained.explanation);
        let input = &explained.tensor;
        let request = self.choice.options().request;
        let (most, cancel) = (self.sanity_stages.map(|most| most as usize), Cancel::default());
        let cascade = sanity::cascade(network, input, &judge, intact, &request, most, &cancel);
        Ok(cascade.map_err(|error| rpc::failure(EngineError::from(error)))?)
    }
}

/// Writes what the worker drew.
fn write_overlay(file: &Path, explained: &Explained) -> Result<(), ClientError> {
    let Some(drawn) = &explained.drawn.overlay else {
        let message = "there is no photograph to draw on";
        return Err(ClientError::local(ErrorKind::Internal, message));
    };
    atomic::write(file, drawn).map_err(|error| {
        let message = format!("cannot write {}: {error}", file.display());
        ClientError::local(ErrorKind::FailedPrecondition, message)
    })
}

fn print_rules() {
    print::line(format_args!(
        "{:<18} {:<9} reverse derivative (c: cotangent, x: input, y: output)",
        "operator", "file"
    ));
    for entry in TABLE {
        let file = match entry.state {
            State::Rule(_) => entry.family,
            State::Flat => "-",
        };
        print::line(format_args!("{:<18} {:<9} {}", entry.operator, file, entry.derivative));
    }
}
