//! The disk is full, fails or turns read-only while samples stream in: what cannot be kept is refused
//! with what to do next, the stream goes on, and nothing that was acknowledged is lost.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use graftd::client::messages::{
    DeleteSamplesRequest, GetSampleRequest, JobState, NewSample, PredictRequest, PromotionPolicy,
    SampleFilter, StartTrainingRequest, StreamSamplesRequest, new_sample,
};
use graftd::client::{AcknowledgementStream, Client, ClientError, ErrorKind, Picture};
use graftd::engine::PoolOptions;
use graftd::rpc::ServerOptions;
use graftd::store::{INLINE_LIMIT, Options, Store};
use graftd::vision::{self, ImageFormat};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::colours::{COLOURS, image, predict, push_colours, sample, train, training};
use crate::common::daemon::Daemon;
use crate::medium::{self, Refusal};
use crate::program::{self, GRAFTD};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// A stream of samples that stays open.
struct Stream {
    samples: mpsc::Sender<StreamSamplesRequest>,
    answers: AcknowledgementStream,
}

impl Stream {
    async fn open(client: &Client) -> Self {
        let (samples, items) = mpsc::channel(1);
        let answers = client.stream_samples(ReceiverStream::new(items)).await.unwrap();
        Self { samples, answers }
    }

    /// Sends one sample and waits for its answer.
    async fn send(&mut self, sample: NewSample) -> Result<(), ClientError> {
        let item = StreamSamplesRequest { correlation_id: sample.id.clone(), sample: Some(sample) };
        self.samples.send(item).await.unwrap();
        self.answers.next().await.unwrap().expect("the stream lives").1.map(drop)
    }
}

fn red(number: u32) -> NewSample {
    sample("red", COLOURS[0].1, number)
}

/// A sample whose picture is large enough for a file of its own: noise does not shrink.
fn large(number: u32) -> NewSample {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    };
    let pixels = (0..256 * 256 * 3).map(|_| noise()).collect();
    let picture = vision::Picture::new(256, 256, pixels).unwrap();
    let encoded = vision::encode(&picture, ImageFormat::Png).unwrap();
    assert!(encoded.len() > INLINE_LIMIT);
    let content = Some(new_sample::Content::Image(image(encoded)));
    NewSample { id: format!("large/{number}"), content, ..red(number) }
}

/// A daemon in this process on a medium that can be told to refuse.
async fn start(state: &Path) -> Daemon {
    medium::install();
    let options = Options { vfs: Some(medium::NAME.to_owned()), ..Options::default() };
    let store = Store::open_with(state, options).unwrap();
    let pool = PoolOptions { workers: 2, queue: 64 };
    Daemon::start_on(store, pool, ServerOptions::default()).await
}

