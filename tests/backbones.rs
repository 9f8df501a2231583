//! Backbones brought in, loaded, unloaded and deleted over real gRPC while the daemon serves.

mod common;

use common::daemon::{Daemon, photograph, reference};
use graftd::client::messages::{
    BackboneManifest, BackboneState, PredictRequest, Preprocessing, UploadBackboneRequest,
    backbone_service_client::BackboneServiceClient, upload_backbone_request::Part,
};
use graftd::client::{Client, ClientError, ErrorKind, Picture};

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
