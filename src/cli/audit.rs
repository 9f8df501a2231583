//! `graftd audit`: does the network look at the objects or at their backgrounds?

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::answering::Answering;
use super::explain::{Choice, JPEG, run_all, workers};
use super::{CliError, Global, Outcome, boxes, output};
use crate::base::atomic;
use crate::engine::{Drawing, Engine, EngineError, ExplainOptions, Explained, Overlay, Target};
use crate::explain::audit::{Audit as Findings, ClassAudit, GRID, Look};
use crate::explain::{ClassName, ClassSpec, Judge};
use crate::terminal;
use crate::terminal::print;
use crate::terminal::sheet::{self, Section, Tile, contact_sheet};
use crate::vision::{BoundingBox, ColorMap, DEFAULT_STRENGTH};

/// Images a class on the contact sheet, the most deviating first.
const TILES: usize = 12;
/// How a photograph is drawn for the contact sheet.
const TILE: Drawing = Drawing {
    overlay: Some(Overlay {
        format: JPEG,
        colors: ColorMap::Jet,
        strength: DEFAULT_STRENGTH,
        longest_side: Some(sheet::TILE_PIXELS),
    }),
    photograph_map: false,
};

/// Explain a folder of photographs class by class: of each photograph the class of its sub-folder where
/// the network has one of that name, else the most probable one.
#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// A folder of photographs; its sub-folders are the classes.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    answering: Answering,
    #[command(flatten)]
    choice: Choice,
    /// Where the objects are: a JSON list of {"file", "boxes": [[x0, y0, x1, y1], ...]}.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// Write a contact sheet, one HTML page that opens anywhere. The photographs on it, twelve a class
    /// at most, are explained a second time.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One JSON object a class.
    #[arg(long)]
    json: bool,
}

