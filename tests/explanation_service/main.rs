//! `ExplanationService` over real gRPC, on the tiny networks.

#[path = "../common/mod.rs"]
mod common;

mod audit;
mod explain;
mod leaving;
