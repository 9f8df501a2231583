//! `graftctl explain`: where the network looked.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::batch::Batch;
use super::{Model, Outcome, output};
use crate::client::messages::{
    ExplainMethod, ExplainOptions, ExplainRequest, ExplainResponse, ExplainedClass, Image,
    OverlayFormat, OverlayOptions, ScoreKind,
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
    /// Layers by name, averaged. Default: the last spatial one.
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// The method.
    #[arg(long, value_enum, default_value_t = Method::GradCam)]
    method: Method,
    /// What is differentiated.
    #[arg(long, value_enum, default_value_t = Score::Logit)]
    score_kind: Score,
    /// Where to write the photograph with the map laid over it (.png or .jpg); with several pictures, a
    /// folder.
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    GradCam,
    #[value(name = "grad-cam++")]
    GradCamPlusPlus,
    #[value(name = "hires-cam")]
    HiResCam,
    #[value(name = "xgrad-cam")]
    XGradCam,
    LayerCam,
    EigenCam,
    ScoreCam,
    AblationCam,
    InputGradient,
    SmoothGrad,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Score {
    Logit,
    Probability,
}

impl From<Method> for ExplainMethod {
    fn from(method: Method) -> Self {
        match method {
            Method::GradCam => Self::GradCam,
            Method::GradCamPlusPlus => Self::GradCamPlusPlus,
            Method::HiResCam => Self::HiResCam,
            Method::XGradCam => Self::XGradCam,
            Method::LayerCam => Self::LayerCam,
            Method::EigenCam => Self::EigenCam,
            Method::ScoreCam => Self::ScoreCam,
            Method::AblationCam => Self::AblationCam,
            Method::InputGradient => Self::InputGradient,
            Method::SmoothGrad => Self::SmoothGrad,
        }
    }
}

impl From<Score> for ScoreKind {
    fn from(score: Score) -> Self {
        match score {
            Score::Logit => Self::Logit,
            Score::Probability => Self::Probability,
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
        let png = self.overlay.as_ref().is_some_and(|path| {
            path.extension().is_none_or(|extension| extension.eq_ignore_ascii_case("png"))
        });
        let format = if png { OverlayFormat::Png } else { OverlayFormat::Jpeg };
        ExplainOptions {
            method: ExplainMethod::from(self.method).into(),
            class: self.class.clone(),
            score_kind: ScoreKind::from(self.score_kind).into(),
            layers: self.layers.clone(),
            overlay: self
                .overlay
                .is_some()
                .then(|| OverlayOptions { format: format.into(), ..OverlayOptions::default() }),
            ..ExplainOptions::default()
        }
    }

    fn object(&self, path: &Path, answer: &ExplainResponse) -> Value {
        let explanation = answer.explanation.clone().unwrap_or_default();
        let method = self.method.to_possible_value();
        let method = method.as_ref().map_or("", |value| value.get_name());
        let mut object = json!({
            "image": path.to_string_lossy(),
            "backbone": answer.backbone,
            "layer": explanation.layers.join("+"),
            "method": method,
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
