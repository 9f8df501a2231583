//! A daemon in this process, on a free port and with a state folder that goes when it ends.

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::CliError;
use crate::app::{AppError, Config, ConfigSource, Daemon, Stop};
use crate::client::Client;

/// A running daemon and a client of it.
#[derive(Debug)]
pub(super) struct Device {
    address: String,
    client: Client,
    stop: Stop,
    served: JoinHandle<Result<(), AppError>>,
    /// Removed when this is dropped.
    _state: TempDir,
}

impl Device {
    /// Starts it.
    pub(super) async fn start() -> Result<Self, CliError> {
        let system = |what| move |reason| AppError::System { what, reason };
        let state = tempfile::tempdir().map_err(system("a temporary folder"))?;
        let flags = vec![("server.listen", "127.0.0.1:0".to_owned())];
        let config = Config::load(&ConfigSource { flags, ..ConfigSource::default() })?;
        let daemon = Daemon::build(&config, state.path()).await?;
        let address = daemon.address().map_err(system("the address"))?.to_string();
        let stop = daemon.stopper();
        let served = tokio::spawn(daemon.run());
        let client = Client::connect(&address).await?;
        Ok(Self { address, client, stop, served, _state: state })
    }

    /// `HOST:PORT`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A client that is connected.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Stops it and waits until it has ended.
    pub(super) async fn stop(self) -> Result<(), CliError> {
        let Self { client, stop, served, .. } = self;
        drop(client);
        stop.stop();
        served
            .await
            .map_err(|error| CliError::Other(format!("the daemon broke down: {error}")))??;
        Ok(())
    }
}