/// Asserts that all of these are stored as they were sent, and nothing is damaged.
fn all_there(state: &Path, acknowledged: &[NewSample]) {
    let store = Store::open(state).unwrap();
    let found = store.verify().unwrap();
    assert!(found.is_sound() && found.samples == acknowledged.len() as u64, "{found:?}");
    let colours = "colours".parse().unwrap();
    for sent in acknowledged {
        let stored = store.image(&colours, &sent.id).unwrap().unwrap();
        let Some(new_sample::Content::Image(sent)) = sent.content.clone() else { panic!() };
        assert_eq!(image(stored.bytes), sent);
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_commit_refuses_samples_and_the_same_stream_stores_them_later() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let mut stream = Stream::open(&client).await;
    stream.send(red(1)).await.unwrap();
    medium::refuse(state.path(), Refusal::Full);
    for refused in [red(2), large(3)] {
        let error = stream.send(refused).await.unwrap_err();
        assert_eq!(
            (error.kind, error.reason.as_str()),
            (ErrorKind::ResourceExhausted, "DISK_FULL")
        );
        assert!(error.message.contains("free space"), "{error}");
        assert!(error.retry_after.is_some());
    }
    // A single call is told the same, what is stored already is acknowledged, answers go on.
    let error = client.add_sample(red(2)).await.unwrap_err();
    assert_eq!(error.reason, "DISK_FULL", "{error}");
    let error = client.start_training(training(PromotionPolicy::Always)).await;
    assert_eq!(error.unwrap_err().reason, "DISK_FULL");
    predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 31);
    medium::accept(state.path());
    for sent in [red(2), large(3)] {
        stream.send(sent).await.unwrap();
    }
    drop((stream, client));
    daemon.end().await;
    let taught = COLOURS.iter().flat_map(|(label, colour)| {
        (0..10).map(move |number| sample(label, *colour, number * 3 + 1000))
    });
    all_there(state.path(), &taught.chain([red(1), red(2), large(3)]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_state_folder_that_turns_read_only_in_the_middle_of_a_stream_refuses_and_recovers() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let mut stream = Stream::open(&client).await;
    for number in 0..5 {
        stream.send(red(number)).await.unwrap();
    }
    let writable = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(state.path(), permissions).unwrap();
    };
    medium::refuse(state.path(), Refusal::Failing);
    writable(0o555);
    for number in 5..8 {
        let error = stream.send(red(number)).await.unwrap_err();
        let said = (error.kind, error.reason.as_str());
        assert_eq!(said, (ErrorKind::FailedPrecondition, "STATE_FOLDER"), "{error}");
        // Root may write whatever the permissions say: then it looks like a broken disk.
        let read_only = error.message.contains("mounted read-only");
        let root = rustix::process::geteuid().is_root();
        assert!(read_only || (root && error.message.contains("kernel's log")), "{error}");
    }
    assert_eq!(client.list_datasets().await.unwrap()[0].sample_count, 5);
    let request = PredictRequest::from(Picture::from_bytes(crate::colours::picture([9; 3], 1)));
    client.predict(request).await.unwrap();
    writable(0o755);
    medium::accept(state.path());
    stream.send(red(8)).await.unwrap();
    drop((stream, client));
    daemon.end().await;
    let acknowledged = [0, 1, 2, 3, 4, 8].map(red);
    all_there(state.path(), &acknowledged);
}

#[tokio::test]
async fn a_training_that_cannot_be_recorded_is_told_to_those_who_watch_it() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    let busy = crate::jobs::occupy(&daemon);
    // On a backbone that has seen none of the samples: it waits for a worker.
    let request =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    while news.next().await.unwrap().unwrap().phase != "embedding" {}
    medium::refuse(state.path(), Refusal::Full);
    drop(busy);
    let ended = crate::jobs::end_of(&client, &job).await;
    assert_eq!(ended.state(), JobState::Failed, "{ended:?}");
    assert!(ended.failure.unwrap().message.contains("is full"));
    let asked = client.get_job(&job.id).await.unwrap().unwrap();
    assert_eq!(asked.state(), JobState::Failed);
    medium::accept(state.path());
    let again = train(&client, training(PromotionPolicy::Always)).await;
    assert_eq!(again.state(), JobState::Succeeded, "{again:?}");
}

#[tokio::test]
async fn a_flipped_byte_is_told_as_data_loss_and_what_is_sound_is_handed_out() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    for sent in [large(1), red(2)] {
        client.add_sample(sent).await.unwrap();
    }
    drop(client);
    daemon.end().await;
    let mut images = std::fs::read_dir(state.path().join("images")).unwrap();
    let file = images.next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();

    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let get = |id: String| GetSampleRequest {
        dataset: "colours".into(),
        id,
        include_image: true,
        ..GetSampleRequest::default()
    };
    let error = client.get_sample(get(large(1).id)).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::DataLoss, "CORRUPT"));
    assert!(error.message.contains("graftd store verify"), "{error}");
    let sound = client.get_sample(get(red(2).id)).await.unwrap();
    assert_eq!(sound.image.map(new_sample::Content::Image), red(2).content);
    client.add_sample(red(3)).await.unwrap();
}

