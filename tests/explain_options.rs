//! Each option of an explanation through `graftd explain`, `graftctl explain` and gRPC: the map is the
//! library's for that option, and another than without it.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::daemon::{Daemon, reference};
use graftd::base::cancel::Cancel;
use graftd::client::Picture as Sent;
use graftd::client::messages::{
    self, ExplainMethod, ExplainOptions, ExplainRequest, ExplainResponse, MapScaling,
};
use graftd::explain::{
    Demand, Evidence, Explainer, Judge, Method, Request, Scaling, ScoreKind, SmoothGrad, explain,
};
use graftd::graph::{Network, Options, Source};
use graftd::vision::{ImageFormat, Picture, Placement, Preprocessing, Preset, encode, preprocess};
use serde_json::Value;

/// Side of the network's input, and of the photograph.
const SIDE: u32 = 16;
const LABELS: [&str; 4] = ["ant", "bee", "cat", "dog"];

/// An option as each door takes it, and what it must differ from.
struct Case {
    /// On both command lines.
    flags: Vec<&'static str>,
    message: ExplainOptions,
    request: Request,
    layers: Vec<String>,
    /// The request without the option.
    without: Request,
}

/// What an explanation says.
#[derive(Debug)]
struct Found {
    class: u64,
    against: Option<u64>,
    shape: [u64; 2],
    map: Vec<f64>,
    raw: Vec<f64>,
    bounds: Option<[f64; 4]>,
}

/// Of a convolution's rectifier half-way down, where the methods tell different things: at the last layer,
/// which is pooled, several are the same.
const LAYER: &str = "relu1";

/// Grad-CAM of the most probable class, at [`LAYER`].
fn plain(method: Method) -> (Request, ExplainOptions, Vec<String>) {
    let layers = if method.is_saliency() { vec![] } else { vec![LAYER.to_string()] };
    let message = ExplainOptions {
        method: message_of(method).into(),
        layers: layers.clone(),
        ..ExplainOptions::default()
    };
    (Request { method, ..Request::default() }, message, layers)
}

fn message_of(method: Method) -> ExplainMethod {
    match method {
        Method::GradCam => ExplainMethod::GradCam,
        Method::GradCamPlusPlus => ExplainMethod::GradCamPlusPlus,
        Method::HiResCam => ExplainMethod::HiResCam,
        Method::XGradCam => ExplainMethod::XGradCam,
        Method::LayerCam => ExplainMethod::LayerCam,
        Method::EigenCam => ExplainMethod::EigenCam,
        Method::ScoreCam => ExplainMethod::ScoreCam,
        Method::AblationCam => ExplainMethod::AblationCam,
        Method::InputGradient => ExplainMethod::InputGradient,
        Method::SmoothGrad => ExplainMethod::SmoothGrad,
    }
}

/// An option: its flags, the method that it belongs to, and how it stands in a request and a message.
type Change = (&'static [&'static str], Method, fn(&mut Request), fn(&mut ExplainOptions));

