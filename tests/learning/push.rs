//! `graftctl samples push`: a folder of classes over a real connection, which may break.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use graftd::client::ErrorKind;

use crate::colours::{COLOURS, class_folder, predict, push, sample};
use crate::common::daemon::Daemon;

async fn push_folder(address: &str, folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftctl"));
    command.args(["samples", "push", "--dataset", "colours", "--target", address]).arg(folder);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Hands connections on to `daemon`, each for so many bytes of answers; then it breaks off in both
/// directions. Returns where it listens and counts the connections.
async fn breaking(daemon: &str, bytes: u64) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (daemon, connections) = (daemon.to_owned(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let server = TcpStream::connect(&daemon).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                let mut answers = from_server.take(bytes);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = tokio::io::copy(&mut answers, &mut to_client) => {}
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_push_over_a_connection_that_breaks_again_and_again_stores_everything_once() {
    let daemon = Daemon::start_roomy().await;
    let folder = class_folder(40);
    // Enough for some ten acknowledgements.
    let (address, connections) = breaking(&daemon.address, 1_000).await;
    let pushed = push_folder(&address, folder.path()).await;
    assert!(pushed.status.success(), "{}", text(&pushed));
    assert!(text(&pushed).contains("120 samples are in colours"), "{}", text(&pushed));
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections > 3, "{connections} connections: it never broke");
    let client = daemon.client().await;
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 120);
    // Again, straight to the daemon: nothing is stored twice.
    let again = push_folder(&daemon.address, folder.path()).await;
    assert!(text(&again).contains("120 of them were before; 0 refused"), "{}", text(&again));
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 120);
}

#[tokio::test]
async fn a_file_that_is_no_picture_is_named_and_the_others_are_pushed() {
    let daemon = Daemon::start_roomy().await;
    let folder = class_folder(2);
    std::fs::write(folder.path().join("red/broken.png"), b"no picture").unwrap();
    let pushed = push_folder(&daemon.address, folder.path()).await;
    assert_eq!(pushed.status.code(), Some(1), "{}", text(&pushed));
    let said = text(&pushed);
    assert!(said.contains("broken.png") && said.contains("6 samples are in colours"), "{said}");
    assert!(said.contains("1 refused"), "{said}");
    let empty = tempfile::tempdir().unwrap();
    let said = text(&push_folder(&daemon.address, empty.path()).await);
    assert!(said.contains("FOLDER/CLASS/PICTURE.jpg"), "{said}");
}

#[tokio::test]
async fn files_of_one_name_in_two_folders_of_a_class_are_two_samples_and_hidden_ones_none() {
    let daemon = Daemon::start_roomy().await;
    let folder = tempfile::tempdir().unwrap();
    for (number, file) in
        (0..).zip(["red/a/1.png", "red/b/1.png", ".cache/1.png", "red/.thumbnails/1.png"])
    {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, crate::colours::picture([220, 30, 30], number)).unwrap();
    }
    let pushed = push_folder(&daemon.address, folder.path()).await;
    assert!(text(&pushed).contains("2 samples are in colours"), "{}", text(&pushed));
    let client = daemon.client().await;
    for id in ["red/a/1.png", "red/b/1.png"] {
        let request = graftd::client::messages::GetSampleRequest {
            dataset: "colours".into(),
            id: id.into(),
            ..Default::default()
        };
        let found = client.get_sample(request).await.unwrap().sample.unwrap();
        assert_eq!(found.labels, ["red"]);
    }
}

#[tokio::test]
async fn many_pushes_fill_no_queue_of_predictions_and_wait_behind_them() {
    let daemon = Daemon::start().await; // one worker, room for two
    let client = daemon.client().await;
    let busy = daemon.occupy().await;
    let streams = (0..6_u32).map(|stream| {
        let client = client.clone();
        let samples = (0..20).map(move |n| sample("red", COLOURS[0].1, 100 * stream + n));
        tokio::spawn(async move { push(&client, samples.collect()).await })
    });
    let streams: Vec<_> = streams.collect();
    // As many as may: of the other 118 none reaches the queue.
    daemon.queued(2).await;
    let predictions = (0..2).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { predict(&client, "", COLOURS[1].1, n).await })
    });
    let predictions: Vec<_> = predictions.collect();
    daemon.queued(4).await;
    assert!(client.list_datasets().await.unwrap().is_empty(), "none is stored yet");
    drop(busy);
    for prediction in predictions {
        prediction.await.unwrap();
    }
    // While they stream, none of the predictions finds its queue full.
    for number in 0..40 {
        predict(&client, "", COLOURS[2].1, number).await;
    }
    for stream in streams {
        assert_eq!(stream.await.unwrap(), (20, vec![]));
    }
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 120);
}

#[tokio::test]
async fn single_samples_beyond_the_queue_are_refused_and_a_stream_waits() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let busy = daemon.occupy().await;
    let calls = (0..5_u32).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.add_sample(sample("red", COLOURS[0].1, number)).await })
    });
    let mut calls: Vec<_> = calls.collect();
    // Two wait for the worker, two for one of their places.
    let refused = async {
        loop {
            if let Some(ended) = calls.iter().position(tokio::task::JoinHandle::is_finished) {
                return calls.remove(ended).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let error = refused.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResourceExhausted, "{error}");
    assert!(error.retry_after.is_some(), "{error}");
    drop(busy);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
