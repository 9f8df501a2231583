//! `graftd serve` as a process: when it starts, why it does not, how it ends, and what strangers on
//! its port cannot do to it.

#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut

#[path = "common/program.rs"]
mod program;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use graftd::client::{Client, Picture};
use graftd::vision;
use program::{Daemon, GRAFTD};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

fn serve(state: &Path) -> Command {
    let mut command = Command::new(GRAFTD);
    command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state);
    command
}

/// What a daemon says that must not start.
fn refusal(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

async fn embeds(address: &str) -> bool {
    let client = Client::connect(address).await.unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/pixels/baseline.jpg");
    let picture = Picture::from_file(&file).await.unwrap();
    !client.embed(picture.into()).await.unwrap().embedding.is_empty()
}

#[test]
fn a_port_that_is_taken_is_named() {
    let state = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(GRAFTD);
    command.args(["serve", "--listen", &address, "--state-dir"]).arg(state.path());
    let said = refusal(&mut command);
    assert!(said.contains(&address) && said.contains("another program listens there"), "{said}");
}

#[test]
fn an_address_that_others_reach_needs_consent() {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(GRAFTD);
    command.args(["serve", "--listen", "0.0.0.0:0", "--state-dir"]).arg(state.path());
    assert!(refusal(&mut command).contains("--insecure-network"));
}

#[test]
fn an_address_that_others_reach_is_taken_with_consent() {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(GRAFTD);
    command.args(["serve", "--listen", "0.0.0.0:0", "--insecure-network", "--state-dir"]);
    command.arg(state.path());
    let daemon = Daemon::run(command);
    let port = daemon.address.strip_prefix("0.0.0.0:").unwrap().parse().unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
}

#[test]
fn an_unknown_key_is_named_wherever_it_comes_from() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("graftd.toml");
    std::fs::write(&file, "[server]\nlisten_adress = \"127.0.0.1:1\"\n").unwrap();
    let mut command = serve(state.path());
    let said = refusal(command.arg("--config").arg(&file).env("GRAFTD__ENGINE__QUEUES", "3"));
    assert!(said.contains("server.listen_adress") && said.contains("engine.queues"), "{said}");
    let absent = state.path().join("absent.toml");
    let said = refusal(serve(state.path()).arg("--config").arg(&absent));
    assert!(said.contains("absent.toml"), "{said}");
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    for state in [file.as_path(), &file.join("below"), Path::new("/proc/nothing/here")] {
        let said = refusal(&mut serve(state));
        assert!(said.contains(&state.display().to_string()), "{said}");
        assert!(said.contains("state folder"), "{said}");
    }
}

#[test]
fn a_state_folder_that_is_read_only_or_another_user_s_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(folder.path(), 0o755);
    let [read_only, foreign] = ["read-only", "foreign"].map(|name| folder.path().join(name));
    std::fs::create_dir(&read_only).unwrap();
    std::fs::create_dir(&foreign).unwrap();
    // Root may write everywhere: the daemon has to be somebody else.
    let root = rustix::process::geteuid().is_root();
    let user = |command: &mut Command| {
        if root {
            command.uid(NOBODY).gid(NOBODY).env("HOME", "/");
        }
    };
    if root {
        chown(&read_only, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut version = Command::new(GRAFTD);
        user(version.arg("--version"));
        if !version.output().is_ok_and(|output| output.status.success()) {
            println!("skipped: another user cannot run {GRAFTD}");
            return;
        }
    }
    open(&read_only, 0o555);
    open(&foreign, if root { 0o700 } else { 0o000 });
    for state in [read_only, foreign] {
        let mut command = serve(&state);
        user(&mut command);
        let said = refusal(&mut command);
        assert!(said.contains(&state.display().to_string()), "{said}");
        assert!(said.contains("Permission denied"), "{said}");
    }
}

#[test]
fn a_backbone_that_is_damaged_keeps_the_port_shut_and_is_named() {
    let state = tempfile::tempdir().unwrap();
    let backbone = state.path().join("backbones/broken");
    std::fs::create_dir_all(&backbone).unwrap();
    std::fs::write(backbone.join("backbone.toml"), "name = 7").unwrap();
    let said = refusal(&mut serve(state.path()));
    assert!(said.contains("broken") && said.contains("graftd models remove broken"), "{said}");
}

#[tokio::test]
async fn whoever_can_connect_is_answered_and_sigterm_ends_the_daemon_with_success() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut child = Command::new(GRAFTD)
        .args(["serve", "--listen", &address.to_string(), "--state-dir"])
        .arg(state.path())
        .spawn()
        .unwrap();
    let connected = async {
        while TcpStream::connect(address).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), connected).await.expect("the port opens");
    assert!(embeds(&address.to_string()).await, "the port opens when all backbones are loaded");
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(ended.await.unwrap().success());
    assert!(TcpStream::connect(address).is_err());
}

/// One whose labels are a pipe stays half loaded for as long as nothing is written to it.
#[test]
fn the_port_stays_shut_until_every_backbone_is_loaded() {
    let state = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny/logits.onnx");
    let mut add = Command::new(GRAFTD);
    add.args(["models", "add", "--id", "slow", "--preset", "unit", "--state-dir"]);
    assert!(add.args([state.path(), &model]).output().unwrap().status.success());
    let labels = state.path().join("backbones/slow/labels.txt");
    assert!(Command::new("mkfifo").arg(&labels).status().unwrap().success());

    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut child = Command::new(GRAFTD)
        .args(["serve", "--listen", &address.to_string(), "--state-dir"])
        .arg(state.path())
        .spawn()
        .unwrap();
    // Opens as soon as the daemon reads at the other end.
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&labels).unwrap();
    assert!(TcpStream::connect(address).is_err(), "it is still being loaded");
    std::fs::remove_file(&labels).unwrap();
    std::fs::write(&labels, "ant\nbee\ncat\ndog\n").unwrap();
    pipe.write_all(b"ant\nbee\ncat\ndog\n").unwrap();
    drop(pipe);
    while TcpStream::connect(address).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "it serves");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn systemd_is_told_when_the_daemon_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let told = || {
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let mut command = Command::new(GRAFTD);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start_in(command, folder.path());
    assert_eq!(told(), "READY=1");
    assert!(daemon.terminate().success());
    assert_eq!(told(), "STOPPING=1");
}

