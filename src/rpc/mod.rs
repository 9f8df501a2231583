//! The daemon's edge: protobuf in, protobuf out.
//!
//! A request goes through `services` (thin), `convert` (generated types end there), the engine, and
//! back; whatever fails is an `error` and becomes a status in `status`, in one place. `open_inference`
//! is the same for the Open Inference Protocol.

mod answer_size;
mod calls;
mod convert;
mod deadline;
mod error;
mod item_stream;
mod listener;
mod meter;
mod open_inference;
mod resolve;
mod server;
mod services;
mod status;
mod tonic_status;

pub use listener::bind;
pub use server::{DrainHandle, Server, ServerError, ServerOptions};
pub use status::failure;
