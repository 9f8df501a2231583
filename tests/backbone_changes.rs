//! Backbones change while others are uploaded, tried or stuck: who waits holds nobody up, and what is
//! refused leaves nothing.

mod common;

use std::time::Duration;

use common::daemon::{Daemon, reference};
use graftd::client::messages::{
    BackboneManifest, Preprocessing, TensorNames, UploadBackboneRequest,
    backbone_service_client::BackboneServiceClient, upload_backbone_request::Part,
};
use graftd::client::{Client, ClientError, ErrorKind};
use graftd::rpc::ServerOptions;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Longer than anything here takes that nobody holds up.
const SOON: Duration = Duration::from_secs(20);

fn manifest(id: &str) -> BackboneManifest {
    let preprocessing = Preprocessing { scale: 1.0 / 255.0, ..Preprocessing::default() };
    BackboneManifest {
        id: id.into(),
        preprocessing: Some(preprocessing),
        ..BackboneManifest::default()
    }
}

async fn upload(client: &Client, manifest: BackboneManifest) -> Result<(), ClientError> {
    let file = reference("tiny/logits.onnx");
    client.upload_backbone(manifest, &file, Box::new(|_| {})).await.map(|_| ())
}

async fn ids(client: &Client) -> Vec<String> {
    client.list_backbones().await.unwrap().into_iter().map(|found| found.id).collect()
}

#[tokio::test]
async fn an_upload_that_trickles_is_ended() {
    let upload_timeout = Duration::from_millis(500);
    let options = ServerOptions { upload_timeout, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let (pieces, receiver) = mpsc::channel(1);
    let trickle = async move {
        let mut part = Part::Manifest(manifest("slow"));
        while pieces.send(UploadBackboneRequest { part: Some(part) }).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            part = Part::Chunk(vec![1].into());
        }
    };
    let mut service = BackboneServiceClient::new(daemon.channel().await);
    let call = service.upload_backbone(ReceiverStream::new(receiver));
    let (answer, ()) = tokio::join!(tokio::time::timeout(SOON, call), trickle);
    let error = ClientError::from(answer.expect("it does not go on for ever").unwrap_err());
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::DeadlineExceeded, "SLOW"));
}

#[tokio::test]
async fn what_could_not_be_read_again_is_refused_before_it_is_kept() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let waists = TensorNames { waists: vec!["relu1".into(); 2], ..TensorNames::default() };
    let many = TensorNames { waists: vec!["relu1".into(); 10_000], ..TensorNames::default() };
    let long = TensorNames { logits: "x".repeat(70_000), ..TensorNames::default() };
    for (tensors, said) in [(waists, "twice"), (many, "twice"), (long, "over the limit")] {
        let manifest = BackboneManifest { tensors: Some(tensors), ..manifest("long") };
        let refused = upload(&client, manifest).await.unwrap_err();
        let told = (refused.kind, refused.field.as_str());
        assert_eq!(told, (ErrorKind::InvalidArgument, "manifest"), "{refused}");
        assert!(refused.message.contains(said), "{refused}");
    }
    let labels = vec!["x".repeat(1_100_000); 4];
    let refused = upload(&client, BackboneManifest { labels, ..manifest("long") }).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.message.contains("labels"), "{refused}");
    assert!(!ids(&client).await.contains(&"long".to_owned()));
}
