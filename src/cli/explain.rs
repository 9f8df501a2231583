//! `graftd explain`: where the network looked, without a daemon.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::answering::Answering;
use super::{CliError, Global, Outcome, boxes, output};
use crate::base::atomic;
use crate::base::cancel::Cancel;
use crate::client::ClientError;
use crate::engine::{
    Engine, EngineError, ExplainOptions, Explained, Priority, Subject, Target, Ticket,
};
use crate::explain::{self, ClassSpec, Method, Request, SmoothGrad, sanity};
use crate::grad::{State, TABLE};
use crate::rpc;
use crate::terminal;
use crate::terminal::print;
use crate::vision::{
    BoundingBox, ColorMap, DEFAULT_STRENGTH, HeatMap, ImageFormat, encode, overlay,
};

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
    /// Write the photograph with the map over it, as .png or .jpg; a folder for several images.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Colours of the overlay: jet, turbo, viridis, inferno, magma or grey.
    #[arg(long, default_value = "jet")]
    colors: ColorMap,
    /// The map's share of the overlay's colour, 0 to 1.
    #[arg(long, default_value_t = DEFAULT_STRENGTH)]
    strength: f32,
    /// Measure the explanation: insertion and deletion curves, average drop and, with --boxes, the
    /// pointing game and the energy inside. About a hundred more runs an image.
    #[arg(long)]
    score: bool,
    /// Where the objects are: a JSON list of {"file", "boxes": [[x0, y0, x1, y1], ...]}.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// Shuffle the weights from the classifier downwards and print how little the map stays the
    /// same (Adebayo et al. 2018).
    #[arg(long)]
    sanity: bool,
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
    /// A spatial layer by its ONNX tensor name; the maps of several are averaged. Default: the last.
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
    // Nobody else waits for these workers.
    let priority = Priority::Foreground;
    engine
        .explain(priority, &Target::Default, subject, options, Cancel::default())
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
        if images.len() > 1
            && let Some(folder) = &self.overlay
        {
            std::fs::read_dir(folder).map_err(|_| {
                let folder = folder.display();
                CliError::Other(format!("--overlay {folder} must be a folder for several images"))
            })?;
        }
        let known = self.boxes.as_deref().map(boxes::read).transpose()?.unwrap_or_default();
        let engine = Arc::new(self.answering.engine(global, workers())?);
        let options = |image: &Path| ExplainOptions {
            quality: self.score,
            boxes: known.of(image).to_vec(),
            ..self.choice.options()
        };
        let mut tally = Tally::default();
        let mut outcome = Outcome::Complete;
        run_all(&engine, images, options, |image, explained| {
            match explained {
                Ok(explained) => self.show(image, &explained, known.of(image), &mut tally)?,
                Err(error) => {
                    outcome = Outcome::SomeFailed;
                    output::print_failure(image, &error, self.json);
                }
            }
            Ok(())
        })?;
        if !self.json {
            tally.print();
        }
        Ok(outcome)
    }

    fn show(
        &self,
        image: &Path,
        explained: &Explained,
        boxes: &[BoundingBox],
        tally: &mut Tally,
    ) -> Result<(), CliError> {
        if let Some(target) = &self.overlay {
            self.write_overlay(target, image, explained)?;
        }
        let inside = (!boxes.is_empty()).then(|| {
            let truth = explain::quality::Truth { boxes, placement: &explained.placement };
            let energy = explained.explanation.map.energy_inside(boxes, &explained.placement);
            (truth.is_hit(&explained.explanation), energy.unwrap_or(0.0))
        });
        let stages = if self.sanity { self.shuffle(explained)? } else { Vec::new() };
        if self.json {
            print::json(&object(image, explained, inside, &stages));
        } else {
            tally.add(inside);
            print_text(image, explained, inside);
            for stage in stages {
                print::line(format_args!(
                    "  shuffled down to {}: rank correlation {:.3}",
                    stage.node, stage.correlation
                ));
            }
        }
        Ok(())
    }

    fn shuffle(&self, explained: &Explained) -> Result<Vec<sanity::Stage>, CliError> {
        let backbone = &explained.answer.by.backbone;
        let picture = explained.picture.as_deref();
        let mut input = vec![0.0; backbone.preprocessing.tensor_len()];
        if let Some(picture) = picture {
            let layout = backbone.network.input().layout;
            crate::vision::preprocess(picture, &backbone.preprocessing, layout, &mut input)
                .map_err(EngineError::from)?;
        }
        let head = explained.answer.by.head.as_deref().map(|live| &live.head);
        let judge = explain::Judge { head, labels: &[] };
        let (network, intact) = (&backbone.network, &explained.explanation);
        let request = self.choice.options().request;
        let stages = sanity::cascade(network, &input, &judge, intact, &request, &Cancel::default());
        Ok(stages.map_err(EngineError::from)?)
    }

    fn write_overlay(
        &self,
        target: &Path,
        image: &Path,
        explained: &Explained,
    ) -> Result<(), CliError> {
        let file = if target.is_dir() {
            let name = image.file_stem().unwrap_or(image.as_os_str());
            target.join(name).with_extension("png")
        } else {
            target.to_path_buf()
        };
        let bytes = draw(explained, self.colors, self.strength, &file)?;
        atomic::write(&file, &bytes)
            .map_err(|error| CliError::Other(format!("cannot write {}: {error}", file.display())))
    }
}

