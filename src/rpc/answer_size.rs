//! Answers that are larger than a message may be, refused before tonic meets them: it would end a whole
//! stream for one of its items, and name no key.

use prost::Message;

use super::error::RpcError;

/// Refuses an answer of more than `limit` bytes.
///
/// # Errors
/// [`RpcError::AnswerTooLarge`].
pub fn check(answer: &impl Message, limit: usize) -> Result<(), RpcError> {
    let bytes = answer.encoded_len();
    if bytes > limit { Err(RpcError::AnswerTooLarge { bytes, limit }) } else { Ok(()) }
}
