//! Build, run, drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{AppError, Config, device};
use crate::backbones::Checker;
use crate::base::memory;
use crate::engine::learning::Learning;
use crate::engine::{BackboneKeeper, Engine, EngineOptions, PoolOptions, Target};
use crate::rpc::{Server, ServerOptions, bind};
use crate::store::Store;
use crate::vision::Limits;

/// A daemon with everything loaded and its port open, not yet serving.
#[derive(Debug)]
pub struct Daemon {
    engine: Arc<Engine>,
    /// Holds the state folder's lock: nobody else writes to it as long as the daemon lives.
    learning: Arc<Learning>,
    server: Server,
    listener: TcpListener,
    stop: Stop,
}

/// Tells a daemon to stop; clones tell the same one.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// From now on the daemon takes no more requests and ends once the running ones are answered.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Daemon {
    /// Loads everything and opens the port: whoever can connect is served.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn build(config: &Config, state_dir: &Path) -> Result<Self, AppError> {
        prepare_state_dir(state_dir)?;
        let store = Store::open(state_dir)?;
        let folder: PathBuf = state_dir.to_owned();
        let wanted = config.enabled_backbones().to_vec();
        let loading = tokio::task::spawn_blocking(move || device::load_backbones(&folder, &wanted));
        let mut snapshot = loading.await.map_err(|error| AppError::System {
            what: "a thread",
            reason: std::io::Error::other(error),
        })??;
        memory::give_back();
        snapshot.default = config.default_target().map(str::to_owned);
        let engine = Engine::start(snapshot, engine_options(config))
            .map_err(|reason| AppError::System { what: "worker threads", reason })?;
        let engine = Arc::new(engine);
        let learning = Arc::new(Learning::start(Arc::clone(&engine), store)?);
        warn_of_default(config, &engine);
        let program = std::env::current_exe()
            .map_err(|reason| AppError::System { what: "the program's own path", reason })?;
        let checker = Checker::new(program);
        let keeper = BackboneKeeper::new(Arc::clone(&engine), state_dir, checker);
        let server = Server::new(Arc::clone(&learning), keeper, server_options(config)).await?;
        let listener = bind(config.listen()).await.map_err(AppError::Listen)?;
        let stop = Stop(Arc::new(watch::channel(false).0));
        Ok(Self { engine, learning, server, listener, stop })
    }

    /// The address that was really taken.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What is stored and learnt.
    pub fn learning(&self) -> &Arc<Learning> {
        &self.learning
    }

    /// What is loaded.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The handle by which the daemon is told to stop.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until told to stop, then drains: running requests finish, for at most the configured
    /// time.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn run(self) -> Result<(), AppError> {
        let mut stopping = self.stop.0.subscribe();
        let shutdown = async move {
            // An error means that nobody can stop us any more, which cannot be: we hold a sender.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        self.server.serve(self.listener, shutdown).await?;
        self.engine.close();
        Ok(())
    }
}

/// A default that names nothing fails only those requests that name nothing: say so before one comes.
fn warn_of_default(config: &Config, engine: &Engine) {
    let Some(name) = config.default_target() else { return };
    if let Err(error) = engine.snapshot().resolve(&Target::Default) {
        tracing::warn!(
            key = "backbones.default",
            "backbones.default = {name:?} answers nothing: {error}"
        );
    }
}

/// Creates the state folder if need be and makes sure that it can be written.
fn prepare_state_dir(path: &Path) -> Result<(), AppError> {
    let refuse = |reason: String| AppError::StateDir { path: path.to_owned(), reason };
    std::fs::create_dir_all(path).map_err(|error| {
        refuse(format!("{error}; choose another with --state-dir, or create it for this user"))
    })?;
    let probe = path.join(".writable");
    crate::base::atomic::write(&probe, b"")
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| refuse(format!("it cannot be written ({error}); check owner and mount")))
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        pool: PoolOptions { workers: config.workers(), queue: config.queue() },
        limits: Limits { bytes: config.max_message_bytes() as u64, pixels: config.max_pixels() },
    }
}

fn server_options(config: &Config) -> ServerOptions {
    ServerOptions {
        maximum_message_bytes: config.max_message_bytes(),
        maximum_connections: config.max_connections(),
        maximum_streams: config.max_streams(),
        drain: config.drain(),
        ..ServerOptions::default()
    }
}
