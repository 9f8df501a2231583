//! graftd keeps a pretrained image network on a small device, teaches it new classes from labelled
//! photographs, and answers over gRPC what is in a picture, how sure it is, and where it looked.
//!
//! The modules are layers: each may import only from those listed below it. `tests/layers.rs`
//! reads the `use` lines and fails on an upward import.

// Of the daemon's code, not of its tests.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used))]

#[cfg(feature = "daemon")]
pub mod app;
#[cfg(feature = "daemon")]
pub mod cli;
pub mod client;
pub mod ctl;
pub mod proto;
#[cfg(feature = "daemon")]
pub mod rpc;
pub mod terminal;

#[cfg(feature = "daemon")]
pub mod backbones;
pub mod base;
#[cfg(feature = "daemon")]
pub mod engine;
#[cfg(feature = "daemon")]
pub mod explain;
#[cfg(feature = "daemon")]
pub mod grad;
#[cfg(feature = "daemon")]
pub mod graph;
#[cfg(feature = "daemon")]
pub mod heads;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod train;
#[cfg(feature = "daemon")]
pub mod vision;