#[tokio::test]
async fn sigterm_lets_predictions_finish_that_run_or_wait() {
    let state = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny/logits.onnx");
    let mut add = Command::new(GRAFTD);
    add.args(["models", "add", "--id", "tiny", "--preset", "unit", "--state-dir"]);
    assert!(add.args([state.path(), &model]).output().unwrap().status.success());
    let mut command = Command::new(GRAFTD);
    command.env("GRAFTD__ENGINE__WORKERS", "1");
    let daemon = Daemon::start_in(command, state.path());
    let client = Client::connect(&daemon.address).await.unwrap();

    // Its decoding keeps the only worker for long enough to be met at it.
    let (width, height) = (5000, 4000);
    let pixels = (0..3 * width * height).map(|i| (i / 977) as u8).collect();
    let large = vision::Picture::new(width, height, pixels).unwrap();
    let large = vision::encode(&large, vision::ImageFormat::Jpeg { quality: 90 }).unwrap();
    let predict = || client.predict(Picture::from_bytes(large.clone()).into());
    let stop = async {
        while client.get_statistics().await.unwrap().queue_length == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::spawn_blocking(|| daemon.terminate()).await.unwrap()
    };
    let all = async { tokio::join!(predict(), predict(), stop) };
    let (running, waiting, status) =
        tokio::time::timeout(Duration::from_mins(1), all).await.expect("one waits for the other");
    for answer in [running, waiting] {
        assert_eq!(answer.unwrap().backbone, "tiny");
    }
    assert!(status.success());
}

/// An HTTP/2 frame: RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

const END_STREAM: u8 = 1;

/// A gRPC call that announces a message of a hundred bytes and sends ten of them.
fn cut_call(path: &str, last_flags: u8) -> Vec<u8> {
    call(path, &[&[0, 0, 0, 0, 100][..], &[10; 10]].concat(), last_flags)
}

/// A gRPC call on a connection of its own, whose client answers nothing that HTTP/2 asks.
fn call(path: &str, message: &[u8], last_flags: u8) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "graftd"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed: RFC 7541, section 6.2.2.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend(text.as_bytes());
        }
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(4, 0, 0, &[]), frame(1, 4, 1, &headers), frame(0, last_flags, 1, message)]
        .concat()
}

/// Sends `bytes` on a connection of their own and waits until the daemon has taken the connection.
fn send(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(&daemon.address).unwrap();
    connection.write_all(bytes).unwrap();
    // The daemon's first frame, its settings.
    connection.read_exact(&mut [0; 9]).unwrap();
    connection
}

fn serving_with_patience(drain_seconds: u32) -> (tempfile::TempDir, Daemon) {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(GRAFTD);
    command.env("GRAFTD__SERVER__DRAIN_SECONDS", drain_seconds.to_string());
    let daemon = Daemon::start_in(command, state.path());
    (state, daemon)
}

#[test]
fn clients_that_leave_connections_and_watches_open_do_not_hold_the_end() {
    let (_state, daemon) = serving_with_patience(3600);
    let nothing = [0; 5];
    let _left_open = [
        send(&daemon, &call("/graft.v1.DeviceService/GetDevice", &nothing, END_STREAM)),
        send(&daemon, &call("/grpc.health.v1.Health/Watch", &nothing, END_STREAM)),
    ];
    let (status, log) = daemon.terminate_and_tell();
    assert!(status.success());
    assert!(log.contains("connections that clients left open are closed"), "{log}");
}

#[test]
fn a_call_that_does_not_end_in_time_is_cut_off_and_counted() {
    let (_state, daemon) = serving_with_patience(1);
    let _waiting = send(&daemon, &cut_call("/graft.v1.InferenceService/Predict", 0));
    let (status, log) = daemon.terminate_and_tell();
    assert!(status.success());
    assert!(log.contains("\"calls\":1") && log.contains("server.drain_seconds"), "{log}");
}

#[tokio::test]
async fn a_call_that_is_cut_in_the_middle_of_a_message_harms_nobody() {
    let daemon = Daemon::start(tempfile::tempdir().unwrap());
    for path in [
        "/graft.v1.InferenceService/Predict",
        "/graft.v1.InferenceService/PredictStream",
        "/graft.v1.BackboneService/UploadBackbone",
        "/graft.v1.SampleService/StreamSamples",
        "/inference.GRPCInferenceService/ModelInfer",
    ] {
        for flags in [0, END_STREAM] {
            send(&daemon, &cut_call(path, flags));
        }
        assert!(embeds(&daemon.address).await, "after {path}");
    }
    assert!(tokio::task::spawn_blocking(|| daemon.terminate()).await.unwrap().success());
}

#[test]
fn a_default_that_names_nothing_is_warned_of_by_its_key() {
    let state = tempfile::tempdir().unwrap();
    let mut command = serve(state.path());
    command.env("GRAFTD__BACKBONES__DEFAULT", "typo");
    command.env("GRAFTD__LOG__FORMAT", "json").stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let before: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.contains("is ready")).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let warned = |line: &String| line.contains("WARN") && line.contains("backbones.default");
    assert!(before.iter().any(warned), "{before:?}");
}
