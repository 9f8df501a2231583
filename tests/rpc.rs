//! The daemon's services over real gRPC.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::daemon::{Daemon, photograph, reference};
use graftd::base::name::Name;
use graftd::client::messages::head_service_client::HeadServiceClient;
use graftd::client::messages::{
    AddSampleRequest, EmbedRequest, ExportHeadVersionRequest, GetSampleRequest, Image, NewSample,
    PixelFormat, PredictRequest, PredictStreamRequest, RawFrame, StreamPolicy, image, new_sample,
};
use graftd::client::{Client, ClientError, ErrorKind, Options, Picture};
use graftd::engine::{EngineError, HeadHandle, HeadSource, HeadVersions, LiveHead};
use graftd::rpc::ServerOptions;
use prost::Message;
use tokio_stream::StreamExt;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

fn encoded(bytes: impl Into<Vec<u8>>) -> PredictRequest {
    Picture::from_bytes(bytes.into()).into()
}

async fn predict_fails(client: &Client, request: PredictRequest) -> ClientError {
    client.predict(request).await.unwrap_err()
}

#[tokio::test]
async fn a_photograph_is_classified_with_probabilities_logits_and_timings() {
    let daemon = Daemon::start().await;
    let answer = daemon.client().await.predict(encoded(photograph())).await.unwrap();
    assert_eq!(answer.backbone, "logits", "the latest added answers where nothing is named");
    assert_eq!(answer.predictions.len(), 4, "no more than there are classes");
    let total: f32 = answer.predictions.iter().map(|prediction| prediction.probability).sum();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
    for pair in answer.predictions.windows(2) {
        let (better, worse) = (&pair[0], &pair[1]);
        let ratio = (better.logit - worse.logit).exp();
        assert!((better.probability / worse.probability / ratio - 1.0).abs() < 1e-3);
        assert!(better.probability >= worse.probability);
    }
    let best = &answer.predictions[0];
    assert_eq!(best.label, ["ant", "bee", "cat", "dog"][best.index as usize]);
    let timings = answer.timings.unwrap();
    assert!(timings.decode_ms > 0.0 && timings.inference_ms > 0.0);
    assert!(timings.total_ms >= timings.decode_ms + timings.preprocess_ms + timings.inference_ms);
}

#[tokio::test]
async fn a_raw_frame_answers_as_the_same_picture_encoded() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let bytes = std::fs::read(reference("pixels/palette-transparent.png")).unwrap();
    let picture = graftd::vision::decode(&bytes, &graftd::vision::Limits::default()).unwrap();
    let frame = RawFrame {
        format: PixelFormat::Rgb8.into(),
        width: picture.width,
        height: picture.height,
        stride: 0,
        data: picture.pixels.into(),
    };
    let raw = Image { source: Some(image::Source::Raw(frame)) };
    let raw = PredictRequest { image: Some(raw), ..PredictRequest::default() };
    let raw = client.predict(raw).await.unwrap();
    let encoded = client.predict(encoded(bytes)).await.unwrap();
    assert_eq!(raw.predictions, encoded.predictions);
}

