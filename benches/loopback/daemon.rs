//! `graftd serve` as a child process.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use graftd::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::process::{Memory, Process};
use super::{BACKBONE, Error};

/// Longest that a start or an end may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running daemon; it is killed when it is dropped.
pub struct Daemon {
    child: Child,
    address: String,
    /// From the start of the process to its first answer.
    ready: Duration,
}

/// What repeated starts have shown.
pub struct Starts {
    ready: Vec<Duration>,
    memory: Memory,
}

/// Adds the network to a state folder.
pub fn add(graftd: &Path, state: &Path, model: &Path) -> Result<(), Error> {
    let mut command = Command::new(graftd);
    command.args(["models", "add"]).arg(model).args(["--id", BACKBONE, "--preset", "imagenet"]);
    let output = command.arg("--state-dir").arg(state).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(())
}

/// Starts and stops the daemon so many times.
pub async fn starts<F>(count: usize, start: impl Fn() -> F) -> Result<Starts, Error>
where
    F: Future<Output = Result<Daemon, Error>>,
{
    let mut ready = Vec::with_capacity(count);
    let mut memory = Memory { resident: f64::NAN, at_most: f64::NAN };
    for _ in 0..count {
        let daemon = start().await?;
        ready.push(daemon.ready);
        memory = daemon.process().memory()?;
        daemon.stop().await?;
    }
    ready.sort_unstable();
    Ok(Starts { ready, memory })
}

impl Starts {
    /// As JSON.
    pub fn report(&self) -> Value {
        let median = self.ready.get(self.ready.len() / 2).copied().unwrap_or_default();
        json!({
            "starts": self.ready.len(),
            "median_ready_ms": median.as_secs_f64() * 1e3,
            "resident_mb": self.memory.resident,
        })
    }
}

impl Daemon {
    /// Starts a daemon and waits for its first answer.
    pub async fn start(graftd: &Path, state: &Path, workers: usize) -> Result<Self, Error> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let began = Instant::now();
        let child = Command::new(graftd)
            .args(["serve", "--listen", &address, "--state-dir"])
            .arg(state)
            .env("GRAFTD__ENGINE__WORKERS", workers.to_string())
            .env("GRAFTD__LOG__LEVEL", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let mut daemon = Self { child, address, ready: Duration::ZERO };
        while began.elapsed() < PATIENCE {
            if let Some(status) = daemon.child.try_wait()? {
                return Err(format!("graftd serve ended at once ({status})").into());
            }
            if let Ok(client) = Client::connect(&daemon.address).await
                && client.get_device().await.is_ok()
            {
                daemon.ready = began.elapsed();
                return Ok(daemon);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("graftd serve does not answer".into())
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The child.
    pub fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Ends it as systemd would.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                let failed = || format!("graftd serve ended with {status}").into();
                return if status.success() { Ok(()) } else { Err(failed()) };
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err("graftd serve does not end".into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
