//! Work that waits for the disk, away from the threads that serve connections.

use crate::engine::EngineError;
use crate::rpc::error::RpcError;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; a panic in it is a fault of ours.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(EngineError::Fault(error.to_string()).into()),
    }
}
