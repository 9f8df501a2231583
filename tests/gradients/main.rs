//! Proof of the gradient rules: every row of [`rows`] passes an inner-product check and central differences
//! in f64 and agrees with tract's own operator in f32, and every operator of every network at hand
//! has a row.
//!
//! `cargo test --test gradients -- --nocapture` prints the table.

#[path = "../common/mod.rs"]
mod common;

mod autograd;
mod check;
mod conventions;
mod coverage;
mod end_to_end;
mod flat;
mod halves;
mod rows;
mod standing;