#[tokio::test]
async fn a_softmax_in_the_file_changes_neither_logits_nor_probabilities() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut answers = Vec::new();
    for backbone in ["logits", "softmax"] {
        let request = PredictRequest { backbone: backbone.into(), ..encoded(photograph()) };
        answers.push(client.predict(request).await.unwrap().predictions);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn classes_of_a_network_that_ends_in_a_sigmoid_may_all_be_there() {
    let daemon = Daemon::start().await;
    let file = std::fs::read(reference("tiny/sigmoid.onnx")).unwrap();
    daemon.serve_too("sigmoid", common::onnx::load_bytes(file).unwrap());
    let client = daemon.client().await;
    let request =
        |backbone: &str| PredictRequest { backbone: backbone.into(), ..encoded(photograph()) };
    let found = client.predict(request("sigmoid")).await.unwrap().predictions;
    let with_softmax = client.predict(request("softmax")).await.unwrap().predictions;
    assert_eq!(found.len(), with_softmax.len());
    for (class, other) in found.iter().zip(&with_softmax) {
        assert_eq!((class.index, class.logit), (other.index, other.logit));
        let expected = 1.0 / (1.0 + (-class.logit).exp());
        assert!((class.probability - expected).abs() < 1e-6, "{class:?}");
    }
    let mut embed: EmbedRequest = Picture::from_bytes(photograph()).into();
    embed.backbone = "sigmoid".into();
    assert_eq!(
        client.embed(embed).await.unwrap().embedding.len(),
        12,
        "what enters the classifier"
    );
}

#[tokio::test]
async fn an_embedding_is_what_enters_the_classifier() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for backbone in ["logits", "features"] {
        let mut request: EmbedRequest = Picture::from_bytes(photograph()).into();
        request.backbone = backbone.into();
        let answer = client.embed(request).await.unwrap();
        assert_eq!((answer.backbone.as_str(), answer.embedding.len()), (backbone, 12));
    }
    let no_classifier = PredictRequest { backbone: "features".into(), ..encoded(photograph()) };
    let error = predict_fails(&client, no_classifier).await;
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn every_hostile_request_gets_a_clear_error_and_the_next_good_one_its_answer() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let good = photograph();
    let raw = |width, height, bytes: usize| {
        let frame = RawFrame {
            format: PixelFormat::Rgb8.into(),
            width,
            height,
            stride: 0,
            data: vec![0; bytes].into(),
        };
        let image = Some(Image { source: Some(image::Source::Raw(frame)) });
        PredictRequest { image, ..PredictRequest::default() }
    };
    // A PNG header of 65535 x 65535 and the beginning of a body.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bomb.extend([0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 8, 2, 0, 0, 0]);
    bomb.extend(0x3967_4e07_u32.to_be_bytes()); // its checksum, so that the size itself is judged
    bomb.extend(b"\0\0\0\x08IDAT\x78\x9c");
    let error = predict_fails(&client, encoded(bomb.clone())).await;
    assert!(error.message.contains("65535"), "{error}");
    let nameless = PredictRequest::default();
    let head = |name: &str| PredictRequest { head: name.into(), ..encoded(photograph()) };
    let top_k = |count| PredictRequest { top_k: Some(count), ..encoded(photograph()) };
    let both = PredictRequest { backbone: "logits".into(), ..head("trash") };
    let unknown = PredictRequest { backbone: "x/../\0".into(), ..encoded(photograph()) };
    let invalid = ErrorKind::InvalidArgument;
    let cases = [
        (nameless, invalid, "image"),
        (encoded([]), invalid, "image"),
        (encoded(*b"not a picture at all"), invalid, "image"),
        (encoded(bomb), invalid, "image"),
        (raw(4, 4, 47), invalid, "image.raw.data"),
        (raw(4, 4, 0), invalid, "image.raw.data"),
        (raw(0, 4, 0), invalid, "image.raw.width"),
        (raw(65535, 65535, 12), invalid, "image"),
        (top_k(0), invalid, "top_k"),
        (top_k(1_000_000_000), invalid, "top_k"),
        (head("trash@0"), invalid, "head"),
        (both, invalid, "head"),
        (head("trash"), ErrorKind::NotFound, ""),
        (unknown, ErrorKind::NotFound, ""),
    ];
    for (request, kind, field) in cases {
        let error = predict_fails(&client, request).await;
        assert_eq!((error.kind, error.field.as_str()), (kind, field), "{error}");
        assert!(!error.reason.is_empty() && !error.message.is_empty());
    }
    for end in (0..good.len()).step_by(good.len() / 20 + 1) {
        let error = predict_fails(&client, encoded(&good[..end])).await;
        assert_eq!(error.kind, invalid, "cut at {end}: {error}");
    }
    client.predict(encoded(good)).await.unwrap();
}

