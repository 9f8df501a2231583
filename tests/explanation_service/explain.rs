//! One picture, and pictures as they come.

use std::convert::Infallible;
use std::sync::Arc;

use crate::common::daemon::{Daemon, photograph};
use crate::common::onnx::{brightness, load, model, node, weights};
use bytes::Bytes;
use graftd::base::cancel::Cancel;
use graftd::client::messages::explanation_service_client::ExplanationServiceClient;
use graftd::client::messages::{
    Box, Evidence, ExplainMethod, ExplainOptions, ExplainRequest, ExplainStreamRequest,
    OverlayOptions, PredictRequest, PredictStreamRequest,
    explain_stream_response::Result as Outcome,
};
use graftd::client::{ErrorKind, Picture};
use graftd::engine::{self, Beside, Drawing, Overlay, Snapshot, Subject, Target};
use graftd::rpc::ServerOptions;
use graftd::vision::{self, ColorMap, ImageFormat, Limits, decode};
use tokio_stream::StreamExt;

fn explain(options: ExplainOptions) -> ExplainRequest {
    ExplainRequest {
        options: Some(options),
        ..ExplainRequest::from(Picture::from_bytes(photograph()))
    }
}

#[tokio::test]
async fn a_photograph_is_explained_with_map_overlay_and_prediction() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for method in [ExplainMethod::GradCam, ExplainMethod::ScoreCam, ExplainMethod::SmoothGrad] {
        let options = ExplainOptions {
            method: method.into(),
            overlay: Some(OverlayOptions::default()),
            photograph_map: true,
            ..ExplainOptions::default()
        };
        let answer = client.explain(explain(options)).await.unwrap();
        let found = answer.explanation.unwrap();
        assert_eq!(found.method(), method);
        assert_eq!(found.map.len(), (found.height * found.width) as usize);
        assert!(found.map.iter().all(|value| (0.0..=1.0).contains(value)));
        assert!(found.overlay.starts_with(b"\xff\xd8"), "a JPEG file");
        let whole = found.photograph_map.unwrap();
        assert_eq!(whole.values.len(), (whole.height * whole.width) as usize);
        assert_eq!(found.class.unwrap().index, answer.predictions[0].index);
        assert!(answer.timings.unwrap().explain_ms > 0.0);
    }
}

/// An explanation holds no photograph, so nobody behind the worker can draw on one.
#[tokio::test]
async fn a_worker_hands_out_the_drawings_themselves() {
    let daemon = Daemon::start().await;
    let jpeg = Overlay {
        format: ImageFormat::Jpeg { quality: 90 },
        colors: ColorMap::Jet,
        strength: 0.4,
        longest_side: None,
    };
    let drawn = async |drawing| {
        let picture = vision::Picture::new(640, 480, vec![90; 640 * 480 * 3]).unwrap();
        let (subject, target) = (Subject::Picture(Arc::new(picture)), Target::Default);
        let options = engine::ExplainOptions { drawing, ..engine::ExplainOptions::default() };
        let (beside, cancel) = (Beside::Predictions, Cancel::default());
        let ticket = daemon.engine.explain(beside, &target, subject, options, cancel).unwrap();
        ticket.await.unwrap().unwrap().drawn
    };
    let size = |file: Option<Bytes>| {
        let picture = decode(&file.unwrap(), &Limits::default()).unwrap();
        (picture.width, picture.height)
    };
    let both = drawn(Drawing { overlay: Some(jpeg), photograph_map: true }).await;
    assert_eq!(size(both.overlay), (640, 480));
    let map = both.photograph_map.unwrap();
    assert_eq!((map.width, map.height, map.values.len()), (640, 480, 640 * 480));
    let small = Overlay { longest_side: Some(64), ..jpeg };
    let one = drawn(Drawing { overlay: Some(small), photograph_map: false }).await;
    assert_eq!((size(one.overlay), one.photograph_map), ((64, 48), None));
    let options = ExplainOptions {
        overlay: Some(OverlayOptions { longest_side: Some(12), ..OverlayOptions::default() }),
        ..ExplainOptions::default()
    };
    let answer = daemon.client().await.explain(explain(options)).await.unwrap();
    assert_eq!(size(Some(answer.explanation.unwrap().overlay)), (12, 8), "asked for by a client");
    let none = drawn(Drawing::default()).await;
    assert!(none.overlay.is_none() && none.photograph_map.is_none());
}