fn options() -> [Change; 14] {
    [
        (
            &["--score-kind", "probability"],
            Method::GradCam,
            |request| request.score_kind = ScoreKind::Probability,
            |message| message.score_kind = messages::ScoreKind::Probability.into(),
        ),
        (
            &["--evidence", "against"],
            Method::GradCam,
            |request| request.evidence = Evidence::Against,
            |message| message.evidence = messages::Evidence::Against.into(),
        ),
        (
            &["--evidence", "signed"],
            Method::GradCam,
            |request| request.evidence = Evidence::Signed,
            |message| message.evidence = messages::Evidence::Signed.into(),
        ),
        (
            // Of a method whose map is above 0 everywhere: what is rectified has a minimum of 0.
            &["--subtract-minimum"],
            Method::GradCamPlusPlus,
            |request| request.scaling = Scaling::MinimumToMaximum,
            |message| message.scaling = MapScaling::MinimumToMaximum.into(),
        ),
        (
            &["--flip-smoothing"],
            Method::GradCam,
            |request| request.flip_smoothing = true,
            |message| message.flip_smoothing = true,
        ),
        (
            &["--eigen-smoothing"],
            Method::GradCam,
            |request| request.eigen_smoothing = true,
            |message| message.eigen_smoothing = true,
        ),
        (
            &["--samples", "3"],
            Method::SmoothGrad,
            |request| request.smooth_grad.samples = 3,
            |message| message.smoothgrad_samples = Some(3),
        ),
        (
            &["--noise", "0.5"],
            Method::SmoothGrad,
            |request| request.smooth_grad = SmoothGrad { noise: 0.5, ..SmoothGrad::default() },
            |message| message.smoothgrad_noise = Some(0.5),
        ),
        (
            &["--seed", "7"],
            Method::SmoothGrad,
            |request| request.seed = 7,
            |message| message.seed = 7,
        ),
        (
            &["--top-channels", "2"],
            Method::ScoreCam,
            |request| request.channels = Some(2),
            |message| message.channels = Some(2),
        ),
        (
            &["--box-threshold", "0.95"],
            Method::GradCam,
            |request| request.box_threshold = 0.95,
            |message| message.box_threshold = Some(0.95),
        ),
        (
            &["--class", "1"],
            Method::GradCam,
            |request| request.class = "1".parse().unwrap(),
            |message| message.class = "1".into(),
        ),
        (
            &["--class", "label:cat"],
            Method::GradCam,
            |request| request.class = "2".parse().unwrap(),
            |message| message.class = "label:cat".into(),
        ),
        (
            &["--class", "1-2"],
            Method::GradCam,
            |request| request.class = "1-2".parse().unwrap(),
            |message| message.class = "1-2".into(),
        ),
    ]
}

/// Each method, and each option beside the method that it belongs to.
fn cases() -> Vec<Case> {
    let methods = Method::ALL.into_iter().map(|method| {
        let (request, message, layers) = plain(method);
        // Grad-CAM is set beside another, so that it too must be told apart.
        let other = if method == Method::GradCam { Method::LayerCam } else { Method::GradCam };
        let mut flags = vec!["--method", method.name()];
        if !method.is_saliency() {
            flags.extend(["--layer", LAYER]);
        }
        Case { flags, message, request, layers, without: plain(other).0 }
    });
    let options = options().into_iter().map(|(flags, method, library, wire)| {
        let (mut request, mut message, layers) = plain(method);
        let without = request.clone();
        library(&mut request);
        wire(&mut message);
        let mut flags = [&["--method", method.name()], flags].concat();
        if !method.is_saliency() {
            flags.extend(["--layer", LAYER]);
        }
        Case { flags, message, request, layers, without }
    });
    let (request, message, _) = plain(Method::GradCam);
    let both = [LAYER, "relu2"].map(String::from).to_vec();
    let layers = Case {
        flags: vec!["--layer", LAYER, "--layer", "relu2"],
        message: ExplainOptions { layers: both.clone(), ..message },
        without: request.clone(),
        request,
        layers: both,
    };
    methods.chain(options).chain([layers]).collect()
}

fn photograph() -> Picture {
    let pixels = (0..3 * SIDE * SIDE).map(|at| ((at * at / 7 + at * 11) % 256) as u8).collect();
    Picture::new(SIDE, SIDE, pixels).unwrap()
}

/// What the library answers.
struct Library {
    network: Network,
    input: Vec<f32>,
    placement: Placement,
}

impl Library {
    fn new() -> Self {
        let source = Source::File(reference("tiny/logits.onnx"));
        let network = Network::load(source, &Options::default()).unwrap();
        let mut input = vec![0.0; network.plan().input_len()];
        let preprocessing = Preprocessing::preset(Preset::Unit, SIDE);
        let layout = network.input().layout;
        let placement = preprocess(&photograph(), &preprocessing, layout, &mut input).unwrap();
        Self { network, input, placement }
    }

    fn explain(&self, request: &Request, layers: &[String]) -> Found {
        let demand = Demand::of(request.method);
        let explainer = Explainer::new(&self.network, layers, demand, false).unwrap();
        let judge = Judge { head: None, labels: &LABELS };
        let (network, cancel) = (&self.network, Cancel::default());
        let found =
            explain(&explainer, network, &self.input, None, &judge, request, &cancel).unwrap();
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        Found {
            class: found.score.class as u64,
            against: found.score.against.map(|class| class as u64),
            shape: [found.map.height as u64, found.map.width as u64],
            map: wide(&found.map.values),
            raw: wide(&found.map.raw),
            bounds: found.region.map(|region| {
                let bounds = self.placement.box_to_picture(region.bounds);
                [bounds.x0, bounds.y0, bounds.x1, bounds.y1].map(f64::from)
            }),
        }
    }

