//! What intake costs: printed, not judged. Run with
//! `cargo test --release --test store_performance -- --ignored --nocapture`.

#![cfg(feature = "daemon")]

#[path = "common/program.rs"]
mod program;

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use graftd::base::digest::Digest;
use graftd::base::name::Name;
use graftd::store::{DatasetSettings, Keep, NewEmbedding, NewSample, Store};

const WIDTH: usize = 1280;

fn sample(number: u32) -> NewSample {
    NewSample {
        id: format!("camera-1/{number:08}.jpg"),
        labels: vec![format!("class-{}", number % 6)],
        embeddings: vec![NewEmbedding {
            backbone: Digest::of(b"backbone"),
            values: (0..WIDTH as u32).map(|i| ((i * 7 + number) % 101) as f32 / 32.0).collect(),
        }],
        ..NewSample::default()
    }
}

/// Bytes that this process has handed to `write` so far.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.trim().parse().unwrap()
}

fn store() -> (tempfile::TempDir, Store, Name) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let name: Name = "parts".parse().unwrap();
    let settings = DatasetSettings { keep: Keep::Embeddings, ..DatasetSettings::default() };
    store.create_dataset(&name, settings).unwrap();
    (folder, store, name)
}

/// Sends samples, `a_group` at a time with a pause that lets the writer commit, and waits for all.
fn send(store: &Store, name: &Name, numbers: std::ops::Range<u32>, pace: Option<Duration>) {
    let (sender, receipts) = mpsc::channel();
    let count = numbers.len();
    for number in numbers {
        let sender = sender.clone();
        store.add_sample(name, sample(number), move |receipt| sender.send(receipt).unwrap());
        if let Some(pace) = pace {
            std::thread::sleep(pace);
        }
    }
    for _ in 0..count {
        receipts.recv().unwrap().unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn intake_at_full_speed_and_at_the_device_s_rate() {
    let payload = (WIDTH * 2) as f64;
    let (folder, store_, name) = store();
    let (before, commits, began) = (written(), store_.stats().unwrap().commits, Instant::now());
    const MANY: u32 = 100_000;
    send(&store_, &name, 0..MANY, None);
    let seconds = began.elapsed().as_secs_f64();
    let groups = store_.stats().unwrap().commits - commits;
    drop(store_);
    println!(
        "full speed: {:.0} samples/s, {:.1} a COMMIT, write amplification {:.2}",
        f64::from(MANY) / seconds,
        f64::from(MANY) / groups as f64,
        (written() - before) as f64 / (f64::from(MANY) * payload),
    );

    let began = Instant::now();
    let again = Store::open(folder.path()).unwrap();
    let opened = began.elapsed();
    let stored = again.dataset_stats(&name).unwrap().samples;
    println!("{stored} samples are open after {:.0} ms", opened.as_secs_f64() * 1e3);
    drop(again);

    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = Command::new(program::GRAFTD);
    command.env("NOTIFY_SOCKET", &path);
    let began = Instant::now();
    let daemon = program::Daemon::start_in(command, folder.path());
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    let ready = began.elapsed();
    assert!(message[..length].starts_with(b"READY=1"));
    println!("the daemon is READY after {:.0} ms", ready.as_secs_f64() * 1e3);
    assert!(daemon.terminate().success());
    let again = Store::open(folder.path()).unwrap();

    // On top of these, so that the index has its full size.
    let (before, commits) = (written(), again.stats().unwrap().commits);
    const FEW: u32 = 6_000;
    send(&again, &name, MANY..MANY + FEW, Some(Duration::from_millis(10)));
    let groups = again.stats().unwrap().commits - commits;
    drop(again);
    println!(
        "100 samples/s: {:.1} a COMMIT, write amplification {:.2}",
        f64::from(FEW) / groups as f64,
        (written() - before) as f64 / (f64::from(FEW) * payload),
    );
}