/// A daemon of its own whose folder of photographs turns read-only: those that need no file go on.
#[tokio::test]
async fn photographs_that_cannot_become_files_are_refused_and_the_others_stored() {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(GRAFTD);
    if rustix::process::geteuid().is_root() {
        // Permissions do not hold root back.
        chown(state.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let daemon = program::Daemon::start_in(command, state.path());
    let client = Client::connect(&daemon.address).await.unwrap();
    let mut stream = Stream::open(&client).await;
    stream.send(large(1)).await.unwrap();
    let images = state.path().join("images");
    let writable =
        |mode| std::fs::set_permissions(&images, std::fs::Permissions::from_mode(mode)).unwrap();
    writable(0o555);
    let error = stream.send(large(2)).await.unwrap_err();
    let said = (error.kind, error.reason.as_str());
    assert_eq!(said, (ErrorKind::FailedPrecondition, "STATE_FOLDER"), "{error}");
    assert!(error.message.contains("mounted read-only"), "{error}");
    stream.send(red(3)).await.unwrap();
    writable(0o755);
    stream.send(large(2)).await.unwrap();
    drop((stream, client));
    assert!(daemon.terminate().success());
    all_there(state.path(), &[large(1), red(3), large(2)]);
}

/// A limit of the system on the size of files stops first the file of a photograph, then the log.
#[tokio::test]
async fn files_that_may_grow_no_further_refuse_samples_and_lose_none() {
    const KILOBYTES: u32 = 400;
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new("bash");
    let limited = format!("trap '' XFSZ; ulimit -f {KILOBYTES}; exec \"$@\"");
    command.args(["-c", &limited, "bash", GRAFTD]);
    let daemon = program::Daemon::start_in(command, state.path());
    let client = Client::connect(&daemon.address).await.unwrap();
    let mut stream = Stream::open(&client).await;
    let mut acknowledged = Vec::new();
    let mut refused = None;
    for number in 0..200 {
        match stream.send(red(number)).await {
            Ok(()) => acknowledged.push(red(number)),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let error = refused.expect("the log reaches the limit");
    assert_eq!(error.reason, "STATE_FOLDER", "{error}");
    assert!(error.message.contains("limit on the size of files"), "{error}");
    embeds(&client).await;
    drop((stream, client));
    assert!(daemon.terminate().success());
    all_there(state.path(), &acknowledged);
}

async fn embeds(client: &Client) {
    let picture = Picture::from_bytes(crate::colours::picture([9; 3], 1));
    assert!(!client.embed(picture.into()).await.unwrap().embedding.is_empty());
}

/// A file system of a few megabytes, in a namespace of its own.
struct SmallDisk {
    /// As long as it lives, so does the namespace.
    holder: Child,
    state: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where the system lets nobody mount one.
    fn mount() -> Option<Self> {
        let state = tempfile::tempdir().unwrap();
        let line = "mount -t tmpfs -o size=6m none \"$1\"; echo mounted; exec sleep 600";
        let holder = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-ec", line, "sh"])
            .arg(state.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut said = String::new();
        if let Ok(mut holder) = holder {
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
            let disk = Self { holder, state };
            if said == "mounted\n" {
                return Some(disk);
            }
        }
        println!("skipped: this system lets nobody mount a file system of its own");
        None
    }

    /// The program where the disk can be seen.
    fn graftd(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holder.id().to_string(), "--user", "--mount"])
            .args(["--preserve-credentials", GRAFTD]);
        command
    }

    /// How many samples are on it; none is damaged.
    fn verify(&self) -> u64 {
        let mut command = self.graftd();
        command.args(["store", "verify", "--json", "--state-dir"]).arg(self.state.path());
        let checked = command.output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert_eq!(found["sound"], true, "{found}");
        found["samples"].as_u64().unwrap()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Sends samples until the disk is full; what was stored.
async fn fill(stream: &mut Stream, sample_of: fn(u32) -> NewSample) -> Vec<String> {
    let mut stored = Vec::new();
    for number in 0..200 {
        let sample = sample_of(number);
        let id = sample.id.clone();
        match stream.send(sample).await {
            Ok(()) => stored.push(id),
            Err(error) => {
                let said = (error.kind, error.reason.as_str());
                assert_eq!(said, (ErrorKind::ResourceExhausted, "DISK_FULL"), "{error}");
                return stored;
            }
        }
    }
    panic!("200 samples do not fill the disk");
}

#[tokio::test]
async fn on_a_disk_that_samples_fill_the_daemon_starts_and_deletes_and_then_takes_more() {
    let Some(disk) = SmallDisk::mount() else { return };
    let daemon = program::Daemon::start_in(disk.graftd(), disk.state.path());
    let client = Client::connect(&daemon.address).await.unwrap();
    let mut stream = Stream::open(&client).await;
    // First no photograph finds room for its file, then the log none for a COMMIT.
    let photographs = fill(&mut stream, large).await;
    embeds(&client).await;
    let acknowledged = photographs.len() + fill(&mut stream, red).await.len();
    embeds(&client).await;
    assert_eq!(disk.verify(), acknowledged as u64);
    drop((stream, client));
    assert!(daemon.terminate().success());

    let daemon = program::Daemon::start_in(disk.graftd(), disk.state.path());
    let client = Client::connect(&daemon.address).await.unwrap();
    assert_eq!(disk.verify(), acknowledged as u64);
    let mut stream = Stream::open(&client).await;
    fill(&mut stream, |number| red(1000 + number)).await;
    let stored = disk.verify();
    let filter = SampleFilter {
        dataset: "colours".into(),
        ids: photographs.clone(),
        ..SampleFilter::default()
    };
    let request = DeleteSamplesRequest { filter: Some(filter), ..Default::default() };
    let deleted = client.delete_samples(request).await.unwrap().deleted_count;
    assert_eq!(deleted, photographs.len() as u64);
    for number in 1000..1005 {
        stream.send(large(number)).await.unwrap();
    }
    assert_eq!(disk.verify(), stored - deleted + 5);
}
