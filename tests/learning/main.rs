//! A device learns over a real connection: samples in, a head live, rolled back, restarted.

#![cfg(feature = "daemon")]

#[path = "../common/mod.rs"]
mod common;

#[allow(unsafe_code, reason = "a virtual file system of SQLite is a table of C functions")]
#[path = "../medium/mod.rs"]
mod medium;
#[path = "../common/program.rs"]
mod program;

mod bad_input;
mod capture;
mod colours;
mod commands;
mod disk;
mod following;
mod graftctl;
mod import;
mod jobs;
mod open_inference;
mod poison;
mod push;
mod samples;
mod training;
