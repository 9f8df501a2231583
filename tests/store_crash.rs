//! kill -9 in the middle of streams. A child process stores samples and tells each receipt; it is
//! killed at a random moment; then everything that it told must be there, once and whole.
//!
//! The same over the wire, against the daemon: a client streams, the daemon is killed.
//!
//! Ten rounds by default; `GRAFTD_KILL_ROUNDS=1000 cargo test --test store_crash` is the long run.

#![cfg(feature = "daemon")]

#[path = "common/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use graftd::base::digest::Digest;
use graftd::base::name::Name;
use graftd::client::{Client, Picture, messages};
use graftd::store::{
    DatasetSettings, Filter, INLINE_LIMIT, NewEmbedding, NewSample, Outcome, Store,
};
use graftd::vision;

/// The folder that the child is to write to: set, this process is the child.
const FOLDER: &str = "GRAFTD_CRASH_FOLDER";
/// The number of the first sample that it is to store.
const FIRST: &str = "GRAFTD_CRASH_FIRST";
/// Rounds in one folder, after which a fresh one keeps the checks quick.
const ROUNDS_A_FOLDER: u64 = 50;

fn dataset() -> Name {
    "parts".parse().unwrap()
}

/// A sample whose every byte follows from its number. One in eight is large enough for a file.
fn sample(number: u64) -> NewSample {
    let length = if number % 8 == 7 { INLINE_LIMIT + 1 + number as usize % 1000 } else { 500 };
    let image = (0..length as u64).map(|i| (i.wrapping_mul(31) ^ number.wrapping_mul(17)) as u8);
    NewSample {
        id: format!("sample-{number}"),
        labels: vec![format!("class-{}", number % 5)],
        image: Some(image.collect()),
        embeddings: vec![NewEmbedding {
            backbone: Digest::of(b"backbone"),
            values: (0..1280_u64).map(|i| ((i + number) % 97) as f32 / 16.0).collect(),
        }],
        ..NewSample::default()
    }
}

/// The child's part: stores without end, and tells each receipt in a line.
#[test]
fn a_child_stores_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Store::open(Path::new(&folder)).unwrap();
    let (sender, receipts) = mpsc::channel();
    std::thread::spawn(move || {
        for number in first.. {
            let sender = sender.clone();
            store.add_sample(&dataset(), sample(number), move |receipt| {
                receipt.unwrap();
                let _ = sender.send(number);
            });
        }
    });
    let mut told = std::io::stdout();
    for number in receipts {
        // One write a line: a line that arrives was written before the kill.
        told.write_all(format!("stored {number}\n").as_bytes()).unwrap();
    }
}

/// Runs the child from sample `first` on, kills it after some receipts, and returns those.
fn run_and_kill(folder: &Path, first: u64, receipts: usize, patience: Duration) -> BTreeSet<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_stores_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, news) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut stored = BTreeSet::new();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.rsplit("stored ").next().and_then(|n| n.parse().ok()) {
                stored.insert(number);
                let _ = sender.send(());
            }
        }
        stored
    });
    for _ in 0..receipts {
        if news.recv_timeout(Duration::from_mins(1)).is_err() {
            break;
        }
    }
    // Not at a receipt but a little after one: into the next group.
    std::thread::sleep(patience);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn no_acknowledged_sample_is_lost_or_doubled_by_kill_9() {
    if std::env::var_os(FOLDER).is_some() {
        return;
    }
    let rounds: u64 =
        std::env::var("GRAFTD_KILL_ROUNDS").map_or(10, |rounds| rounds.parse().unwrap());
    let mut folder = tempfile::tempdir().unwrap();
    let mut stored = BTreeSet::new();
    let mut total = 0;
    for round in 0..rounds {
        if round % ROUNDS_A_FOLDER == 0 {
            total += stored.len();
            stored.clear();
            folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            store.create_dataset(&dataset(), DatasetSettings::default()).unwrap();
        }
        // Behind what was told last, so that some samples come a second time after the crash.
        let first = stored.last().map_or(0, |last: &u64| last.saturating_sub(3));
        let receipts = 1 + (rand::random::<u32>() % 120) as usize;
        let patience = Duration::from_micros(u64::from(rand::random::<u32>() % 20_000));
        let told = run_and_kill(folder.path(), first, receipts, patience);
        assert!(!told.is_empty(), "round {round}: the child stored nothing");
        stored.extend(told);
        check(folder.path(), &stored, round);
    }
    println!("{rounds} kills, {} acknowledged samples, none lost", total + stored.len());
}

