//! The daemon as a whole: its configuration, how it is put together, run and drained.

mod config;
mod daemon;
mod device;
mod error;
mod keys;

pub use config::{Config, ConfigSource, Mistake};
pub use daemon::{Daemon, Stop};
pub use device::{load_backbone, load_backbones, state_dir};
pub use error::AppError;
pub use keys::{KEYS, Key, Kind, default_toml};
