//! Callers that leave in the middle, and callers that need not wait for the end.

use std::time::{Duration, Instant};

use graftd::client::messages::explanation_service_client::ExplanationServiceClient;
use graftd::client::messages::{
    ExplainMethod, ExplainOptions, ExplainRequest, ExplainStreamRequest, OverlayOptions,
    PredictRequest,
};
use graftd::client::{Client, ErrorKind, Picture};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tract_onnx::pb::ModelProto;

use crate::common::daemon::{Daemon, photograph};
use crate::common::onnx::{With, load, model, node, weights};

/// Channels of its only feature map: as many runs for Score-CAM.
const CHANNELS: i64 = 2048;

fn wide() -> ModelProto {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["conv"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let weights = vec![weights("kernel", &[CHANNELS, 3, 3, 3]), weights("matrix", &[CHANNELS, 4])];
    model(&[1, 3, 16, 16], nodes, weights)
}

fn request(method: ExplainMethod) -> ExplainRequest {
    let options = ExplainOptions { method: method.into(), ..ExplainOptions::default() };
    ExplainRequest {
        backbone: "wide".into(),
        options: Some(options),
        ..ExplainRequest::from(Picture::from_bytes(photograph()))
    }
}

/// The longest of four runs of the network, made while the daemon is at work.
async fn slowest_run() -> Duration {
    let network = load(&wide()).unwrap();
    let run = move || {
        let input = vec![0.5; network.plan().input_len()];
        let timed = |_| {
            let began = Instant::now();
            network.plan().run(&input).unwrap();
            began.elapsed()
        };
        (0..4).map(timed).max().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Leaves in the middle of Score-CAM by ending the call, or with it the whole connection.
async fn leave(daemon: &Daemon, caller: Client, others: &Client) {
    // Prepares the network as Score-CAM needs it too.
    others.explain(request(ExplainMethod::EigenCam)).await.unwrap();
    daemon.busy(0).await;
    let before = daemon.engine.statistics();
    let call = tokio::spawn(async move { caller.explain(request(ExplainMethod::ScoreCam)).await });
    daemon.busy(1).await;
    let run = slowest_run().await;
    assert_eq!(daemon.engine.statistics().busy, 1, "Score-CAM is still at work");
    call.abort();
    let left = Instant::now();
    // A prediction is answered in any case; the only worker rests once it let go of the explanation.
    others.predict(Picture::from_bytes(photograph()).into()).await.unwrap();
    daemon.busy(0).await;
    let waited = left.elapsed();
    assert!(call.await.unwrap_err().is_cancelled());
    let after = daemon.engine.statistics();
    assert_eq!((after.queued, after.finished - before.finished), (0, 2));
    // Twice the run: other tests share the machine. All of Score-CAM would be 2048 runs.
    let allowed = Duration::from_millis(100) + 2 * run;
    assert!(waited <= allowed, "{waited:?} after the caller left, a run takes {run:?}");
}

#[tokio::test]
async fn score_cam_stops_within_a_run_and_100_ms_when_its_caller_leaves() {
    let daemon = Daemon::start().await;
    daemon.serve_too("wide", load(&wide()).unwrap());
    let others = daemon.client().await;
    leave(&daemon, others.clone(), &others).await;
    leave(&daemon, daemon.client().await, &others).await;
}

/// Waits until Score-CAM, which begins after `before` runs, is in the middle of its channels.
async fn in_the_middle(daemon: &Daemon, before: u64) {
    daemon.until(|_| daemon.runs("wide") >= before + 3).await;
}

/// Waits until the only worker has let go of the explanation, which must not have run to its end.
async fn let_go(daemon: &Daemon, before: u64) {
    daemon.busy(0).await;
    let runs = daemon.runs("wide") - before;
    assert!(runs < CHANNELS as u64, "{runs} runs: all of Score-CAM");
    assert_eq!(daemon.engine.statistics().queued, 0);
}

#[tokio::test]
async fn score_cam_stops_when_the_caller_leaves_a_stream_of_explanations() {
    let daemon = Daemon::start().await;
    daemon.serve_too("wide", load(&wide()).unwrap());
    let mut client = ExplanationServiceClient::new(daemon.channel().await);
    let before = daemon.runs("wide");
    let request = Some(request(ExplainMethod::ScoreCam));
    let item = ExplainStreamRequest { correlation_id: "a".into(), request };
    let (more, waiting) = mpsc::channel(1);
    let items = tokio_stream::once(item).chain(ReceiverStream::new(waiting));
    let answers = client.explain_stream(items).await.unwrap();
    in_the_middle(&daemon, before).await;
    // The client's side resets the call once nobody holds either of its directions.
    drop((answers, more));
    let_go(&daemon, before).await;
}

#[tokio::test]
async fn score_cam_stops_when_the_caller_of_a_prediction_with_a_map_leaves() {
    let daemon = Daemon::start().await;
    daemon.serve_too("wide", load(&wide()).unwrap());
    let client = daemon.client().await;
    let before = daemon.runs("wide");
    let ExplainRequest { image, backbone, options, .. } = request(ExplainMethod::ScoreCam);
    let wanted = PredictRequest { image, backbone, explain: options, ..PredictRequest::default() };
    let call = tokio::spawn(async move { client.predict(wanted).await });
    in_the_middle(&daemon, before).await;
    call.abort();
    let_go(&daemon, before).await;
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn predictions_on_the_only_worker_are_answered_in_the_middle_of_score_cam() {
    let daemon = Daemon::start().await;
    daemon.serve_too("wide", load(&wide()).unwrap());
    let client = daemon.client().await;
    client.explain(request(ExplainMethod::EigenCam)).await.unwrap();
    daemon.busy(0).await;
    let caller = client.clone();
    let mut wanted = request(ExplainMethod::ScoreCam);
    wanted.options.as_mut().unwrap().channels = Some(300);
    let mut long = tokio::spawn(async move { caller.explain(wanted).await });
    daemon.busy(1).await;
    for _ in 0..3 {
        tokio::select! {
            biased;
            _ = &mut long => panic!("Score-CAM went first"),
            answer = client.predict(Picture::from_bytes(photograph()).into()) => answer.unwrap(),
        };
    }
    let found = long.await.unwrap().unwrap().explanation.unwrap();
    assert!(found.map.iter().all(|value| value.is_finite()));
}

#[tokio::test]
async fn only_a_map_in_closed_form_comes_with_the_priority_of_its_prediction() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let beside = |options| PredictRequest {
        explain: Some(options),
        ..PredictRequest::from(Picture::from_bytes(photograph()))
    };
    let layer = |name: &str| ExplainOptions { layers: vec![name.into()], ..Default::default() };
    let by = |method: ExplainMethod| ExplainOptions { method: method.into(), ..Default::default() };
    let cases = [
        (ExplainOptions::default(), true),
        (layer("relu2"), true),
        (by(ExplainMethod::LayerCam), true),
        (layer("relu1"), false),
        (by(ExplainMethod::InputGradient), false),
        (by(ExplainMethod::AblationCam), false),
        (ExplainOptions { quality: true, ..ExplainOptions::default() }, false),
        // A large photograph takes longer to draw than to classify.
        (
            ExplainOptions {
                overlay: Some(OverlayOptions::default()),
                ..ExplainOptions::default()
            },
            false,
        ),
        (ExplainOptions { photograph_map: true, ..ExplainOptions::default() }, false),
    ];
    // With the queue of predictions full, what counts as one is refused, and all else still waits.
    let _worker = daemon.occupy().await;
    for waiting in 1..=2 {
        let predicting = client.clone();
        tokio::spawn(
            async move { predicting.predict(Picture::from_bytes(photograph()).into()).await },
        );
        daemon.queued(waiting).await;
    }
    for (options, is_cheap) in cases {
        if is_cheap {
            let refused = client.predict(beside(options)).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
            continue;
        }
        let (explaining, request) = (client.clone(), beside(options));
        let waiting = tokio::spawn(async move { explaining.predict(request).await });
        daemon.queued(3).await;
        waiting.abort();
        daemon.queued(2).await;
    }
}