fn check(folder: &Path, stored: &BTreeSet<u64>, round: u64) {
    let store = Store::open(folder).unwrap();
    let verification = store.verify().unwrap();
    assert!(verification.is_sound(), "round {round}: {verification:?}");
    let page = store.samples(&dataset(), &Filter::default(), None, usize::MAX >> 1).unwrap();
    let ids: BTreeSet<_> = page.samples.iter().map(|sample| sample.id.clone()).collect();
    assert_eq!(ids.len(), page.samples.len(), "round {round}: a sample is there twice");
    for number in stored {
        assert!(ids.contains(&sample(*number).id), "round {round}: sample {number} is lost");
    }
    // Some in full, and resending one that was told is harmless.
    for number in stored.iter().rev().take(5) {
        let sent = sample(*number);
        let image = store.image(&dataset(), &sent.id).unwrap().unwrap();
        assert_eq!(Some(&image.bytes), sent.image.as_ref(), "round {round}: sample {number}");
    }
    if let Some(last) = stored.last() {
        let receipt = store.add_sample_and_wait(&dataset(), sample(*last)).unwrap();
        assert_eq!(receipt.outcome, Outcome::Duplicate, "round {round}");
    }
    let named = std::fs::read_dir(folder.join("images")).unwrap().count() as u64;
    let large = page.samples.iter().filter(|s| s.bytes as usize > INLINE_LIMIT).count() as u64;
    assert_eq!(named, large, "round {round}: image files without a sample");
}

/// A sample as a client sends it: a small picture of its own.
fn sent(number: u64) -> messages::NewSample {
    let pixels =
        (0..8 * 8 * 3_u64).map(|i| ((i * 31) ^ (number * 17) ^ (number >> 8)) as u8).collect();
    let picture = vision::Picture::new(8, 8, pixels).unwrap();
    let encoded = vision::encode(&picture, vision::ImageFormat::Png).unwrap();
    let image = messages::PredictRequest::from(Picture::from_bytes(encoded)).image.unwrap();
    messages::NewSample {
        dataset: dataset().to_string(),
        id: format!("sample-{number}"),
        labels: vec![format!("class-{}", number % 5)],
        content: Some(messages::new_sample::Content::Image(image)),
        ..messages::NewSample::default()
    }
}

/// Streams samples from `first` on to a daemon that is killed after so many acknowledgements; returns
/// the numbers of all that were acknowledged.
async fn stream_and_kill(state: &Path, first: u64, acknowledgements: usize) -> BTreeSet<u64> {
    let daemon = program::Daemon::start_in(Command::new(program::GRAFTD), state);
    let client = Client::connect(&daemon.address).await.unwrap();
    let items = (first..).map(|number| messages::StreamSamplesRequest {
        correlation_id: number.to_string(),
        sample: Some(sent(number)),
    });
    let mut answers = client.stream_samples(tokio_stream::iter(items)).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut daemon = Some(daemon);
    while let Some(Ok((number, outcome))) = answers.next().await.transpose() {
        outcome.unwrap();
        acknowledged.insert(number.parse().unwrap());
        if acknowledged.len() == acknowledgements {
            // Kills it with SIGKILL; what it still sent arrives below.
            drop(daemon.take());
        }
    }
    assert!(daemon.is_none(), "the stream lives until the daemon is killed");
    acknowledged
}

#[tokio::test]
async fn what_a_daemon_acknowledged_over_the_wire_is_there_once_after_kill_9() {
    if std::env::var_os(FOLDER).is_some() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        // Behind what was told last, so that some samples come a second time after the crash.
        let first = acknowledged.last().map_or(0, |last: &u64| last.saturating_sub(3));
        let count = 5 + (rand::random::<u32>() % 60) as usize;
        acknowledged.extend(stream_and_kill(state.path(), first, count).await);

        let verify = ["store", "verify", "--state-dir"];
        let verified = Command::new(program::GRAFTD).args(verify).arg(state.path()).output();
        let verified = verified.unwrap();
        let said = String::from_utf8_lossy(&verified.stdout);
        assert!(verified.status.success(), "round {round}: {said}");
        let daemon = program::Daemon::start_in(Command::new(program::GRAFTD), state.path());
        let client = Client::connect(&daemon.address).await.unwrap();
        let mut ids = BTreeSet::new();
        let mut page_token = String::new();
        loop {
            let filter = messages::SampleFilter {
                dataset: dataset().to_string(),
                ..messages::SampleFilter::default()
            };
            let request = messages::ListSamplesRequest {
                filter: Some(filter),
                page_token,
                ..messages::ListSamplesRequest::default()
            };
            let page = client.list_samples(request).await.unwrap();
            for sample in page.samples {
                assert!(ids.insert(sample.id.clone()), "round {round}: {} twice", sample.id);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        for number in &acknowledged {
            assert!(ids.contains(&sent(*number).id), "round {round}: sample {number} is lost");
        }
        let last = *acknowledged.last().unwrap();
        let again = client.add_sample(sent(last)).await.unwrap();
        assert!(again.duplicate, "round {round}");
        drop(client);
        assert!(daemon.terminate().success());
    }
}
