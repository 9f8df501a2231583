//! Loops of our own for the operators that tract runs slowly, and their way into its graph.
//!
//! `processor` compiles a kernel for the widest vector instructions that the processor has;
//! `window` makes what a sliding window reads consecutive in memory; `convolution`, `max_pool`
//! and `lrn` are the kernels, free functions over slices; `operators` are their adapters to tract, and
//! `install` puts these into a graph before tract optimises the rest of it.
//!
//! `unsafe` may stand here, each block with its reason, and nowhere else but in `base/memory.rs`.

// Only what is inlined is compiled for a processor's widest instructions.
#![allow(clippy::inline_always)]
// tract's macros for operators expect all of its `internal` names.
#![allow(clippy::wildcard_imports)]

mod convolution;
mod install;
mod lrn;
mod max_pool;
mod operators;
mod processor;
mod window;

pub(super) use install::install;
