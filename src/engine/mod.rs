//! What is loaded and live: the registry's snapshot, the workers and their queue, and the way of an
//! image through them.

mod draw;
mod error;
mod explain;
mod keeper;
pub mod learning;
mod live;
mod pool;
mod predict;
mod registry;
mod service;

pub use draw::{Drawing, Drawn, Overlay, PhotographMap};
pub use error::EngineError;
pub use explain::{Beside, ExplainOptions, Explained};
pub use keeper::{BackboneKeeper, KeeperError, KeptBackbone};
pub use live::{Answerer, Forward, HeadHandle, HeadSource, LiveBackbone, LiveHead, Origin};
pub use pool::{Pool, PoolOptions, PoolStatistics, Priority, Ticket};
use predict::judge;
pub use predict::{Answer, Prediction, Prepared, Subject, Timings, classify, prepare};
pub use registry::{HeadVersions, Registry, Snapshot, Target};
pub use service::{Embedded, Engine, EngineOptions};
