//! Backbones brought in, loaded, unloaded and deleted over real gRPC while the daemon serves.

mod common;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::daemon::{Daemon, photograph, reference};
use graftd::base::name::Name;
use graftd::client::messages::{
    BackboneManifest, BackboneState, Embedding, ExplainOptions, ExplainRequest, NewSample,
    PredictRequest, Preprocessing, TensorNames, UploadBackboneRequest,
    backbone_service_client::BackboneServiceClient, new_sample, upload_backbone_request::Part,
};
use graftd::client::{Client, ClientError, ErrorKind, Picture};
use graftd::engine::{EngineError, HeadHandle, HeadSource, LiveHead};
use graftd::graph::{Network, Options, Source};
use graftd::rpc::ServerOptions;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

async fn predict(client: &Client, backbone: &str) -> Result<String, ClientError> {
    let request =
        PredictRequest { backbone: backbone.into(), ..Picture::from_bytes(photograph()).into() };
    Ok(client.predict(request).await?.backbone)
}

fn manifest(id: &str) -> BackboneManifest {
    let preprocessing = Preprocessing { scale: 1.0 / 255.0, ..Preprocessing::default() };
    BackboneManifest {
        id: id.into(),
        preprocessing: Some(preprocessing),
        labels: ["ant", "bee", "cat", "dog"].map(String::from).to_vec(),
        ..BackboneManifest::default()
    }
}

async fn upload(
    client: &Client,
    manifest: BackboneManifest,
    file: &str,
) -> Result<(), ClientError> {
    let file = reference(&format!("tiny/{file}"));
    client.upload_backbone(manifest, &file, Box::new(|_| {})).await.map(|_| ())
}

#[tokio::test]
async fn a_backbone_on_the_device_is_loaded_unloaded_and_deleted() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    daemon.put_on_device("extra");
    let listed = client.list_backbones().await.unwrap();
    let extra = listed.iter().find(|found| found.id == "extra").unwrap();
    assert_eq!((extra.state(), extra.name.as_str()), (BackboneState::Unloaded, "A tiny network"));
    assert_eq!(predict(&client, "extra").await.unwrap_err().kind, ErrorKind::NotFound);

    let loaded = client.load_backbone("extra").await.unwrap().unwrap();
    assert_eq!((loaded.state(), loaded.class_count), (BackboneState::Loaded, 4));
    assert_eq!(predict(&client, "extra").await.unwrap(), "extra");

    let unloaded = client.unload_backbone("extra").await.unwrap().unwrap();
    assert_eq!(unloaded.state(), BackboneState::Unloaded);
    assert_eq!(predict(&client, "extra").await.unwrap_err().kind, ErrorKind::Unavailable);

    client.delete_backbone("extra").await.unwrap();
    assert_eq!(client.load_backbone("extra").await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(client.list_backbones().await.unwrap().len(), 3);
    for id in ["", "../x", "a\0b", "A"] {
        assert_eq!(client.delete_backbone(id).await.unwrap_err().field, "backbone", "{id:?}");
    }
}

#[tokio::test]
async fn an_uploaded_backbone_is_tried_kept_and_answers() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    upload(&client, manifest("mine"), "logits.onnx").await.unwrap();
    assert_eq!(predict(&client, "mine").await.unwrap(), "mine");
    let found = client.get_backbone("mine").await.unwrap();
    assert_eq!(found.labels, ["ant", "bee", "cat", "dog"]);
    assert!(found.layers.iter().any(|layer| layer.explainable && layer.name == "relu2"));

    let again = upload(&client, manifest("mine"), "logits.onnx").await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::AlreadyExists, "{again}");
    let wrong = BackboneManifest { sha256: "0".repeat(64), ..manifest("other") };
    let wrong = upload(&client, wrong, "logits.onnx").await.unwrap_err();
    assert_eq!((wrong.kind, wrong.field.as_str()), (ErrorKind::InvalidArgument, "manifest.sha256"));
    let junk = upload(&client, manifest("junk"), "expected.json").await.unwrap_err();
    assert_eq!(junk.kind, ErrorKind::InvalidArgument, "{junk}");
    let size = reference("tiny/logits.onnx").metadata().unwrap().len();
    for announced in [size - 1, size + 1] {
        let lying = BackboneManifest { size_bytes: announced, ..manifest("lying") };
        let refused = upload(&client, lying, "logits.onnx").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument);
        assert_eq!(refused.field, "manifest.size_bytes", "{refused}");
    }
    let huge = BackboneManifest { size_bytes: u64::MAX, ..manifest("huge") };
    let huge = upload(&client, huge, "logits.onnx").await.unwrap_err();
    assert_eq!(huge.field, "manifest.size_bytes");
    assert_eq!(client.list_backbones().await.unwrap().len(), 4, "what was refused left nothing");
}

