//! The services of `graft.v1`, each thin: convert, ask the engine, convert back.

mod audit;
mod backbone;
mod blocking;
mod device;
mod explanation;
mod head;
mod inference;
mod sample;
mod training;
mod upload;

pub use backbone::BackboneManager;
pub use blocking::blocking;
pub use device::Device;
pub use explanation::Explanations;
pub use head::Heads;
pub use inference::Inference;
pub use sample::Samples;
pub use training::Training;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::item_stream::Room;
use super::meter::Meter;
use crate::engine::learning::Learning;
use crate::engine::{BackboneKeeper, Engine};

/// What all services share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What answers.
    pub engine: Arc<Engine>,
    /// The backbones on the device.
    pub keeper: Arc<BackboneKeeper>,
    /// What learns.
    pub learning: Arc<Learning>,
    /// What was answered.
    pub meter: Arc<Meter>,
    /// Becomes true when the daemon stops.
    pub draining: watch::Receiver<bool>,
    /// Bytes a message.
    pub maximum_message_bytes: usize,
    /// Bytes that the items of all streams hold together.
    pub room: Room,
    /// How long the sender of a backbone or a head may be silent.
    pub upload_timeout: Duration,
}
