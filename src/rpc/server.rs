//! Puts the services together and serves them on one port.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower::util::MapResponseLayer;

use super::calls::Calls;
use super::item_stream::Room;
use super::listener::connections;
use super::meter::Meter;
use super::open_inference::OpenInference;
use super::services::{
    BackboneManager, Device, Explanations, Heads, Inference, Samples, Shared, Training,
};
use super::tonic_status;
use crate::engine::BackboneKeeper;
use crate::engine::learning::Learning;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::graft::backbone_service_server::BackboneServiceServer;
use crate::proto::graft::device_service_server::DeviceServiceServer;
use crate::proto::graft::explanation_service_server::ExplanationServiceServer;
use crate::proto::graft::head_service_server::HeadServiceServer;
use crate::proto::graft::inference_service_server::InferenceServiceServer;
use crate::proto::graft::sample_service_server::SampleServiceServer;
use crate::proto::graft::training_service_server::TrainingServiceServer;
use crate::proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;

/// Limits of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Bytes a message, in and out. Default 32 MiB.
    pub maximum_message_bytes: usize,
    /// Connections at a time; more wait. Default 1024.
    pub maximum_connections: usize,
    /// Calls at a time on one connection. Default 256.
    pub maximum_streams: u32,
    /// How long a client may take to begin to speak HTTP/2 after it connected. Default 10 s.
    pub handshake_timeout: Duration,
    /// How often a silent connection is asked whether it lives. Default 30 s.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that. Default 10 s.
    pub keepalive_timeout: Duration,
    /// How long the sender of a backbone or a head may be silent. Default 30 s.
    pub upload_timeout: Duration,
    /// How long running calls may take to end once the server is told to stop. Default 10 s.
    pub drain: Duration,
}

/// Bytes that the items of all streams hold together, beside one item each.
const STREAMED_BYTES: usize = 64 << 20;
/// What a client has, after its last call, to take what is on its way and to close the connection.
/// One that does neither is not waited for.
const FAREWELL: Duration = Duration::from_secs(2);

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            maximum_message_bytes: 32 << 20,
            maximum_connections: 1024,
            maximum_streams: 256,
            handshake_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            upload_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why a server stopped other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors compiled into the daemon cannot be read.
    #[error("reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// All services of the daemon, ready to be served.
#[derive(Debug)]
pub struct Server {
    routes: Routes,
    options: ServerOptions,
    drain: DrainHandle,
}

/// Tells a server to stop taking work.
#[derive(Clone, Debug)]
pub struct DrainHandle {
    health: HealthReporter,
    draining: Arc<watch::Sender<bool>>,
}

impl DrainHandle {
    /// From now on health answers `NOT_SERVING`, streams read no more items and end once what they
    /// read is answered, and no new connection is accepted. Unary calls that run finish.
    pub async fn drain(&self) {
        self.health.set_service_status("", ServingStatus::NotServing).await;
        for service in SERVICES {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        self.draining.send_replace(true);
    }
}

/// Services that health tells of by name, besides the empty name for all.
const SERVICES: [&str; 8] = [
    "graft.v1.InferenceService",
    "graft.v1.ExplanationService",
    "graft.v1.SampleService",
    "graft.v1.TrainingService",
    "graft.v1.HeadService",
    "graft.v1.BackboneService",
    "graft.v1.DeviceService",
    "inference.GRPCInferenceService",
];

/// A service with the server's message limits.
macro_rules! limited {
    ($server:ident, $service:expr, $options:expr) => {
        $server::new($service)
            .max_decoding_message_size($options.maximum_message_bytes)
            .max_encoding_message_size($options.maximum_message_bytes)
    };
}

impl Server {
    /// Assembles the services around what the device knows and learns and the keeper of its
    /// backbones.
    ///
    /// # Errors
    /// Where the descriptors compiled into the daemon cannot be read.
    pub async fn new(
        learning: Arc<Learning>,
        keeper: BackboneKeeper,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let (draining_sender, draining) = watch::channel(false);
        let (health, health_service) = health_reporter();
        for service in SERVICES {
            health.set_service_status(service, ServingStatus::Serving).await;
        }
        let shared = Shared {
            engine: Arc::clone(learning.engine()),
            keeper: Arc::new(keeper),
            learning,
            meter: Arc::new(Meter::default()),
            draining,
            maximum_message_bytes: options.maximum_message_bytes,
            room: Room::new(STREAMED_BYTES),
            upload_timeout: options.upload_timeout,
        };
        let routes = Routes::new(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(limited!(InferenceServiceServer, Inference::new(shared.clone()), options))
            .add_service(limited!(
                BackboneServiceServer,
                BackboneManager::new(shared.clone()),
                options
            ))
            .add_service(limited!(DeviceServiceServer, Device::new(shared.clone()), options))
            .add_service(limited!(
                ExplanationServiceServer,
                Explanations::new(shared.clone()),
                options
            ))
            .add_service(limited!(SampleServiceServer, Samples::new(shared.clone()), options))
            .add_service(limited!(TrainingServiceServer, Training::new(shared.clone()), options))
            .add_service(limited!(HeadServiceServer, Heads::new(shared.clone()), options))
            .add_service(limited!(
                GrpcInferenceServiceServer,
                OpenInference::new(shared.clone()),
                options
            ));
        let drain = DrainHandle { health, draining: Arc::new(draining_sender) };
        Ok(Self { routes, options, drain })
    }

    /// The handle by which this server is told to stop.
    pub fn drain_handle(&self) -> DrainHandle {
        self.drain.clone()
    }

    /// Serves `listener` until `shutdown` is ready, then drains: returns once every call has ended and
    /// clients had two seconds to close their connections, but not later than
    /// [`ServerOptions::drain`].
    ///
    /// # Errors
    /// Where the transport fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let Self { routes, options, drain } = self;
        let limit = options.maximum_message_bytes;
        let incoming =
            connections(listener, options.maximum_connections, options.handshake_timeout);
        let calls = Calls::default();
        let (draining, drains) = oneshot::channel();
        let served = tonic::transport::Server::builder()
            .max_concurrent_streams(options.maximum_streams)
            .http2_keepalive_interval(Some(options.keepalive_interval))
            .http2_keepalive_timeout(Some(options.keepalive_timeout))
            // A photograph is larger than HTTP/2's default window of 64 KiB.
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .layer(calls.clone())
            .layer(MapResponseLayer::new(move |response| tonic_status::translate(response, limit)))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move {
                shutdown.await;
                drain.drain().await;
                // Nobody listens where all has ended already.
                let _ = draining.send(());
            });
        let drained = async move {
            match drains.await {
                Ok(()) => drained(&calls, options.drain).await,
                // The server has failed, which `served` tells.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            served = served => served?,
            () = drained => {}
        }
        Ok(())
    }
}

/// Waits until no call runs, for at most `patience`, and says what is cut off.
async fn drained(calls: &Calls, patience: Duration) {
    let in_time = tokio::time::timeout(patience, calls.quiet_for(FAREWELL)).await.is_ok();
    let running = calls.count();
    if in_time || running == 0 {
        tracing::info!("all calls have ended; connections that clients left open are closed");
    } else {
        let seconds = patience.as_secs();
        tracing::warn!(
            calls = running,
            "calls still run {seconds} s (server.drain_seconds) after the order to stop: they are \
             cut off"
        );
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl can show the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
