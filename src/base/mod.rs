//! Small change that every layer needs: names, labels, digests, the clock, cancellation, durable files,
//! memory.

pub mod atomic;
pub mod cancel;
pub mod clock;
pub mod digest;
pub mod host;
pub mod label;
pub mod lru;
#[cfg(feature = "daemon")]
pub mod memory;
pub mod name;
