//! A daemon in this process: the tiny networks behind real gRPC on a free port.

#![allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
#![allow(dead_code)] // each test uses a part

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graftd::backbones::{Checker, Labels, Manifest, TensorNames};
use graftd::base::cancel::Cancel;
use graftd::base::clock::Timestamp;
use graftd::base::digest::Digest;
use graftd::client::Client;
use graftd::engine::learning::Learning;
use graftd::engine::{
    BackboneKeeper, Engine, EngineOptions, LiveBackbone, Origin, PoolOptions, Priority, Snapshot,
    Ticket,
};
use graftd::graph::{Network, Options, Source};
use graftd::rpc::{DrainHandle, Server, ServerOptions};
use graftd::store::Store;
use graftd::vision::{Limits, Preprocessing, Preset};
use tokio::sync::oneshot;
use tonic::transport::Channel;

/// A running daemon; it stops when it is dropped.
pub struct Daemon {
    /// `HOST:PORT`.
    pub address: String,
    pub engine: Arc<Engine>,
    pub learning: Arc<Learning>,
    pub drain: DrainHandle,
    /// Its state folder.
    pub state: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    /// Removes the state folder, where nobody else does.
    _owned: Option<tempfile::TempDir>,
    pub served: tokio::task::JoinHandle<()>,
}

/// A worker that does nothing else.
pub struct Occupied {
    _release: std::sync::mpsc::Sender<()>,
    _running: Ticket<()>,
}

/// A file of `tests/reference`.
pub fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// The bytes of a photograph.
pub fn photograph() -> Vec<u8> {
    std::fs::read(reference("pixels/baseline.jpg")).unwrap()
}

/// The tiny network that ends in `ending`, with labels where it has classes.
fn tiny(ending: &str, added: i64) -> Arc<LiveBackbone> {
    tiny_with(ending, added, Preset::Unit)
}

/// The same with a preprocessing.
pub fn tiny_with(ending: &str, added: i64, preset: Preset) -> Arc<LiveBackbone> {
    let file = reference(&format!("tiny/{ending}.onnx"));
    let labels = if ending == "features" { "" } else { "ant\nbee\ncat\ndog\n" };
    let network = Network::load(Source::File(file), &Options::default()).unwrap();
    live(ending, added, preset, labels, network)
}

fn live(
    name: &str,
    added: i64,
    preset: Preset,
    labels: &str,
    network: Network,
) -> Arc<LiveBackbone> {
    let side = network.input().size as u32;
    let preprocessing = Preprocessing::preset(preset, side);
    let (origin, labels) = (Origin::Added(Timestamp(added)), Labels::parse(labels));
    Arc::new(LiveBackbone::new(name.parse().unwrap(), origin, preprocessing, labels, network))
}

impl Daemon {
    /// Serves the networks `features`, `softmax` and, the default, `logits`, with one worker and
    /// room for two more images.
    pub async fn start() -> Self {
        Self::start_with(ServerOptions::default()).await
    }

    pub async fn start_with(options: ServerOptions) -> Self {
        let state = tempfile::tempdir().unwrap();
        let pool = PoolOptions { workers: 1, queue: 2 };
        let daemon = Self::start_in(state.path(), pool, options).await;
        Self { _owned: Some(state), ..daemon }
    }

    /// With two workers and room for many images.
    pub async fn start_roomy() -> Self {
        let state = tempfile::tempdir().unwrap();
        let pool = PoolOptions { workers: 2, queue: 64 };
        let daemon = Self::start_in(state.path(), pool, ServerOptions::default()).await;
        Self { _owned: Some(state), ..daemon }
    }

    /// The same with a state folder that outlives the daemon.
    pub async fn start_in(state: &Path, pool: PoolOptions, options: ServerOptions) -> Self {
        Self::start_on(Store::open(state).unwrap(), pool, options).await
    }

    /// The same on a store that is open.
    pub async fn start_on(store: Store, pool: PoolOptions, options: ServerOptions) -> Self {
        let graftd = env!("CARGO_BIN_EXE_graftd").into();
        Self::start_trying_with(graftd, store, pool, options).await
    }