#[tokio::test]
async fn an_upload_with_an_unknown_operator_is_unimplemented_and_names_operator_and_node() {
    let Some(assets) = common::assets() else { return };
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let file = assets.join("models/mobilenet-v2-int8.onnx");
    let uploaded = client.upload_backbone(manifest("int8"), &file, Box::new(|_| {})).await;
    let error = uploaded.map(|_| ()).unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::Unimplemented, "OPERATOR"));
    let message = error.message;
    assert!(message.contains("operator com.microsoft.QLinear"), "{message}");
    assert!(message.contains("node \""), "{message}");
    assert_eq!(client.list_backbones().await.unwrap().len(), 3, "what was refused left nothing");
}

#[tokio::test]
async fn an_upload_that_breaks_the_order_or_off_leaves_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut service = BackboneServiceClient::new(daemon.channel().await);
    let message = |part| UploadBackboneRequest { part: Some(part) };
    let chunk = || message(Part::Chunk(vec![1, 2, 3].into()));
    for messages in [
        vec![],
        vec![chunk()],
        vec![message(Part::Manifest(manifest("a"))), message(Part::Manifest(manifest("a")))],
        vec![message(Part::Manifest(manifest("a"))), UploadBackboneRequest { part: None }],
    ] {
        let status = service.upload_backbone(tokio_stream::iter(messages)).await.unwrap_err();
        assert_eq!(status.code() as i32, 3, "{status}");
    }
    let model = std::fs::read(reference("tiny/logits.onnx")).unwrap();
    let whole = message(Part::Chunk(model.into()));
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(message(Part::Manifest(manifest("cut")))).await.unwrap();
    sender.send(whole).await.unwrap();
    let items = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut cut = BackboneServiceClient::new(daemon.channel().await);
    let call = tokio::spawn(async move { cut.upload_backbone(items).await });
    while sender.capacity() < sender.max_capacity() {
        tokio::task::yield_now().await;
    }
    call.abort();
    let _ = call.await;
    let listed = client.list_backbones().await.unwrap();
    assert!(listed.iter().all(|found| found.id != "cut"), "a cut stream installs nothing");
}

/// An upload whose manifest has been sent; what it answers comes once it has ended.
struct Upload {
    pieces: mpsc::Sender<UploadBackboneRequest>,
    answer: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Upload {
    async fn begin(daemon: &Daemon, id: &str) -> Self {
        let (pieces, receiver) = mpsc::channel(4);
        let part = Some(Part::Manifest(manifest(id)));
        pieces.send(UploadBackboneRequest { part }).await.unwrap();
        let mut service = BackboneServiceClient::new(daemon.channel().await);
        let call = async move { service.upload_backbone(ReceiverStream::new(receiver)).await };
        Self { pieces, answer: tokio::spawn(async { call.await.map(|_| ()) }) }
    }
}

/// Folders of uploads that are under way.
fn incoming(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.state.join("backbones")).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("/.incoming-")).collect()
}

async fn until(reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.expect("it comes to that");
}

#[tokio::test]
async fn a_third_upload_at_a_time_is_told_to_come_back_and_others_are_served_meanwhile() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let first = Upload::begin(&daemon, "first").await;
    let _second = Upload::begin(&daemon, "second").await;
    until(|| incoming(&daemon).len() == 2).await;
    let refused = upload(&client, manifest("third"), "logits.onnx").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
    assert!(refused.retry_after.is_some());
    assert_eq!(predict(&client, "").await.unwrap(), "logits");

    drop(first.pieces);
    assert!(first.answer.await.unwrap().is_err(), "no bytes are no network");
    upload(&client, manifest("third"), "logits.onnx").await.unwrap();
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_ended_and_leaves_nothing() {
    let upload_timeout = Duration::from_millis(50);
    let options = ServerOptions { upload_timeout, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let silent = Upload::begin(&daemon, "silent").await;
    let status = silent.answer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("50ms"), "{status}");
    until(|| incoming(&daemon).is_empty()).await;
}

