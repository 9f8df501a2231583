//! `graftctl audit`: does the network look at the objects of a dataset or at their backgrounds?

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::batch::{patiently, progress_bar};
use super::explanation::How;
use super::{Model, Outcome, output};
use crate::client::messages::audit_dataset_response::Part;
use crate::client::messages::{
    AuditDatasetRequest, Box, ClassAudit, ExplainOptions, ExplainRequest, GetSampleRequest,
    OverlayOptions, SampleBoxes,
};
use crate::client::{Client, ClientError, ErrorKind};
use crate::terminal::sheet::{Section, TILE_PIXELS, Tile, contact_sheet};
use crate::terminal::{self, Edges};

/// Samples a class that a person is shown in the table; `--json` and the sheet have all.
const SHOWN: usize = 3;

#[derive(Args, Debug)]
pub struct Audit {
    /// The dataset.
    #[arg(long)]
    dataset: String,
    #[command(flatten)]
    model: Model,
    /// Samples explained a class, drawn evenly.
    #[arg(long, value_name = "N", default_value_t = 100)]
    samples_per_class: u32,
    #[command(flatten)]
    how: How,
    /// Where the objects are: a JSON list of {"file", "boxes": [[x0, y0, x1, y1], ...]}. `file` is the
    /// sample's id: its path below the folder that was pushed.
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// Write a contact sheet, one HTML page that opens anywhere: each class's mean map, and the samples
    /// whose maps deviate most from it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object a class.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let classes = self.classes(client).await?;
        if self.json {
            classes.iter().for_each(|class| output::json_line(&object(class)));
        } else {
            table(&classes);
        }
        let mut outcome = Outcome::Complete;
        if classes.iter().any(|class| class.failed_count > 0) {
            outcome = Outcome::SomeFailed;
        }
        if let Some(file) = &self.out {
            let mut sections = Vec::with_capacity(classes.len());
            for class in &classes {
                sections.push(self.section(client, class, &mut outcome).await);
            }
            let title = format!("What the network looks at in dataset {}", self.dataset);
            write(file, &contact_sheet(&title, &sections))?;
        }
        Ok(outcome)
    }

    /// The audit's result, once the device has it.
    async fn classes(&self, client: &Client) -> Result<Vec<ClassAudit>, ClientError> {
        let request = AuditDatasetRequest {
            dataset: self.dataset.clone(),
            head: self.model.head(),
            backbone: self.model.backbone(),
            options: Some(self.how.options()),
            samples_per_class: Some(self.samples_per_class),
            true_boxes: self.true_boxes()?,
        };
        let mut parts = client.audit_dataset(request).await?;
        let mut bar = progress_bar(0, "");
        let mut classes = Vec::new();
        while let Some(part) = parts.next().await? {
            match part {
                Part::Progress(now) => {
                    if bar.length() != Some(now.total) {
                        bar = progress_bar(now.total, "samples");
                    }
                    bar.set_position(now.done);
                }
                Part::Class(class) => classes.push(class),
            }
        }
        bar.finish_and_clear();
        Ok(classes)
    }

    fn true_boxes(&self) -> Result<Vec<SampleBoxes>, ClientError> {
        let Some(file) = &self.boxes else { return Ok(Vec::new()) };
        let known = terminal::boxes(file)
            .map_err(|problem| ClientError::local(ErrorKind::InvalidArgument, problem))?;
        let of_sample = |(id, boxes): (String, Vec<Edges>)| {
            let boxes = boxes.into_iter().map(|[x0, y0, x1, y1]| Box { x0, y0, x1, y1 }).collect();
            SampleBoxes { id, boxes }
        };
        // A sample listed without a box has none that is known.
        let with_boxes = known.into_iter().filter(|(_, boxes)| !boxes.is_empty());
        Ok(with_boxes.map(of_sample).collect())
    }

    /// A class on the sheet. A sample that is gone by now is reported and left out.
    async fn section(&self, client: &Client, class: &ClassAudit, outcome: &mut Outcome) -> Section {
        let mut tiles = Vec::with_capacity(class.deviating_samples.len());
        for id in &class.deviating_samples {
            match self.tile(client, &class.label, id).await {
                Ok(tile) => tiles.push(tile),
                Err(error) => {
                    *outcome = Outcome::SomeFailed;
                    output::failure(Path::new(id), &error, self.json);
                }
            }
        }
        Section {
            class: class.label.clone(),
            facts: facts(class),
            mean_map: class.mean_map.clone(),
            width: class.width as usize,
            tiles,
        }
    }

    /// A sample with its map over it, and what the network takes it for.
    async fn tile(&self, client: &Client, label: &str, id: &str) -> Result<Tile, ClientError> {
        let request = GetSampleRequest {
            dataset: self.dataset.clone(),
            id: id.to_owned(),
            include_image: true,
            include_embedding: String::new(),
        };
        let image = client.get_sample(request).await?.image;
        let image = image.ok_or_else(|| {
            ClientError::local(ErrorKind::NotFound, "the device keeps no photograph of the sample")
        })?;
        let options = ExplainOptions {
            class: format!("label:{label}"),
            overlay: Some(OverlayOptions {
                longest_side: Some(TILE_PIXELS),
                ..OverlayOptions::default()
            }),
            ..self.how.options()
        };
        let request = ExplainRequest {
            image: Some(image),
            head: self.model.head(),
            backbone: self.model.backbone(),
            options: Some(options),
            top_k: Some(1),
        };
        let answer = patiently(|| client.explain(request.clone())).await?;
        let taken_for = answer.predictions.first().map_or_else(String::new, output::class_name);
        let overlay = answer.explanation.unwrap_or_default().overlay.to_vec();
        Ok(Tile { caption: format!("{id}: taken for {taken_for}"), overlay })
    }
}