    /// Holds a door's answer to the library's.
    fn judge(&self, case: &Case, answer: &Found) {
        let what = case.flags.join(" ");
        let expected = self.explain(&case.request, &case.layers);
        assert!(answer.is(&expected), "{what}: {answer:?}, the library {expected:?}");
        let layers = if case.without.method.is_saliency() { vec![] } else { vec![LAYER.into()] };
        let without = self.explain(&case.without, &layers);
        assert!(!answer.is(&without), "{what} changes nothing");
    }
}

impl Found {
    /// Whether the other says the same, but for rounding.
    fn is(&self, other: &Found) -> bool {
        let most = other.raw.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let near = |a: &[f64], b: &[f64], scale: f64| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * scale)
        };
        let same_box = match (&self.bounds, &other.bounds) {
            (Some(a), Some(b)) => near(a, b, 100.0),
            (a, b) => a.is_none() && b.is_none(),
        };
        (self.class, self.against, self.shape) == (other.class, other.against, other.shape)
            && near(&self.raw, &other.raw, most)
            && near(&self.map, &other.map, 1.0)
            && same_box
    }

    fn in_json(output: &Output) -> Self {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        Self {
            class: object["class"]["index"].as_u64().unwrap(),
            against: object["against"]["index"].as_u64(),
            shape: ["height", "width"].map(|side| object[side].as_u64().unwrap()),
            map: numbers(&object["map"]),
            raw: numbers(&object["raw"]),
            bounds: object["box"].is_array().then(|| numbers(&object["box"]).try_into().unwrap()),
        }
    }

    fn on_the_wire(answer: ExplainResponse) -> Self {
        let found = answer.explanation.unwrap();
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        Self {
            class: found.class.unwrap().index.into(),
            against: found.against.map(|class| class.index.into()),
            shape: [found.height.into(), found.width.into()],
            map: wide(&found.map),
            raw: wide(&found.raw),
            bounds: found.r#box.map(|area| [area.x0, area.y0, area.x1, area.y1].map(f64::from)),
        }
    }
}

/// The photograph as a file in `folder`.
fn file(folder: &Path) -> String {
    let file = folder.join("photograph.png");
    std::fs::write(&file, encode(&photograph(), ImageFormat::Png).unwrap()).unwrap();
    file.display().to_string()
}

#[test]
fn graftd_explain_answers_each_option_as_the_library_does() {
    let state = tempfile::tempdir().unwrap();
    let graftd = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_graftd"));
        command.args(arguments).arg("--state-dir").arg(state.path()).output().unwrap()
    };
    let labels = state.path().join("labels.txt");
    std::fs::write(&labels, LABELS.join("\n")).unwrap();
    let (model, labels) = (reference("tiny/logits.onnx"), labels.display().to_string());
    let add = ["models", "add", model.to_str().unwrap(), "--id", "tiny", "--preset", "unit"];
    assert!(graftd(&[&add[..], &["--labels", &labels]].concat()).status.success());
    let (library, photograph) = (Library::new(), file(state.path()));
    for case in cases() {
        let explain = [&["explain", &photograph, "--json"], &case.flags[..]].concat();
        library.judge(&case, &Found::in_json(&graftd(&explain)));
    }
}

#[tokio::test]
async fn graftctl_explain_answers_each_option_as_the_library_does() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (library, photograph) = (Library::new(), file(folder.path()));
    for case in cases() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
        command.env("GRAFTCTL_TARGET", &daemon.address).args(["explain", &photograph, "--json"]);
        command.args(&case.flags);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        library.judge(&case, &Found::in_json(&output));
    }
}

#[tokio::test]
async fn the_service_answers_each_option_as_the_library_does() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let photograph = encode(&photograph(), ImageFormat::Png).unwrap();
    let library = Library::new();
    for case in cases() {
        let request = ExplainRequest {
            options: Some(case.message.clone()),
            ..ExplainRequest::from(Sent::from_bytes(photograph.clone()))
        };
        let answer = client.explain(request).await.unwrap();
        library.judge(&case, &Found::on_the_wire(answer));
    }
}
