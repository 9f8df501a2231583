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
    /// folder.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Colours of the overlay.
    #[arg(long, value_enum, default_value_t = Colors::Jet)]
    colors: Colors,
    /// The map's share of the overlay's colour, 0 to 1. Default: 0.4.
    #[arg(long)]
    strength: Option<f32>,
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
        let options = self.options();
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
            if let Some(target) = &self.overlay {
                write_overlay(target, path, &answer)?;
            }
            if self.batch.json {
                output::json_line(&self.object(path, &answer));
            } else {
                text(path, &answer);
            }
            Ok(())
        };
        self.batch.run(client, call, show).await
    }

    fn options(&self) -> ExplainOptions {
        let overlay = self.overlay.as_ref().map(|path| {
            let png =
                path.extension().is_none_or(|extension| extension.eq_ignore_ascii_case("png"));
            let format = if png { OverlayFormat::Png } else { OverlayFormat::Jpeg };
            let color_map = ColorMap::from(self.colors).into();
            OverlayOptions { format: format.into(), color_map, strength: self.strength }
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
        });
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

fn text(path: &Path, answer: &ExplainResponse) {
    let explanation = answer.explanation.clone().unwrap_or_default();
    let class = explanation.class.unwrap_or_default();
    let name = if class.label.is_empty() { format!("class {}", class.index) } else { class.label };
    let place = match explanation.r#box {
        Some(found) => format!(
            "looked at x {:.0} to {:.0}, y {:.0} to {:.0}",
            found.x0, found.x1, found.y0, found.y1
        ),
        None => "no evidence for it".to_owned(),
    };
    output::line(format!("{}  {name}: {place}", path.display()));
}

fn write_overlay(
    target: &Path,
    picture: &Path,
    answer: &ExplainResponse,
) -> Result<(), ClientError> {
    let overlay = answer.explanation.as_ref().map(|explanation| &explanation.overlay);
    let Some(overlay) = overlay.filter(|overlay| !overlay.is_empty()) else {
        return Err(ClientError::local(ErrorKind::Internal, "the device sent no overlay"));
    };
    let name = picture.file_stem().unwrap_or(picture.as_os_str());
    let file =
        if target.is_dir() { target.join(name).with_extension("png") } else { target.into() };
    crate::base::atomic::write(&file, overlay).map_err(|error| {
        let message = format!("cannot write {}: {error}", file.display());
        ClientError::local(ErrorKind::FailedPrecondition, message)
    })
}
