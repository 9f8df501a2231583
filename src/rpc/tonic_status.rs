//! Statuses that tonic answers by itself, before a service is asked, said as the contract wants.

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;

use super::status::{deadline_passed, name_the_limit};

/// Rewrites the status of a response that tonic made itself: a message over `limit` bytes names the
/// configuration key, and a deadline that passed is `DEADLINE_EXCEEDED`.
pub fn translate(response: Response<Body>, limit: usize) -> Response<Body> {
    // Only a call that failed before its first message has the status in its headers.
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    match deadline_passed(&status).or_else(|| name_the_limit(&status, limit)) {
        Some(translated) => translated.into_http(),
        None => response,
    }
}
