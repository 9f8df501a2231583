//! Heads that are streamed in: few at a time, and none that holds its place without sending.

use std::time::Duration;

use graftd::client::messages::head_service_client::HeadServiceClient;
use graftd::client::messages::import_head_version_request::Part;
use graftd::client::messages::{ImportHeadVersionRequest, ImportedHead};
use graftd::client::{ClientError, ErrorKind};
use graftd::rpc::ServerOptions;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::daemon::Daemon;

type Pieces = mpsc::Sender<ImportHeadVersionRequest>;

/// Begins an import of `name` among `calls`; it goes on until what is returned is dropped.
async fn begin(
    daemon: &Daemon,
    name: &str,
    calls: &mut JoinSet<Result<(), ClientError>>,
) -> Pieces {
    let (pieces, receiver) = mpsc::channel(1);
    let head = ImportedHead { name: name.into(), ..ImportedHead::default() };
    let part = Some(Part::Head(head));
    pieces.send(ImportHeadVersionRequest { part }).await.unwrap();
    let mut service = HeadServiceClient::new(daemon.channel().await);
    calls.spawn(async move {
        let answer = service.import_head_version(ReceiverStream::new(receiver)).await;
        Ok(answer.map(|_| ())?)
    });
    pieces
}

async fn next(calls: &mut JoinSet<Result<(), ClientError>>) -> ClientError {
    let ended = tokio::time::timeout(Duration::from_secs(20), calls.join_next()).await;
    ended.expect("one ends").unwrap().unwrap().unwrap_err()
}

#[tokio::test]
async fn a_third_import_at_a_time_is_told_to_come_back() {
    let daemon = Daemon::start().await;
    let mut calls = JoinSet::new();
    let mut pieces = Vec::new();
    for name in ["one", "two", "three"] {
        pieces.push(begin(&daemon, name, &mut calls).await);
    }
    let refused = next(&mut calls).await;
    assert_eq!(refused.kind, ErrorKind::ResourceExhausted, "{refused}");
    assert!(refused.retry_after.is_some() && refused.message.contains("heads"), "{refused}");
    drop(pieces);
    for _ in 0..2 {
        assert_eq!(next(&mut calls).await.kind, ErrorKind::InvalidArgument, "nothing is no head");
    }
    pieces = vec![begin(&daemon, "four", &mut calls).await];
    drop(pieces);
    assert_eq!(next(&mut calls).await.kind, ErrorKind::InvalidArgument, "its place was free");
}

#[tokio::test]
async fn an_import_that_falls_silent_is_ended() {
    let upload_timeout = Duration::from_millis(50);
    let options = ServerOptions { upload_timeout, ..ServerOptions::default() };
    let daemon = Daemon::start_with(options).await;
    let mut calls = JoinSet::new();
    let _pieces = begin(&daemon, "silent", &mut calls).await;
    let ended = next(&mut calls).await;
    assert_eq!((ended.kind, ended.reason.as_str()), (ErrorKind::DeadlineExceeded, "SILENT"));
}

#[tokio::test]
async fn a_bad_name_is_refused_before_the_file_is_taken() {
    let daemon = Daemon::start().await;
    let mut calls = JoinSet::new();
    let _pieces = begin(&daemon, "../x", &mut calls).await;
    assert_eq!(next(&mut calls).await.field, "head.name");
}
