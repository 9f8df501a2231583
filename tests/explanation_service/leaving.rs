//! Callers that leave in the middle.

use std::time::{Duration, Instant};

use graftd::client::messages::{ExplainMethod, ExplainOptions, ExplainRequest};
use graftd::client::{Client, Picture};
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
    // The only worker answers: it has let go of the explanation.
    others.predict(Picture::from_bytes(photograph()).into()).await.unwrap();
    let waited = left.elapsed();
    assert!(call.await.unwrap_err().is_cancelled());
    daemon.busy(0).await;
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
