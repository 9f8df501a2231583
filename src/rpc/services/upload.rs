//! Files that clients stream in: a few at a time, and none that holds its place without sending.

use std::time::{Duration, Instant};

use tonic::{Status, Streaming};

use super::Shared;
use crate::rpc::error::RpcError;
use crate::rpc::status::name_the_limit;

/// Bytes a second that a sender brings at least, on average beyond its first minute. The largest model
/// takes 18 hours at that rate.
const LEAST_RATE: u32 = 16 << 10;

/// The messages of an upload as they come.
#[derive(Debug)]
pub struct Upload<T> {
    messages: Streaming<T>,
    /// How long the sender may be silent.
    patience: Duration,
    /// How long it may still be waited for in all.
    credit: Duration,
    maximum_message_bytes: usize,
}

impl<T> Upload<T> {
    /// Reads `messages` with the patience of `shared`.
    pub fn new(messages: Streaming<T>, shared: &Shared) -> Self {
        let Shared { maximum_message_bytes, upload_timeout: patience, .. } = *shared;
        Self { messages, patience, credit: patience * 2, maximum_message_bytes }
    }

    /// The next message; `None` at the end. No thread waits for it.
    ///
    /// # Errors
    /// A sender that is silent or too slow, a message over the limit, or a broken connection.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        let began = Instant::now();
        let wait = self.patience.min(self.credit);
        let message = tokio::time::timeout(wait, self.messages.message()).await;
        self.credit = self.credit.saturating_sub(began.elapsed());
        let message = message.map_err(|_| {
            if wait < self.patience {
                RpcError::Slow(LEAST_RATE)
            } else {
                RpcError::Silent(self.patience)
            }
        })?;
        let limit = self.maximum_message_bytes;
        message.map_err(|error| name_the_limit(&error, limit).unwrap_or(error))
    }

    /// Says that `bytes` of the file came: so much longer is its rest waited for.
    pub fn came(&mut self, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / f64::from(LEAST_RATE));
        self.credit = self.credit.saturating_add(earned);
    }
}
