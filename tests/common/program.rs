//! The real program as a daemon, on a port of its own; `daemon.rs` runs one inside the test.

#![allow(dead_code)] // each test uses a part

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// The program under test.
pub const GRAFTD: &str = env!("CARGO_BIN_EXE_graftd");

/// `graftd serve` with a state folder of its own; killed when dropped.
pub struct Daemon {
    child: Child,
    /// Where it listens, for example `127.0.0.1:40123`.
    pub address: String,
    /// Its state folder, where nobody else removes it.
    owned: Option<tempfile::TempDir>,
    /// What it logs from then on.
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    /// A daemon that serves the assets' `MobileNetV2`.
    pub fn with_mobilenet_v2(assets: &Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let model = assets.join("models/mobilenet-v2.onnx");
        let added = Command::new(GRAFTD)
            .args(["models", "add", "--id", "mobilenet-v2", "--preset", "imagenet", "--state-dir"])
            .args([state.path(), model.as_path()])
            .output()
            .unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

        Self::start(state)
    }

    /// A daemon on a state folder.
    pub fn start(state: tempfile::TempDir) -> Self {
        let mut daemon = Self::start_in(Command::new(GRAFTD), state.path());
        daemon.owned = Some(state);
        daemon
    }

    /// The same by a command that ends in the program; the state folder outlives the daemon.
    pub fn start_in(mut command: Command, state: &Path) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(state);
        Self::run(command)
    }

    /// The same by a whole command.
    pub fn run(mut command: Command) -> Self {
        let mut child =
            command.env("GRAFTD__LOG__FORMAT", "json").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.ok()?).ok()?;
                Some(line["fields"]["address"].as_str()?.to_owned())
            })
            .expect("the daemon says where it listens");
        // Read on, so that the daemon never waits for room in the pipe.
        let log =
            std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        Self { child, address, owned: None, log: Some(log) }
    }
}

impl Daemon {
    /// Asks it to stop, as systemd does, and waits until it has.
    pub fn terminate(self) -> ExitStatus {
        self.terminate_and_tell().0
    }

    /// The same, and what it has logged since it was ready.
    pub fn terminate_and_tell(mut self) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A photograph of an elephant.
pub fn photograph(assets: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(assets.join("images/boxes"))
        .into_iter()
        .filter_map(|entry| Some(entry.ok()?.into_path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    found.sort();
    found.swap_remove(0)
}
