//! Backbones change while others are uploaded, tried or stuck: who waits holds nobody up, and what is
//! refused leaves nothing.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use common::daemon::{Daemon, reference};
use graftd::client::messages::{
    BackboneManifest, DeleteBackboneRequest, ListBackbonesRequest, Preprocessing, TensorNames,
    UploadBackboneRequest, backbone_service_client::BackboneServiceClient,
    upload_backbone_request::Part,
};
use graftd::client::{Client, ClientError, ErrorKind};
use graftd::engine::PoolOptions;
use graftd::rpc::ServerOptions;
use graftd::store::Store;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

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

/// A program that says that it has begun, then tries networks as graftd does once it is let.
#[allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
fn held_back(folder: &Path) -> std::path::PathBuf {
    let (path, shown) = (folder.join("held-back"), folder.display());
    let graftd = env!("CARGO_BIN_EXE_graftd");
    let script = format!(
        "#!/bin/sh\n: > '{shown}/begun'\nwhile [ ! -e '{shown}/go' ]; do /bin/sleep 0.02; done\n\
         exec '{graftd}' \"$@\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
async fn while_a_network_is_tried_others_are_changed_and_of_two_with_one_id_one_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (store, program) = (Store::open(state.path()).unwrap(), held_back(folder.path()));
    let pool = PoolOptions { workers: 1, queue: 2 };
    let daemon = Daemon::start_trying_with(program, store, pool, ServerOptions::default()).await;
    let client = daemon.client().await;
    daemon.put_on_device("extra");
    let uploads = ["mine", "mine"].map(|id| {
        let client = client.clone();
        tokio::spawn(async move { upload(&client, manifest(id)).await })
    });
    let begun = folder.path().join("begun");
    daemon.until(|_| begun.exists()).await;
    let others = async {
        client.load_backbone("extra").await.unwrap();
        client.unload_backbone("extra").await.unwrap();
        client.delete_backbone("extra").await.unwrap();
    };
    tokio::time::timeout(SOON, others).await.expect("a trial holds nobody up");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let mut kept = 0;
    for upload in uploads {
        match upload.await.unwrap() {
            Ok(()) => kept += 1,
            Err(refused) => assert_eq!(refused.kind, ErrorKind::AlreadyExists, "{refused}"),
        }
    }
    assert_eq!(kept, 1);
}

#[tokio::test]
async fn who_waits_for_its_turn_holds_no_thread_and_does_nothing_after_its_deadline() {
    /// More than tokio has threads that may block.
    const WAITING: usize = 600;
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    daemon.put_on_device("first");
    daemon.put_on_device("extra");
    // The registry is held, so that the first change cannot be published.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (hold, held) = tokio::sync::oneshot::channel();
    let engine = std::sync::Arc::clone(&daemon.engine);
    let holder = std::thread::spawn(move || {
        let stuck = |_: &mut graftd::engine::Snapshot| {
            hold.send(()).unwrap();
            let _ = released.recv();
            Ok::<_, std::convert::Infallible>(())
        };
        engine.registry().update(stuck).unwrap();
    });
    held.await.unwrap();
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.load_backbone("first").await }
    });
    let enabled = daemon.state.join("backbones/first/backbone.toml");
    let begun = || std::fs::read_to_string(&enabled).unwrap().contains("enabled = true");
    daemon.until(|_| begun()).await;

    let channels = [daemon.channel().await, daemon.channel().await, daemon.channel().await];
    let waiting = (0..WAITING).map(|number| {
        let mut service = BackboneServiceClient::new(channels[number % 3].clone());
        let backbone = "extra".into();
        let mut request =
            Request::new(DeleteBackboneRequest { backbone, delete_embeddings: false });
        request.set_timeout(Duration::from_secs(1));
        tokio::spawn(async move { service.delete_backbone(request).await.map(|_| ()) })
    });
    for call in waiting.collect::<Vec<_>>() {
        let error = ClientError::from(call.await.unwrap().unwrap_err());
        assert_eq!(error.kind, ErrorKind::DeadlineExceeded, "{error}");
    }
    for channel in channels {
        let mut service = BackboneServiceClient::new(channel);
        let listing = service.list_backbones(ListBackbonesRequest {});
        tokio::time::timeout(SOON, listing).await.expect("a thread is free").unwrap();
    }
    drop(release);
    holder.join().unwrap();
    first.await.unwrap().unwrap();
    client.load_backbone("extra").await.unwrap();
    client.unload_backbone("extra").await.unwrap();
    assert!(ids(&client).await.contains(&"extra".to_owned()), "nobody waits for the deletion");
}