#[tokio::test]
async fn a_network_that_computes_no_numbers_is_refused_and_one_that_does_so_later_answers_an_error()
{
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let file = reference("awkward/not-a-number.onnx");
    let refused = client.upload_backbone(manifest("nan"), &file, Box::new(|_| {})).await;
    let refused = refused.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidArgument);
    assert!(refused.message.contains("NaN"), "{refused}");

    daemon.serve_too("nan", Network::load(Source::File(file), &Options::default()).unwrap());
    let error = predict(&client, "nan").await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::FailedPrecondition, "NOT_FINITE"));
    assert_eq!(predict(&client, "").await.unwrap(), "logits");
}

#[tokio::test]
async fn a_model_that_was_changed_on_the_device_is_not_even_read() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    daemon.put_on_device("extra");
    let model = daemon.state.join("backbones/extra/model.onnx");
    graftd::base::atomic::write(&model, b"no network at all").unwrap();
    let error = client.load_backbone("extra").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DataLoss);
    assert!(error.message.contains("SHA-256"), "{error}");
}

#[tokio::test]
async fn a_preprocessing_that_makes_no_sense_is_refused_before_the_file_is_taken() {
    let daemon = Daemon::start().await;
    let preprocessing = Preprocessing { scale: -1.0, ..Preprocessing::default() };
    let wrong = BackboneManifest { preprocessing: Some(preprocessing), ..manifest("wrong") };
    let (pieces, receiver) = mpsc::channel(4);
    let part = Some(Part::Manifest(wrong));
    pieces.send(UploadBackboneRequest { part }).await.unwrap();
    let mut service = BackboneServiceClient::new(daemon.channel().await);
    // The stream stays open: the answer does not wait for its end.
    let refused = service.upload_backbone(ReceiverStream::new(receiver)).await.unwrap_err();
    let error = ClientError::from(refused);
    assert_eq!(error.field, "manifest.preprocessing.scale", "{error}");
    drop(pieces);
}

/// Three callers ask the backbone `steady` without a pause until `change` has ended; all are answered.
async fn steady_answers_during(client: &Client, change: Pin<Box<impl Future<Output = ()>>>) {
    let changing = AtomicBool::new(true);
    let ask = || async {
        let mut answered = 0;
        while changing.load(Ordering::Relaxed) {
            assert_eq!(predict(client, "steady").await.unwrap(), "steady");
            answered += 1;
        }
        answered
    };
    let change = async {
        change.await;
        changing.store(false, Ordering::Relaxed);
    };
    let (one, other, third, ()) = tokio::join!(ask(), ask(), ask(), change);
    assert!(one > 0 && other > 0 && third > 0);
}

#[tokio::test]
async fn a_backbone_is_replaced_under_running_requests_and_none_fails() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    upload(&client, manifest("steady"), "logits.onnx").await.unwrap();
    let before = client.get_backbone("steady").await.unwrap().backbone.unwrap();
    let change = Box::pin(async {
        for file in ["softmax.onnx", "logits.onnx", "softmax.onnx"] {
            let new = BackboneManifest { replace: true, ..manifest("steady") };
            upload(&client, new, file).await.unwrap();
        }
    });
    steady_answers_during(&client, change).await;

    let after = client.get_backbone("steady").await.unwrap();
    let named = |after: &graftd::client::messages::GetBackboneResponse| {
        after.backbone.as_ref().map(|found| found.sha256.clone()).unwrap()
    };
    assert_ne!(named(&after), before.sha256);
    assert!(after.layers.iter().any(|layer| layer.explainable), "its file is found in its place");
    // What is refused costs nothing.
    for (new, file) in [
        (BackboneManifest { replace: true, ..manifest("steady") }, "expected.json"),
        (
            BackboneManifest { replace: true, labels: vec!["one".into()], ..manifest("steady") },
            "logits.onnx",
        ),
        (manifest("steady"), "logits.onnx"),
    ] {
        upload(&client, new, file).await.unwrap_err();
        assert_eq!(named(&client.get_backbone("steady").await.unwrap()), named(&after));
        assert_eq!(predict(&client, "steady").await.unwrap(), "steady");
    }
    client.load_backbone("steady").await.unwrap();
    assert!(incoming(&daemon).is_empty());
}