fn table(classes: &[ClassAudit]) {
    let header =
        ["class", "samples", "no evidence", "failed", "at the border", "outside boxes", "look at"];
    let mut table = output::table(&header);
    for class in classes {
        let mut worst: Vec<&str> = class.deviating_samples.iter().map(String::as_str).collect();
        worst.truncate(SHOWN);
        table.add_row([
            class.label.clone(),
            class.sample_count.to_string(),
            class.without_evidence_count.to_string(),
            class.failed_count.to_string(),
            format!("{:.0} %", 100.0 * class.border_energy),
            class
                .outside_energy
                .map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
            worst.join("  "),
        ]);
    }
    output::align_right(&mut table, &[1, 2, 3, 4, 5]);
    output::print_table(&table);
    for class in classes.iter().filter(|class| class.failed_count > 0) {
        output::line(format_args!("{} failed: {}", class.label, class.failure));
    }
}

fn facts(class: &ClassAudit) -> String {
    let failed = match class.failed_count {
        0 => String::new(),
        count => format!("; {count} could not be explained: {}", class.failure),
    };
    let outside = class.outside_energy.map(|share| format!(", outside the boxes {share:.2}"));
    format!(
        "{} samples, {} without evidence; energy at the border {:.2}{}{failed}",
        class.sample_count,
        class.without_evidence_count,
        class.border_energy,
        outside.unwrap_or_default()
    )
}

fn object(class: &ClassAudit) -> Value {
    json!({
        "class": class.label,
        "images": class.sample_count,
        "without_evidence": class.without_evidence_count,
        "failed": class.failed_count,
        "failure": class.failure,
        "border_energy": class.border_energy,
        "outside_energy": class.outside_energy,
        "deviating": class.deviating_samples,
        "height": class.height,
        "width": class.width,
        "mean_map": class.mean_map,
    })
}

fn write(file: &Path, page: &str) -> Result<(), ClientError> {
    crate::base::atomic::write(file, page.as_bytes()).map_err(|error| {
        let message = format!("cannot write {}: {error}", file.display());
        ClientError::local(ErrorKind::FailedPrecondition, message)
    })
}