    /// The same with a program of the test's own that tries uploaded networks.
    pub async fn start_trying_with(
        program: PathBuf,
        store: Store,
        pool: PoolOptions,
        options: ServerOptions,
    ) -> Self {
        let state = store.path();
        let mut snapshot = Snapshot::default();
        for (added, ending) in ["features", "softmax", "logits"].into_iter().enumerate() {
            let backbone = tiny(ending, added as i64);
            snapshot.backbones.insert(backbone.name.clone(), backbone);
        }
        let engine = EngineOptions { pool, limits: Limits::default() };
        let engine = Arc::new(Engine::start(snapshot, engine).unwrap());
        let learning = Arc::new(Learning::start(Arc::clone(&engine), store).unwrap());
        let checker = Checker::new(program);
        let keeper = BackboneKeeper::new(Arc::clone(&engine), &state, checker);
        let server = Server::new(Arc::clone(&learning), keeper, options).await.unwrap();
        let drain = server.drain_handle();
        let listener = graftd::rpc::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let served = tokio::spawn(async move { server.serve(listener, shutdown).await.unwrap() });
        Self { address, engine, learning, drain, state, stop: Some(stop), _owned: None, served }
    }

    /// Serves one more network, older than the others, so that the default stays.
    pub fn serve_too(&self, name: &str, network: Network) {
        let backbone = live(name, -1, Preset::Unit, "", network);
        let publish = |snapshot: &mut Snapshot| {
            snapshot.backbones.insert(backbone.name.clone(), backbone);
            Ok::<_, std::convert::Infallible>(())
        };
        self.engine.registry().update(publish).unwrap();
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await.unwrap()
    }

    /// Puts the tiny network that ends in a classifier into the state folder, not loaded.
    pub fn put_on_device(&self, id: &str) {
        let folder = self.state.join("backbones").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let model = std::fs::read(reference("tiny/logits.onnx")).unwrap();
        let manifest = Manifest {
            name: "A tiny network".into(),
            enabled: false,
            sha256: Digest::of(&model),
            size_bytes: model.len() as u64,
            added_at: Timestamp(7_000_000),
            licence: "MIT".into(),
            source: String::new(),
            preprocessing: Preprocessing::preset(Preset::Unit, 16),
            tensors: TensorNames::default(),
        };
        std::fs::write(folder.join("model.onnx"), model).unwrap();
        std::fs::write(folder.join("backbone.toml"), manifest.to_toml().unwrap()).unwrap();
    }

    /// Occupies a worker until what it returns is dropped.
    pub async fn occupy(&self) -> Occupied {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let work = move |_: &Cancel, _| {
            began.send(()).unwrap();
            let _ = released.recv();
        };
        let running = self.engine.run(Priority::Foreground, Cancel::default(), work).unwrap();
        begun.await.unwrap();
        Occupied { _release: release, _running: running }
    }

    /// Waits until `count` images wait for a worker.
    pub async fn queued(&self, count: usize) {
        self.until(|engine| engine.statistics().queued == count).await;
    }

    /// Waits until `count` workers are at work.
    pub async fn busy(&self, count: usize) {
        self.until(|engine| engine.statistics().busy == count).await;
    }

    /// Images that the network of a backbone has run.
    pub fn runs(&self, backbone: &str) -> u64 {
        self.engine.snapshot().backbones[backbone].network.plan().runs()
    }

    /// Waits until it has come to that.
    pub async fn until(&self, reached: impl Fn(&Engine) -> bool) {
        let reached = async {
            while !reached(&self.engine) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("it comes to that");
    }

    /// For the generated clients.
    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    /// Stops the daemon and waits until it has let go of its state folder.
    pub async fn end(mut self) {
        self.stop();
        (&mut self.served).await.unwrap();
    }

    /// Asks the daemon to stop, as SIGTERM does.
    pub fn stop(&mut self) {
        self.stop.take();
    }
}