#[tokio::test]
async fn a_backbone_with_heads_is_replaced_only_by_one_that_makes_the_same_embeddings() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    upload(&client, manifest("taught"), "logits.onnx").await.unwrap();
    let publish = |snapshot: &mut graftd::engine::Snapshot| {
        let versions = graftd::engine::HeadVersions {
            versions: [(1, HeadHandle::on_device("taught".parse().unwrap(), Arc::new(NoHeads)))]
                .into(),
            active: Some(1),
        };
        snapshot.heads.insert("pupil".parse().unwrap(), versions);
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(publish).unwrap();
    let replace = || BackboneManifest { replace: true, ..manifest("taught") };
    let digest = async || client.get_backbone("taught").await.unwrap().backbone.unwrap().sha256;
    let before = digest().await;
    let scale = Preprocessing { scale: 1.0, ..Preprocessing::default() };
    let tensors = TensorNames { embedding: "relu1".into(), ..TensorNames::default() };
    for (new, file) in [
        (replace(), "softmax.onnx"),
        (BackboneManifest { preprocessing: Some(scale), ..replace() }, "logits.onnx"),
        (BackboneManifest { tensors: Some(tensors), ..replace() }, "logits.onnx"),
    ] {
        let refused = upload(&client, new, file).await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.reason.as_str()),
            (ErrorKind::FailedPrecondition, "IN_USE")
        );
        assert!(refused.message.contains("pupil"), "{refused}");
        assert_eq!(digest().await, before);
    }
    let waists = TensorNames { waists: vec!["relu1".into()], ..TensorNames::default() };
    let same = BackboneManifest { name: "Better named".into(), tensors: Some(waists), ..replace() };
    upload(&client, same, "logits.onnx").await.unwrap();
    let found = client.get_backbone("taught").await.unwrap();
    assert_eq!(found.backbone.unwrap().name, "Better named");
    let waists = found.layers.iter().filter(|layer| layer.waist).map(|layer| layer.name.as_str());
    assert_eq!(waists.collect::<Vec<_>>(), ["relu1"]);
}

/// In place of the heads on a device.
#[derive(Debug)]
struct NoHeads;

impl HeadSource for NoHeads {
    fn fetch(&self, name: &Name, _: u32) -> Result<Arc<LiveHead>, EngineError> {
        Err(EngineError::HeadFile { head: name.to_string(), reason: "none is here".into() })
    }

    fn forget(&self, _: &Name) {}
}

#[tokio::test]
async fn the_built_in_backbone_is_loaded_when_asked_for_where_it_is_not() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let forget = |snapshot: &mut graftd::engine::Snapshot| {
        snapshot.unloaded.insert("builtin".parse().unwrap());
        snapshot.default = Some("typo".into());
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(forget).unwrap();
    let listed = client.list_backbones().await.unwrap();
    let built_in = listed.iter().find(|found| found.id == "builtin").unwrap();
    assert_eq!((built_in.state(), built_in.built_in), (BackboneState::Unloaded, true));
    let loaded = client.load_backbone("builtin").await.unwrap().unwrap();
    assert_eq!((loaded.state(), loaded.built_in), (BackboneState::Loaded, true));

    let error = client.get_backbone("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("backbones.default"), "{error}");
}

#[tokio::test]
async fn a_backbone_is_looked_through_once_however_often_it_is_described() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    daemon.put_on_device("extra");
    client.load_backbone("extra").await.unwrap();
    let described = client.get_backbone("extra").await.unwrap();
    assert!(described.layers.iter().any(|layer| layer.explainable));
    // Whoever looks again finds no network, for it is written over in its place.
    let model = daemon.state.join("backbones/extra/model.onnx");
    #[allow(clippy::disallowed_methods)] // not atomic is what is wanted
    std::fs::write(&model, b"no network at all").unwrap();
    let asking = (0..24).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get_backbone("extra").await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().unwrap(), described);
    }
}