#[tokio::test]
async fn a_message_over_the_limit_names_the_key_that_raises_it() {
    let options = ServerOptions { maximum_message_bytes: 10_000, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let client = daemon.client().await;
    let error = predict_fails(&client, encoded([0; 20_000])).await;
    assert_eq!(error.kind, ErrorKind::ResourceExhausted);
    assert!(error.message.contains("server.max_message_mib"), "{error}");
    let item = PredictStreamRequest {
        request: Some(encoded([0; 20_000])),
        ..PredictStreamRequest::default()
    };
    let mut answers = client.predict_stream(tokio_stream::once(item)).await.unwrap();
    let error = answers.next().await.unwrap_err();
    assert!(error.message.contains("server.max_message_mib"), "{error}");
}

#[tokio::test]
async fn a_bad_item_answers_with_its_own_failure_and_the_stream_lives_on() {
    let daemon = Daemon::start().await;
    let item = |id: &str, request| PredictStreamRequest {
        correlation_id: id.into(),
        request,
        ..PredictStreamRequest::default()
    };
    let items = [
        item("good-1", Some(encoded(photograph()))),
        item("damaged", Some(encoded(*b"\xff\xd8\xff"))),
        item("empty", None),
        item(&"x".repeat(201), Some(encoded(photograph()))),
        item("good-2", Some(encoded(photograph()))),
    ];
    let client = daemon.client().await;
    let mut answers = client.predict_stream(tokio_stream::iter(items)).await.unwrap();
    let mut outcomes = std::collections::BTreeMap::new();
    while let Some(answer) = answers.next().await.unwrap() {
        let field = answer.result.map(|found| found.predictions.len()).map_err(|e| e.field);
        outcomes.insert(answer.correlation_id, field);
    }
    assert_eq!(outcomes["good-1"], Ok(4));
    assert_eq!(outcomes["good-2"], Ok(4));
    assert_eq!(outcomes["damaged"], Err("request.image".into()));
    assert_eq!(outcomes["empty"], Err("request".into()));
    assert_eq!(outcomes[&"x".repeat(201)], Err("correlation_id".into()));
}

#[tokio::test]
async fn a_number_that_no_value_has_is_refused_and_never_taken_for_the_default() {
    let daemon = Daemon::start().await;
    let item = |policy| PredictStreamRequest {
        request: Some(encoded(photograph())),
        policy,
        ..PredictStreamRequest::default()
    };
    let items = tokio_stream::iter([item(99), item(StreamPolicy::AnswerAll.into())]);
    let mut answers = daemon.client().await.predict_stream(items).await.unwrap();
    let mut fields = Vec::new();
    while let Some(answer) = answers.next().await.unwrap() {
        fields.push(answer.result.err().map_or_else(String::new, |error| error.field));
    }
    fields.sort();
    assert_eq!(fields, ["", "policy"]);

    let mut heads = HeadServiceClient::new(daemon.channel().await);
    let request = ExportHeadVersionRequest { head: "trash@1".into(), format: 99 };
    let status = heads.export_head_version(request).await.unwrap_err();
    let error = ClientError::from(status);
    assert_eq!((error.kind, error.field.as_str()), (ErrorKind::InvalidArgument, "format"));
}

#[tokio::test]
async fn a_sample_that_comes_back_larger_than_a_message_may_be_names_the_key() {
    let sample = NewSample {
        dataset: "spots".into(),
        id: "1".into(),
        labels: vec!["ant".into()],
        content: Some(new_sample::Content::Image(encoded(photograph()).image.unwrap())),
        ..NewSample::default()
    };
    let request = AddSampleRequest { sample: Some(sample.clone()) };
    let maximum_message_bytes = request.encoded_len();
    let options = ServerOptions { maximum_message_bytes, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let client = daemon.client().await;
    client.add_sample(sample).await.unwrap();
    let request = |include_image| GetSampleRequest {
        dataset: "spots".into(),
        id: "1".into(),
        include_image,
        include_embedding: "logits".into(),
    };
    client.get_sample(request(false)).await.unwrap();
    let error = client.get_sample(request(true)).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::ResourceExhausted, "MESSAGE_SIZE"));
    assert!(error.message.contains("server.max_message_mib"), "{error}");
}

#[tokio::test]
async fn a_full_queue_is_told_with_a_time_to_try_again() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let occupied = daemon.occupy().await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.predict(encoded(photograph())).await })
        })
        .collect();
    daemon.queued(2).await;
    let error = predict_fails(&client, encoded(photograph())).await;
    assert_eq!(error.kind, ErrorKind::ResourceExhausted);
    assert!(error.retry_after.is_some() && error.is_temporary());
    drop(occupied);
    for answer in waiting {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_frees_its_place_in_the_queue() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let _occupied = daemon.occupy().await;
    let call = tokio::spawn(async move { client.predict(encoded(photograph())).await });
    daemon.queued(1).await;
    call.abort();
    daemon.queued(0).await;
}

#[tokio::test]
async fn a_deadline_that_passes_frees_the_place_in_the_queue() {
    let daemon = Daemon::start().await;
    let options =
        Options { request_timeout: Some(Duration::from_millis(50)), ..Options::default() };
    let client = Client::connect_with(&daemon.address, options).await.unwrap();
    let _occupied = daemon.occupy().await;
    let error = predict_fails(&client, encoded(photograph())).await;
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
    daemon.queued(0).await;
}