impl Audit {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let mut images = terminal::pictures_of_folder(&self.folder)?;
        // A folder may hold photographs on both sides of a sub-folder's.
        images.sort_by_cached_key(|image| self.class_of(image));
        let known = self.boxes.as_deref().map(boxes::read).transpose()?.unwrap_or_default();
        let engine = Arc::new(self.answering.engine(global, workers())?);
        // The findings have names, which need not be paths.
        let named = |image: &PathBuf| (image.to_string_lossy().into_owned(), image.clone());
        let paths: HashMap<String, PathBuf> = images.iter().map(named).collect();
        // One class at a time: what is done with has its maps behind it.
        let (mut findings, mut classes) = (Findings::default(), Vec::new());
        let mut of = String::new();
        let mut outcome = Outcome::Complete;
        let options = self.choice.options();
        let labels = engine.registry().snapshot().resolve(&Target::Default)?.labels();
        let names: Vec<&str> = labels.iter().map(String::as_str).collect();
        let judge = Judge { head: None, labels: &names };
        let with_class = |image: &Path| {
            let class = self.class_of(image);
            let mut options = options.clone();
            if options.request.class == ClassSpec::Top && judge.knows(&class) {
                options.request.class = ClassSpec::One(ClassName::Label(class));
            }
            options
        };
        let mut fell_back: BTreeMap<String, usize> = BTreeMap::new();
        run_all(&engine, images, with_class, |image, explained| {
            let class = self.class_of(image);
            if class != of {
                classes.append(&mut finished(std::mem::take(&mut findings)));
                of.clone_from(&class);
            }
            match explained {
                Ok(explained) => {
                    if options.request.class == ClassSpec::Top && !judge.knows(&class) {
                        *fell_back.entry(class.clone()).or_default() += 1;
                    }
                    let look = look(image, &explained, known.of(image))?;
                    findings.add(class, look);
                }
                Err(error) => {
                    outcome = Outcome::SomeFailed;
                    output::print_failure(image, &error, self.json);
                }
            }
            Ok(())
        })?;
        classes.append(&mut finished(findings));
        for class in &classes {
            self.print(class, fell_back.get(&class.class).copied().unwrap_or(0));
        }
        if let Some(file) = &self.out {
            let title = format!("What the network looks at in {}", self.folder.display());
            let drawn = |image: &Path| ExplainOptions { drawing: TILE, ..with_class(image) };
            let mut sections = Vec::with_capacity(classes.len());
            for class in &classes {
                sections.push(self.section(&engine, class, &paths, drawn, &mut outcome)?);
            }
            let page = contact_sheet(&title, &sections);
            atomic::write(file, page.as_bytes()).map_err(|error| {
                CliError::Other(format!("cannot write {}: {error}", file.display()))
            })?;
        }
        Ok(outcome)
    }

    /// A class with as many of its photographs as the sheet has room for, the most deviating first. They
    /// are drawn only now: which deviate is known only with the mean of all. One that cannot be read any
    /// more is reported and left out.
    fn section(
        &self,
        engine: &Arc<Engine>,
        class: &ClassAudit,
        paths: &HashMap<String, PathBuf>,
        options: impl Fn(&Path) -> ExplainOptions,
        outcome: &mut Outcome,
    ) -> Result<Section, CliError> {
        let outside = class.outside_energy.map(|share| format!(", outside the boxes {share:.2}"));
        let shown = &class.deviations;
        let images = shown.iter().filter_map(|found| paths.get(&found.image).cloned()).collect();
        let mut correlations = shown.iter().map(|deviation| deviation.correlation);
        let mut tiles = Vec::with_capacity(shown.len());
        run_all(engine, images, options, |image, explained| {
            let correlation = correlations.next().unwrap_or_default();
            match explained {
                Ok(explained) => tiles.push(tile(image, explained, correlation)),
                Err(error) => {
                    *outcome = Outcome::SomeFailed;
                    output::print_failure(image, &error, self.json);
                }
            }
            Ok(())
        })?;
        Ok(Section {
            class: class.class.clone(),
            facts: format!(
                "{} images, {} without evidence; energy at the border {:.2}{}",
                class.images,
                class.without_evidence,
                class.border_energy,
                outside.unwrap_or_default()
            ),
            mean_map: class.mean_map.clone(),
            width: GRID,
            tiles,
        })
    }

    /// The sub-folder of an image; images beside the sub-folders are one class of the folder's name.
    fn class_of(&self, image: &Path) -> String {
        let parts = image.strip_prefix(&self.folder).unwrap_or(image);
        let class = parts.parent().filter(|parent| parent.components().next().is_some());
        let class = class.map(Path::as_os_str).or(self.folder.file_name());
        class.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `by_top` of the images were explained as what the network takes them for.
    fn print(&self, class: &ClassAudit, by_top: usize) {
        let worst: Vec<&str> =
            class.deviations.iter().take(3).map(|deviation| deviation.image.as_str()).collect();
        if self.json {
            let object = json!({
                "class": class.class,
                "images": class.images,
                "without_evidence": class.without_evidence,
                "border_energy": class.border_energy,
                "outside_energy": class.outside_energy,
                "deviating": worst,
                "explained_as_top_class": by_top,
                "height": GRID,
                "width": GRID,
                "mean_map": class.mean_map,
            });
            print::json(&object);
            return;
        }
        let outside = class.outside_energy.map_or_else(String::new, |share| {
            format!(", {:.0} % outside the boxes", 100.0 * share)
        });
        let top = match by_top {
            0 => String::new(),
            count => format!(
                "; no class of that name, so {count} explained as what the network takes them for"
            ),
        };
        print::line(format_args!(
            "{:<24} {:>4} images, {} without evidence, {:.0} % of the energy at the border{outside}; \
             look at {}{top}",
            class.class,
            class.images,
            class.without_evidence,
            100.0 * class.border_energy,
            worst.join(", ")
        ));
    }
}

/// What was found of the class looked at, with no more deviations than are shown.
fn finished(findings: Findings) -> Vec<ClassAudit> {
    let mut classes = findings.finish();
    classes.iter_mut().for_each(|class| class.deviations.truncate(TILES));
    classes
}

fn look(image: &Path, explained: &Explained, boxes: &[BoundingBox]) -> Result<Look, CliError> {
    let truth = (!boxes.is_empty()).then_some((boxes, &explained.placement));
    let name = image.to_string_lossy();
    Ok(Look::new(name, &explained.explanation.map, truth).map_err(EngineError::from)?)
}

/// A photograph with its map over it, and what was explained of it.
fn tile(image: &Path, explained: Explained, correlation: f64) -> Tile {
    let name = match explained.labels.0.as_str() {
        "" => format!("class {}", explained.explanation.score.class),
        label => label.to_owned(),
    };
    Tile {
        caption: format!("{}: {name} (like the mean {correlation:.2})", image.display()),
        overlay: explained.drawn.overlay.unwrap_or_default().into(),
    }
}
