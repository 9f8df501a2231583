//! A device learns over a real connection: samples in, a head live, rolled back, restarted.

#![cfg(feature = "daemon")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod colours;
mod following;
mod jobs;
mod poison;
mod samples;
mod training;
