//! Who answers a request, found without a thread that serves connections waiting for the disk.

use std::sync::Arc;

use super::error::RpcError;
use super::services::blocking;
use crate::engine::{Answerer, Snapshot, Target};

/// As [`Snapshot::resolve`]. A version of a head that is not in memory is read where waiting is
/// allowed: it may have hundreds of megabytes.
///
/// # Errors
/// As [`Snapshot::resolve`].
pub async fn resolve(snapshot: Arc<Snapshot>, target: &Target) -> Result<Answerer, RpcError> {
    if snapshot.is_in_memory(target) {
        return Ok(snapshot.resolve(target)?);
    }
    let target = target.clone();
    blocking(move || Ok(snapshot.resolve(&target)?)).await
}