#[tokio::test]
async fn loading_anew_and_unloading_fail_no_request_that_runs() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    daemon.put_on_device("steady");
    daemon.put_on_device("coming-and-going");
    client.load_backbone("steady").await.unwrap();
    let change = Box::pin(async {
        for _ in 0..10 {
            client.load_backbone("steady").await.unwrap();
            client.load_backbone("coming-and-going").await.unwrap();
            client.unload_backbone("coming-and-going").await.unwrap();
        }
    });
    steady_answers_during(&client, change).await;

    client.load_backbone("coming-and-going").await.unwrap();
    let occupied = [daemon.occupy().await, daemon.occupy().await];
    let waiting = predict(&client, "coming-and-going");
    let unload = async {
        daemon.queued(1).await;
        client.unload_backbone("coming-and-going").await.unwrap();
        drop(occupied);
    };
    let (answered, ()) = tokio::join!(waiting, unload);
    assert_eq!(answered.unwrap(), "coming-and-going", "taken before it was unloaded");
}

/// An explanation reads the network's file for itself, when its turn comes.
#[tokio::test]
async fn an_explanation_that_waits_ends_on_the_network_that_it_began_with() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    // Layers of their own, so that nothing has been prepared.
    for (id, layer) in [("replaced", "conv1"), ("deleted", "relu1")] {
        upload(&client, manifest(id), "logits.onnx").await.unwrap();
        let options = ExplainOptions { layers: vec![layer.into()], ..ExplainOptions::default() };
        let explain = ExplainRequest {
            backbone: id.into(),
            options: Some(options),
            ..Picture::from_bytes(photograph()).into()
        };
        let occupied = [daemon.occupy().await, daemon.occupy().await];
        let waiting = client.explain(explain);
        let change = async {
            daemon.queued(1).await;
            if id == "deleted" {
                client.delete_backbone(id).await.unwrap();
            } else {
                let new = BackboneManifest { replace: true, ..manifest(id) };
                upload(&client, new, "softmax.onnx").await.unwrap();
            }
            drop(occupied);
        };
        let (explained, ()) = tokio::join!(waiting, change);
        let explanation = explained.unwrap().explanation.unwrap();
        assert_eq!(explanation.layers, [layer], "{id}");
        assert!(explanation.raw.iter().any(|&value| value != 0.0), "{id}");
    }
}

#[tokio::test]
async fn a_backbone_is_deleted_with_the_embeddings_that_it_made_where_that_is_asked_for() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    // A preprocessing of its own makes embeddings of its own.
    let preprocessing = Preprocessing { scale: 1.0 / 128.0, ..Preprocessing::default() };
    for id in ["other", "twin"] {
        let preprocessing = Some(preprocessing.clone());
        let manifest = BackboneManifest { preprocessing, ..manifest(id) };
        upload(&client, manifest, "logits.onnx").await.unwrap();
    }
    client.unload_backbone("twin").await.unwrap();
    let width = daemon.engine.snapshot().backbones["other"].network.embedding().width;
    let picture = PredictRequest::from(Picture::from_bytes(photograph())).image.unwrap();
    let embedding = Embedding { backbone: "other".into(), values: vec![0.5; width] };
    for (id, content) in [
        ("picture", new_sample::Content::Image(picture)),
        ("embedding", new_sample::Content::Embedding(embedding)),
    ] {
        let sample = NewSample {
            dataset: "parts".into(),
            id: id.into(),
            content: Some(content),
            ..NewSample::default()
        };
        client.add_sample(sample).await.unwrap();
    }
    let before = client.list_datasets().await.unwrap().remove(0);
    // Of one that is not loaded nobody knows which embeddings are its own.
    client.unload_backbone("other").await.unwrap();
    let refused = client.delete_backbone_with_embeddings("other").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
    client.load_backbone("other").await.unwrap();
    client.delete_backbone_with_embeddings("other").await.unwrap();
    let shared = client.list_datasets().await.unwrap().remove(0);
    assert_eq!(shared, before, "the same network under another id makes the same, loaded or not");
    client.load_backbone("twin").await.unwrap();
    client.delete_backbone_with_embeddings("twin").await.unwrap();
    let after = client.list_datasets().await.unwrap().remove(0);
    assert_eq!((before.sample_count, after.sample_count), (2, 1), "nothing else was of it");
    let gone = 2 * 2 * width as u64 + "embedding".len() as u64;
    assert_eq!(before.stored_bytes - after.stored_bytes, gone);
}
