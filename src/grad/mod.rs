//! Reverse-mode derivatives of a tract graph.
//!
//! [`Reverse`] is compiled once for "from this outlet to those outlets" and then run for every
//! picture on forward values that an optimised plan has computed. What each operator's derivative
//! is stands in one closed `table`, one file per family under [`rules`]. `docs/gradients.md`
//! explains the conventions and how a rule is added.

mod error;
mod forward;
mod real;
mod reverse;
mod rule;
pub mod rules;
mod table;
mod tail;
mod walk;
mod weights;

pub use error::GradError;
pub use forward::evaluate;
pub use real::Real;
pub use reverse::Reverse;
pub use rule::{Kernel, Needs, Rule, Site, Unsupported, Values};
pub use table::{Entry, State, TABLE, operator_of};
pub use tail::Tail;
pub use weights::{Weight, replace_weight, weight_values, weights};