#[tokio::test]
async fn a_signed_map_of_the_photograph_has_its_zero_at_128_whatever_is_in_it() {
    let daemon = Daemon::start().await;
    daemon.serve_too("brightness", load(&brightness(4.0, 16)).unwrap());
    let client = daemon.client().await;
    let mut darkest = Vec::new();
    for evidence in [Evidence::Signed, Evidence::For] {
        let options = ExplainOptions {
            class: "0".into(),
            evidence: evidence.into(),
            photograph_map: true,
            ..ExplainOptions::default()
        };
        let request = ExplainRequest { backbone: "brightness".into(), ..explain(options) };
        let found = client.explain(request).await.unwrap().explanation.unwrap();
        assert!(
            found.map.iter().all(|value| (0.0..=1.0).contains(value)),
            "nothing speaks against"
        );
        let whole = found.photograph_map.unwrap();
        assert_eq!(whole.values.iter().max(), Some(&255));
        darkest.push(*whole.values.iter().min().unwrap());
    }
    assert!(darkest[0] >= 128 && darkest[1] < 128, "{darkest:?}");
}

#[tokio::test]
async fn predict_brings_the_same_map_in_the_same_call() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let alone = client.explain(explain(ExplainOptions::default())).await.unwrap();
    let request = PredictRequest {
        explain: Some(ExplainOptions::default()),
        ..PredictRequest::from(Picture::from_bytes(photograph()))
    };
    let together = client.predict(request).await.unwrap();
    assert_eq!(together.explanation.unwrap().raw, alone.explanation.unwrap().raw);
    assert_eq!(together.predictions.len(), 4);
}

#[tokio::test]
async fn predict_with_a_map_runs_the_network_once() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let overlay = Some(OverlayOptions::default());
    let by = |method: ExplainMethod| ExplainOptions { method: method.into(), ..Default::default() };
    for options in [
        ExplainOptions::default(),
        by(ExplainMethod::LayerCam),
        by(ExplainMethod::EigenCam),
        ExplainOptions { overlay, photograph_map: true, ..ExplainOptions::default() },
    ] {
        let before = daemon.runs("logits");
        let request = PredictRequest {
            explain: Some(options.clone()),
            ..PredictRequest::from(Picture::from_bytes(photograph()))
        };
        let answer = client.predict(request).await.unwrap();
        assert!(answer.explanation.is_some() && !answer.predictions.is_empty());
        assert_eq!(daemon.runs("logits") - before, 1, "{options:?}");
    }
    // Another layer needs a plan of its own, which gives the prediction too.
    let before = daemon.runs("logits");
    let options = ExplainOptions { layers: vec!["relu1".into()], ..ExplainOptions::default() };
    let request = PredictRequest {
        explain: Some(options),
        ..PredictRequest::from(Picture::from_bytes(photograph()))
    };
    client.predict(request).await.unwrap();
    assert_eq!(daemon.runs("logits") - before, 0);
}

