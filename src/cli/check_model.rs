//! `graftd check-model`: the child process that tries a model; see [`crate::backbones::Checker`].

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::backbones::check_here;
use crate::terminal::print;

/// Load and run a model once, within limits, and print the verdict as JSON.
#[derive(Args, Debug)]
pub(crate) struct CheckModel {
    /// The ONNX file.
    file: PathBuf,
    /// Side of the square input, where the file leaves it open.
    #[arg(long)]
    size: Option<u32>,
    /// Overrides of tensor names, as JSON.
    #[arg(long, default_value = "{}")]
    tensors: String,
    /// Most address space, in bytes.
    #[arg(long)]
    memory_bytes: u64,
    /// Most processor time.
    #[arg(long)]
    cpu_seconds: u64,
}

impl CheckModel {
    /// Runs the command.
    pub(crate) fn run(&self) -> Outcome {
        let Self { file, size, tensors, memory_bytes, cpu_seconds } = self;
        let (line, outcome) = match check_here(file, *size, tensors, *memory_bytes, *cpu_seconds) {
            Ok(line) => (line, Outcome::Complete),
            Err(line) => (line, Outcome::SomeFailed),
        };
        print::line(&line);
        outcome
    }
}
