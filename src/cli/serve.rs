//! `graftd serve`: the daemon.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{CliError, Global, Outcome, held};
use crate::app::{AppError, Config, ConfigSource, Daemon};

/// Run the daemon until SIGTERM or Ctrl-C.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Address and port; default 127.0.0.1:7411.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Option<SocketAddr>,
    /// A configuration file; `graftd check-config --print-default` shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Allow an address that other machines reach, though there is no transport security yet.
    #[arg(long)]
    insecure_network: bool,
}

impl Serve {
    /// Runs the command.
    pub(crate) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let mut flags = Vec::new();
        flags.extend(self.listen.map(|address| ("server.listen", address.to_string())));
        flags.extend(self.insecure_network.then(|| ("server.insecure_network", "true".to_owned())));
        let config = Config::load(&ConfigSource::of_process(self.config.clone(), flags))?;
        log(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|reason| AppError::System { what: "threads", reason })?;
        #[allow(clippy::wildcard_enum_match_arm)] // the lock's own error, and the rest
        runtime.block_on(serve(&config, global)).map_err(|error| match error {
            AppError::Store(error) => held(error, "give this one another --state-dir"),
            other => other.into(),
        })?;
        // What still runs had its time to finish.
        runtime.shutdown_background();
        Ok(Outcome::Complete)
    }
}

/// For clap.
fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "it is not an IP address with a port: say for example 127.0.0.1:7411 for this machine alone, or \
         [::1]:7411"
            .to_owned()
    })
}

async fn serve(config: &Config, global: &Global) -> Result<(), AppError> {
    let refused = |reason| AppError::System { what: "signal handlers", reason };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let began = std::time::Instant::now();
    let daemon = Daemon::build(config, &global.state_dir()).await?;
    let address =
        daemon.address().map_err(|reason| AppError::System { what: "the address", reason })?;
    let snapshot = daemon.engine().snapshot();
    let names: Vec<&str> = snapshot.backbones.keys().map(AsRef::as_ref).collect();
    tracing::info!(
        address = %address,
        backbones = names.join(","),
        ready_ms = began.elapsed().as_millis() as u64,
        "graftd {} is ready",
        env!("CARGO_PKG_VERSION"),
    );
    if names.is_empty() {
        tracing::warn!("no backbone is loaded; add one with `graftd models add` or `models pull`");
    }
    notify(&[NotifyState::Ready]);
    let stop = daemon.stopper();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: running requests may finish");
        notify(&[NotifyState::Stopping]);
        stop.stop();
    });
    daemon.run().await
}

/// Tells systemd, where it asked to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!("systemd could not be told: {error}");
    }
}

fn log(config: &Config) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(config.log_level())
        .map_err(|error| CliError::Other(format!("log.level: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would report a closed standard error on standard error, and panic.
        .log_internal_errors(false);
    let installed = if config.logs_json() { builder.json().try_init() } else { builder.try_init() };
    installed.map_err(|error| CliError::Other(format!("the log cannot be set up: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_place_of_an_address_is_told_what_an_address_is() {
        assert!(address("[::1]:0").is_ok());
        assert!(address("localhost:7411").unwrap_err().contains("127.0.0.1:7411"));
    }
}