#[tokio::test]
async fn what_was_prepared_is_kept_once_for_the_same_layers_and_goes_with_its_backbone() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    daemon.put_on_device("other");
    client.load_backbone("other").await.unwrap();
    let at = async |layers: &[&str]| {
        let layers = layers.iter().map(ToString::to_string).collect();
        let options = ExplainOptions { layers, ..ExplainOptions::default() };
        let request = ExplainRequest { backbone: "other".into(), ..explain(options) };
        let found = client.explain(request).await.unwrap().explanation.unwrap();
        (found.layers, daemon.engine.explainer_bytes())
    };
    let (layers, bytes) = at(&["relu1", "relu2"]).await;
    assert_eq!(layers, ["relu1", "relu2"]);
    assert!(bytes > 0);
    for same in [&["relu2", "relu1"][..], &["relu1", "relu2", "relu1"]] {
        assert_eq!(at(same).await, (layers.clone(), bytes), "{same:?}");
    }
    let (_, more) = at(&["relu1"]).await;
    assert!(more > bytes);

    // The same file in memory under another name needs it still.
    client.unload_backbone("other").await.unwrap();
    assert_eq!(daemon.engine.explainer_bytes(), more);
    client.load_backbone("other").await.unwrap();
    let forget = |snapshot: &mut Snapshot| {
        snapshot.backbones.remove("logits");
        Ok::<_, Infallible>(())
    };
    daemon.engine.registry().update(forget).unwrap();
    assert_eq!(at(&["relu1"]).await.1, more);
    client.unload_backbone("other").await.unwrap();
    assert_eq!(daemon.engine.explainer_bytes(), 0);
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_with_the_field_at_fault() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let class = |class: &str| ExplainOptions { class: class.into(), ..ExplainOptions::default() };
    let layer = |layer: &str| ExplainOptions { layers: vec![layer.into()], ..class("") };
    let by_input =
        |options| ExplainOptions { method: ExplainMethod::InputGradient.into(), ..options };
    let signed = ExplainOptions { evidence: Evidence::Signed.into(), ..class("") };
    let cases = [
        (class("4"), ErrorKind::InvalidArgument, "class"),
        (class("99999999999999999999999"), ErrorKind::InvalidArgument, "class"),
        (class("label:elephant"), ErrorKind::InvalidArgument, "class"),
        (class("tabby"), ErrorKind::InvalidArgument, "class"),
        (class("1-9"), ErrorKind::InvalidArgument, "class"),
        (layer("features"), ErrorKind::InvalidArgument, "layers"),
        (layer("nowhere"), ErrorKind::NotFound, "layers"),
        (by_input(layer("nowhere")), ErrorKind::InvalidArgument, "layers"),
        (by_input(signed), ErrorKind::InvalidArgument, "evidence"),
        (ExplainOptions { method: 99, ..class("") }, ErrorKind::InvalidArgument, "method"),
    ];
    let mut stream = ExplanationServiceClient::new(daemon.channel().await);
    for (options, kind, field) in cases {
        let error = client.explain(explain(options.clone())).await.unwrap_err();
        assert_eq!((error.kind, error.field), (kind, format!("options.{field}")));

        let beside = PredictRequest {
            explain: Some(options.clone()),
            ..PredictRequest::from(Picture::from_bytes(photograph()))
        };
        let error = client.predict(beside.clone()).await.unwrap_err();
        assert_eq!((error.kind, error.field), (kind, format!("explain.{field}")));

        let item = ExplainStreamRequest { request: Some(explain(options)), ..Default::default() };
        let items = tokio_stream::once(item);
        let mut answers = stream.explain_stream(items).await.unwrap().into_inner();
        let answer = answers.next().await.unwrap().unwrap();
        let Some(Outcome::Failure(failure)) = answer.result else { panic!("refused") };
        assert_eq!(failure.field, format!("request.options.{field}"));

        let item = PredictStreamRequest { request: Some(beside), ..Default::default() };
        let mut answers = client.predict_stream(tokio_stream::once(item)).await.unwrap();
        let failure = answers.next().await.unwrap().unwrap().result.unwrap_err();
        assert_eq!(failure.field, format!("request.explain.{field}"));
    }
    let damaged = ExplainRequest::from(Picture::from_bytes(b"no picture".to_vec()));
    let item = ExplainStreamRequest { request: Some(damaged), ..Default::default() };
    let items = tokio_stream::once(item);
    let mut answers = stream.explain_stream(items).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(Outcome::Failure(failure)) = answer.result else { panic!("refused") };
    assert_eq!(failure.field, "request.image");

    let headless = ExplainRequest { backbone: "features".into(), ..explain(class("")) };
    let error = client.explain(headless).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn an_answer_over_the_limit_fails_alone_and_names_the_key_that_raises_it() {
    let options = ServerOptions { maximum_message_bytes: 20_000, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let client = daemon.client().await;
    let picture = vision::Picture::new(200, 150, vec![90; 200 * 150 * 3]).unwrap();
    let png = vision::encode(&picture, ImageFormat::Png).unwrap();
    let whole = ExplainOptions { photograph_map: true, ..ExplainOptions::default() };
    let explain = |options: &ExplainOptions| ExplainRequest {
        options: Some(options.clone()),
        ..ExplainRequest::from(Picture::from_bytes(png.clone()))
    };
    let beside = |options: &ExplainOptions| PredictRequest {
        explain: Some(options.clone()),
        ..PredictRequest::from(Picture::from_bytes(png.clone()))
    };
    let one_by_itself = client.explain(explain(&whole)).await.unwrap_err();
    let beside_its_prediction = client.predict(beside(&whole)).await.unwrap_err();
    for error in [one_by_itself, beside_its_prediction] {
        let found = (error.kind, error.reason.as_str(), error.retry_after);
        assert_eq!(found, (ErrorKind::ResourceExhausted, "MESSAGE_SIZE", None));
        for word in ["server.max_message_mib", "photograph_map", "longest_side"] {
            assert!(error.message.contains(word), "{error}");
        }
    }
    let items = [whole, ExplainOptions::default()];
    let explained = items.clone().map(|options| ExplainStreamRequest {
        request: Some(explain(&options)),
        ..ExplainStreamRequest::default()
    });
    let mut stream = ExplanationServiceClient::new(daemon.channel().await);
    let answers = stream.explain_stream(tokio_stream::iter(explained)).await.unwrap();
    let mut outcomes = Vec::new();
    for answer in answers.into_inner().collect::<Vec<_>>().await {
        outcomes.push(match answer.unwrap().result.unwrap() {
            Outcome::Response(_) => String::new(),
            Outcome::Failure(failure) => failure.reason,
        });
    }
    outcomes.sort();
    assert_eq!(outcomes, ["", "MESSAGE_SIZE"]);
    let predicted = items.map(|options| PredictStreamRequest {
        request: Some(beside(&options)),
        ..PredictStreamRequest::default()
    });
    let mut answers = client.predict_stream(tokio_stream::iter(predicted)).await.unwrap();
    let mut outcomes = Vec::new();
    while let Some(answer) = answers.next().await.unwrap() {
        outcomes.push(answer.result.err().map_or_else(String::new, |error| error.reason));
    }
    outcomes.sort();
    assert_eq!(outcomes, ["", "MESSAGE_SIZE"]);
}

#[tokio::test]
async fn true_boxes_alone_bring_the_pointing_game_and_curves_only_where_asked_for() {
    let daemon = Daemon::start().await;
    daemon.serve_too("brightness", load(&brightness(4.0, 16)).unwrap());
    let client = daemon.client().await;
    let measured = async |quality: bool, class: &str, boxes: &[[f32; 4]]| {
        let boxes = boxes.iter().map(|[x0, y0, x1, y1]| Box { x0: *x0, y0: *y0, x1: *x1, y1: *y1 });
        let options = ExplainOptions {
            class: class.into(),
            quality,
            true_boxes: boxes.collect(),
            ..ExplainOptions::default()
        };
        let request = ExplainRequest { backbone: "brightness".into(), ..explain(options) };
        client.explain(request).await.unwrap().explanation.unwrap().quality
    };
    let everywhere = [[0.0, 0.0, 10_000.0, 10_000.0]];
    assert!(measured(false, "0", &[]).await.is_none());
    let found = measured(false, "0", &everywhere).await.unwrap();
    assert_eq!(found.pointing_hit, Some(true));
    assert!((found.true_box_energy.unwrap() - 1.0).abs() < 1e-5);
    assert_eq!((found.insertion, found.deletion, found.average_drop), (None, None, None));
    let found = measured(true, "0", &[]).await.unwrap();
    assert!(found.insertion.unwrap() > 0.0 && found.average_drop.is_some());
    assert_eq!((found.pointing_hit, found.true_box_energy), (None, None));
    // Nothing speaks for the second class: no pixel comes first.
    let found = measured(true, "1", &everywhere).await.unwrap();
    assert_eq!((found.insertion, found.pointing_hit), (None, Some(false)));
}

#[tokio::test]
async fn an_operator_without_a_rule_is_unimplemented_and_named_with_its_node() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "map"),
        node("ConvTranspose", &["map", "enlarging"], "larger"),
        node("GlobalAveragePool", &["larger"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let shapes: [(&str, &[i64]); 3] =
        [("kernel", &[8, 3, 3, 3]), ("enlarging", &[8, 6, 3, 3]), ("matrix", &[6, 4])];
    let weights = shapes.map(|(name, shape)| weights(name, shape)).to_vec();
    let network = load(&model(&[1, 3, 16, 16], nodes, weights)).unwrap();
    let daemon = Daemon::start().await;
    daemon.serve_too("enlarging", network);
    let client = daemon.client().await;
    let at = |layer: &str| ExplainRequest {
        backbone: "enlarging".into(),
        ..explain(ExplainOptions { layers: vec![layer.into()], ..ExplainOptions::default() })
    };
    let error = client.explain(at("map")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unimplemented, "{error}");
    assert_eq!(error.reason, "GRADIENT_RULE");
    assert!(error.message.contains("Deconv") && error.message.contains("larger_node"), "{error}");
    assert!(client.explain(at("larger")).await.is_ok(), "nothing is in the way behind it");
}

#[tokio::test]
async fn a_bad_item_of_a_stream_fails_alone() {
    let daemon = Daemon::start().await;
    let mut client = ExplanationServiceClient::new(daemon.channel().await);
    let item = |id: &str, request: Option<ExplainRequest>| ExplainStreamRequest {
        correlation_id: id.into(),
        request,
    };
    let good = || Some(explain(ExplainOptions::default()));
    let items = vec![item("a", good()), item("b", None), item("c", good())];
    let mut answers = client.explain_stream(tokio_stream::iter(items)).await.unwrap().into_inner();
    let mut failed = Vec::new();
    let mut explained = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        match answer.result.unwrap() {
            Outcome::Response(_) => explained.push(answer.correlation_id),
            Outcome::Failure(_) => failed.push(answer.correlation_id),
        }
    }
    explained.sort();
    assert_eq!((explained, failed), (vec!["a".to_string(), "c".into()], vec!["b".to_string()]));
}