#[tokio::test]
async fn ten_thousand_streams_opened_and_dropped_leave_the_daemon_unharmed() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for _ in 0..100 {
        let opened = (0..100).map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let (open, items) = tokio::sync::mpsc::channel(1);
                let items = tokio_stream::wrappers::ReceiverStream::new(items);
                drop(client.predict_stream(items).await.unwrap());
                drop(open);
            })
        });
        for opening in opened.collect::<Vec<_>>() {
            opening.await.unwrap();
        }
    }
    client.predict(encoded(photograph())).await.unwrap();
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_ends_streams_as_unavailable() {
    let mut daemon = Daemon::start().await;
    let client = daemon.client().await;
    let occupied = daemon.occupy().await;
    let item = PredictStreamRequest {
        request: Some(encoded(photograph())),
        ..PredictStreamRequest::default()
    };
    let items = tokio_stream::once(item).chain(tokio_stream::pending());
    let mut answers = client.predict_stream(items).await.unwrap();
    daemon.queued(1).await;
    daemon.stop();
    drop(occupied);
    assert!(answers.next().await.unwrap().unwrap().result.is_ok());
    let error = answers.next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    tokio::time::timeout(Duration::from_secs(10), &mut daemon.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn while_the_daemon_drains_health_says_so_and_what_runs_is_answered() {
    async fn health(daemon: &Daemon, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.into() };
        let mut client = HealthClient::new(daemon.channel().await);
        client.check(request).await.unwrap().into_inner().status()
    }
    const SERVICES: [&str; 3] = ["", "graft.v1.InferenceService", "inference.GRPCInferenceService"];
    let daemon = Daemon::start().await;
    for service in SERVICES {
        assert_eq!(health(&daemon, service).await, ServingStatus::Serving, "{service}");
    }
    let occupied = daemon.occupy().await;
    let client = daemon.client().await;
    let running = tokio::spawn(async move { client.predict(encoded(photograph())).await });
    daemon.queued(1).await;
    daemon.drain.drain().await;
    for service in SERVICES {
        assert_eq!(health(&daemon, service).await, ServingStatus::NotServing, "{service}");
    }
    drop(occupied);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_device_tells_its_memory_and_counts_its_answers() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.predict(encoded(photograph())).await.unwrap();
    predict_fails(&client, encoded([])).await;
    let device = client.get_device().await.unwrap();
    assert_eq!(device.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(device.worker_count, 1);
    assert!(device.memory.unwrap().resident_bytes > 0);
    let statistics = client.get_statistics().await.unwrap();
    assert_eq!((statistics.completed_total, statistics.failed_total), (1, 1));
    assert_eq!(statistics.backbones[0].backbone, "logits");
    assert!(statistics.backbones[0].median_ms > 0.0);
}

#[tokio::test]
async fn backbones_are_listed_and_described_with_their_layers() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let backbones = client.list_backbones().await.unwrap();
    let ids: Vec<_> = backbones.iter().map(|found| (found.id.as_str(), found.default)).collect();
    assert_eq!(ids, [("features", false), ("logits", true), ("softmax", false)]);
    let found = client.get_backbone("").await.unwrap();
    assert_eq!(found.backbone.unwrap().class_count, 4);
    assert_eq!(found.labels, ["ant", "bee", "cat", "dog"]);
    assert_eq!(found.explanation_layer, "relu2");
    let layer = found.layers.iter().find(|layer| layer.name == "relu2").unwrap();
    assert_eq!((layer.shape.as_slice(), layer.spatial, layer.waist), (&[12, 4, 4][..], true, true));
    let error = client.get_backbone("nothing").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("no backbone nothing"), "{error}");
}

/// In place of heads on a slow disk.
#[derive(Debug)]
struct SlowHeads {
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    go: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl HeadSource for SlowHeads {
    fn fetch(&self, name: &Name, _: u32) -> Result<Arc<LiveHead>, EngineError> {
        self.begun.send(()).unwrap();
        let waited = self.go.lock().unwrap().recv_timeout(Duration::from_secs(5));
        Err(EngineError::HeadFile { head: name.to_string(), reason: format!("{waited:?}") })
    }

    fn forget(&self, _: &Name) {}
}

#[tokio::test]
async fn a_head_that_is_read_from_the_device_holds_up_no_other_request() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (release, go) = std::sync::mpsc::channel();
    let source = Arc::new(SlowHeads { begun, go: go.into() });
    let publish = |snapshot: &mut graftd::engine::Snapshot| {
        let handle = HeadHandle::on_device("logits".parse().unwrap(), source);
        let versions = HeadVersions { versions: [(1, handle)].into(), active: None };
        snapshot.heads.insert("slow".parse().unwrap(), versions);
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(publish).unwrap();
    let slow = PredictRequest { head: "slow@1".into(), ..encoded(photograph()) };
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { predict_fails(&client, slow).await })
    };
    begins.recv().await.unwrap();
    client.predict(encoded(photograph())).await.unwrap();
    release.send(()).unwrap();
    let error = waiting.await.unwrap();
    assert_eq!(error.kind, ErrorKind::DataLoss);
    assert!(error.message.contains("Ok(())"), "nobody could let it go on: {error}");
}