/// The photograph with the map over it, in the format of the file's name.
pub(super) fn draw(
    explained: &Explained,
    colors: ColorMap,
    strength: f32,
    file: &Path,
) -> Result<Vec<u8>, CliError> {
    let map = &explained.explanation.map;
    let is = |name: &str| file.extension().is_some_and(|e| e.eq_ignore_ascii_case(name));
    let format =
        if is("jpg") || is("jpeg") { ImageFormat::Jpeg { quality: 90 } } else { ImageFormat::Png };
    let Some(picture) = &explained.picture else {
        return Err(CliError::Other("there is no photograph to draw on".into()));
    };
    let drawn = HeatMap::new(map.height, map.width, &map.drawn())
        .and_then(|heat| overlay(picture, &heat, &explained.placement, colors, strength))
        .and_then(|picture| encode(&picture, format));
    Ok(drawn.map_err(EngineError::from)?)
}

/// The command contract's object, and after it what the options add.
fn object(
    image: &Path,
    explained: &Explained,
    inside: Option<(bool, f32)>,
    stages: &[sanity::Stage],
) -> Value {
    let Explained { answer, explanation, labels, placement, .. } = explained;
    let score = explanation.score;
    let on_picture = explanation.region.map(|region| placement.box_to_picture(region.bounds));
    let mut timings = output::timings(&answer.timings);
    timings["explain"] = json!(terminal::milliseconds(explained.elapsed.as_secs_f64() * 1e3));
    let mut object = json!({
        "image": image.to_string_lossy(),
        "backbone": answer.by.backbone.name.as_str(),
        "layer": explanation.layers.join("+"),
        "method": explanation.method.name(),
        "class": { "index": score.class, "label": labels.0 },
        "height": explanation.map.height,
        "width": explanation.map.width,
        "map": explanation.map.values,
        "raw": explanation.map.raw,
        "box": on_picture.map(|b| [b.x0, b.y0, b.x1, b.y1]),
        "timings_ms": timings,
    });
    if let Some(head) = &answer.by.head {
        object["head"] = json!(head.name.as_str());
    }
    if let Some(index) = score.against {
        object["against"] = json!({ "index": index, "label": labels.1 });
    }
    if let Some(region) = explanation.region {
        let (x, y) = placement.to_picture(region.peak.0.into(), region.peak.1.into());
        object["peak"] = json!([x, y]);
        object["box_energy"] = json!(region.energy);
    }
    if let Some((hit, energy)) = inside {
        object["peak_in_box"] = json!(hit);
        object["energy_in_boxes"] = json!(energy);
    }
    if let Some(quality) = &explained.quality {
        object["quality"] = json!({
            "insertion": quality.insertion,
            "deletion": quality.deletion,
            "average_drop": quality.average_drop,
            "insertion_curve": quality.insertion_curve,
            "deletion_curve": quality.deletion_curve,
        });
    }
    if !stages.is_empty() {
        let stage = |stage: &sanity::Stage| json!({ "node": stage.node, "rank_correlation": stage.correlation });
        object["sanity"] = stages.iter().map(stage).collect();
    }
    object
}

fn print_text(image: &Path, explained: &Explained, inside: Option<(bool, f32)>) {
    let Explained { explanation, labels, placement, .. } = explained;
    let name = |index: usize, label: &str| match label {
        "" => format!("class {index}"),
        label => label.to_owned(),
    };
    let mut class = name(explanation.score.class, &labels.0);
    if let (Some(index), Some(label)) = (explanation.score.against, &labels.1) {
        class += &format!(" rather than {}", name(index, label));
    }
    let place = match explanation.region {
        Some(region) => {
            let found = placement.box_to_picture(region.bounds);
            format!(
                "looked at x {:.0} to {:.0}, y {:.0} to {:.0} ({:.0} % of the evidence)",
                found.x0,
                found.x1,
                found.y0,
                found.y1,
                100.0 * region.energy
            )
        }
        None => "nothing in the picture speaks for it; the map is zero".to_owned(),
    };
    print::line(format_args!("{}  {class}: {place}", image.display()));
    if let Some((hit, energy)) = inside {
        let hit = if hit { "inside" } else { "outside" };
        print::line(format_args!(
            "  peak {hit} the true boxes, {:.0} % of the energy inside",
            100.0 * energy
        ));
    }
    if let Some(quality) = &explained.quality {
        print::line(format_args!(
            "  insertion {:.3}, deletion {:.3}, average drop {:.3}",
            quality.insertion, quality.deletion, quality.average_drop
        ));
    }
}

/// Sums over images with true boxes.
#[derive(Default)]
struct Tally {
    images: usize,
    hits: usize,
    energy: f32,
}

impl Tally {
    fn add(&mut self, inside: Option<(bool, f32)>) {
        if let Some((hit, energy)) = inside {
            self.images += 1;
            self.hits += usize::from(hit);
            self.energy += energy;
        }
    }

    fn print(&self) {
        if self.images > 1 {
            print::line(format_args!(
                "pointing game: {} of {}; mean energy inside the boxes {:.2} (map enlarged to the input)",
                self.hits,
                self.images,
                self.energy / self.images as f32
            ));
        }
    }
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
