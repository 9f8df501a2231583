//! Loops of our own for the operators that tract runs slowly, and their way into its graph.
//!
//! `processor` compiles a kernel for the widest vector instructions that the processor has;
//! `window` makes what a sliding window reads consecutive in memory; `convolution`, `max_pool`
//! and `lrn` are the kernels, free functions over slices; `operators` are their adapters to tract, and
//! `install` puts these into a graph before tract optimises the rest of it.
//!
//! This is the only place in graftd where `unsafe` may stand, each block with its reason.

mod convolution;
mod install;
mod lrn;
mod max_pool;
mod operators;
mod processor;
mod window;

pub(super) use install::install;
