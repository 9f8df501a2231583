//! `graftctl explain`: where the network looked.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::batch::Batch;
use super::explanation::How;
use super::{Model, Outcome, output};
use crate::client::messages::{
    ColorMap, ExplainOptions, ExplainRequest, ExplainResponse, ExplainedClass, Image,
    OverlayFormat, OverlayOptions,
};
use crate::client::{Client, ClientError, ErrorKind};
use crate::terminal::Overlays;

#[derive(Args, Debug)]
pub struct Explain {
    #[command(flatten)]
    batch: Batch,
    #[command(flatten)]
    model: Model,
    /// The class: an index, label:TEXT, or A-B for the difference of two. Default: the most probable.
    #[arg(long, default_value = "", hide_default_value = true)]
    class: String,
    #[command(flatten)]
    how: How,
    /// Where to write the photograph with the map laid over it (.png or .jpg); with several pictures, a
    /// folder, where those of one name are numbered.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Colours of the overlay.
    #[arg(long, value_enum, default_value_t = Colors::Jet)]
    colors: Colors,
    /// The map's share of the overlay's colour, 0 to 1. Default: 0.4.
    #[arg(long, value_parser = crate::terminal::strength)]
    strength: Option<f32>,
    /// Pixels of the overlay's longer side at most. Default: the photograph's own size.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    longest_side: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Colors {
    Jet,
    Turbo,
    Viridis,
    Inferno,
    Magma,
    Grey,
}

impl From<Colors> for ColorMap {
    fn from(colors: Colors) -> Self {
        match colors {
            Colors::Jet => Self::Jet,
            Colors::Turbo => Self::Turbo,
            Colors::Viridis => Self::Viridis,
            Colors::Inferno => Self::Inferno,
            Colors::Magma => Self::Magma,
            Colors::Grey => Self::Grey,
        }
    }
}

impl Explain {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let overlays = self.overlay.as_deref().map(|target| {
            let pictures = self.batch.files()?.len();
            Overlays::new(target, pictures)
                .map_err(|problem| ClientError::local(ErrorKind::InvalidArgument, problem))
        });
        let mut overlays = overlays.transpose()?;
        let options = self.options(overlays.as_ref());
        let (head, backbone) = (self.model.head(), self.model.backbone());
        let call = move |client: Client, picture| {
            let request = ExplainRequest {
                image: Some(Image::from(picture)),
                head: head.clone(),
                backbone: backbone.clone(),
                options: Some(options.clone()),
                top_k: Some(1),
            };
            async move { client.explain(request).await }
        };
        let show = |path: &Path, answer: ExplainResponse| {
            if let Some(overlays) = &mut overlays {
                write_overlay(&overlays.file(path), &answer)?;
            }
            if self.batch.json {
                output::json_line(&self.object(path, &answer));
            } else {
                text(path, &answer, self.how.shows_against());
            }
            Ok(())
        };
        self.batch.run(client, call, show).await
    }

    fn options(&self, overlays: Option<&Overlays>) -> ExplainOptions {
        let overlay = overlays.map(|overlays| {
            let format = if overlays.are_jpeg() { OverlayFormat::Jpeg } else { OverlayFormat::Png };
            let color_map = ColorMap::from(self.colors).into();
            let Self { strength, longest_side, .. } = *self;
            OverlayOptions { format: format.into(), color_map, strength, longest_side }
        });
        ExplainOptions { class: self.class.clone(), overlay, ..self.how.options() }
    }

    fn object(&self, path: &Path, answer: &ExplainResponse) -> Value {
        let explanation = answer.explanation.clone().unwrap_or_default();
        let mut object = json!({
            "image": path.to_string_lossy(),
            "backbone": answer.backbone,
            "layer": explanation.layers.join("+"),
            "method": self.how.method(),
            "class": class(explanation.class.as_ref()),
            "height": explanation.height,
            "width": explanation.width,
            "map": explanation.map,
            "raw": explanation.raw,
            "box": explanation.r#box.map(|found| [found.x0, found.y0, found.x1, found.y1]),
            "timings_ms": output::timings(answer.timings.as_ref()),
            "has_positive_evidence": explanation.has_positive_evidence,
        });
        if let Some(peak) = explanation.peak {
            object["peak"] = json!([peak.x, peak.y]);
            object["box_energy"] = json!(explanation.box_energy);
        }
        if explanation.against.is_some() {
            object["against"] = class(explanation.against.as_ref());
        }
        output::add_head(&mut object, answer.head.as_ref(), answer.novelty.as_ref());
        object
    }
}

fn class(class: Option<&ExplainedClass>) -> Value {
    class.map_or(Value::Null, |class| json!({ "index": class.index, "label": class.label }))
}

fn text(path: &Path, answer: &ExplainResponse, against: bool) {
    let explanation = answer.explanation.clone().unwrap_or_default();
    let name = |class: &ExplainedClass| match class.label.as_str() {
        "" => format!("class {}", class.index),
        label => label.to_owned(),
    };
    let mut class = explanation.class.as_ref().map_or_else(String::new, name);
    if let Some(other) = &explanation.against {
        class += &format!(" rather than {}", name(other));
    }
    let (seen, nothing) = if against {
        ("evidence against it at", "no evidence against it")
    } else {
        ("looked at", "no evidence for it")
    };
    let place = match explanation.r#box {
        Some(found) => format!(
            "{seen} x {:.0} to {:.0}, y {:.0} to {:.0}",
            found.x0, found.x1, found.y0, found.y1
        ),
        None if explanation.map.iter().all(|value| *value == 0.0) => {
            format!("{nothing}; the map is zero")
        }
        None => nothing.to_owned(),
    };
    output::line(format!("{}  {class}: {place}", path.display()));
}

fn write_overlay(file: &Path, answer: &ExplainResponse) -> Result<(), ClientError> {
    let overlay = answer.explanation.as_ref().map(|explanation| &explanation.overlay);
    let Some(overlay) = overlay.filter(|overlay| !overlay.is_empty()) else {
        return Err(ClientError::local(ErrorKind::Internal, "the device sent no overlay"));
    };
    crate::base::atomic::write(file, overlay).map_err(|error| {
        let message = format!("cannot write {}: {error}", file.display());
        ClientError::local(ErrorKind::FailedPrecondition, message)
    })
}
