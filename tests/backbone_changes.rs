//! Backbones change while others are uploaded, tried or stuck: who waits holds nobody up, and what is
//! refused leaves nothing.

mod common;

use std::time::Duration;

use common::daemon::Daemon;
use graftd::client::messages::{
    BackboneManifest, Preprocessing, UploadBackboneRequest,
    backbone_service_client::BackboneServiceClient, upload_backbone_request::Part,
};
use graftd::client::{ClientError, ErrorKind};
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
