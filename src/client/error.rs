//! What can go wrong between a client and a device.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::graft::Failure;

/// Why a call, or one item of a stream, failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What went wrong and what to do next.
    pub message: String,
    /// The path of the request's field at fault, for example `image.raw.width`; else empty.
    pub field: String,
    /// The device's stable name for the reason, for example `QUEUE_FULL`; else empty.
    pub reason: String,
    /// When the device says that trying again makes sense.
    pub retry_after: Option<Duration>,
}

/// The kinds of failure, one for each gRPC status code that the daemon uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A field of the request is not as it must be.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// What the request would make exists already.
    AlreadyExists,
    /// The device is not in the state that the request needs.
    FailedPrecondition,
    /// The queue is full or a quota is reached: try again after [`ClientError::retry_after`].
    ResourceExhausted,
    /// The deadline passed.
    DeadlineExceeded,
    /// The call was cancelled.
    Cancelled,
    /// The device cannot be reached, drains, or has not loaded what is needed.
    Unavailable,
    /// The device cannot do this, for example for want of an operator.
    Unimplemented,
    /// The caller has not said who it is.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// Stored data is damaged.
    DataLoss,
    /// A fault of the daemon's; its log explains the id in the message.
    Internal,
    /// Any other code.
    Unknown,
}

impl ErrorKind {
    /// The gRPC status code's name, for example `INVALID_ARGUMENT`.
    pub fn code_name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Cancelled => "CANCELLED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::DataLoss => "DATA_LOSS",
            Self::Internal => "INTERNAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code_name())
    }
}

impl From<Code> for ErrorKind {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition | Code::Aborted => Self::FailedPrecondition,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            Code::Unavailable => Self::Unavailable,
            Code::Unimplemented => Self::Unimplemented,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::DataLoss => Self::DataLoss,
            Code::Internal => Self::Internal,
            Code::Ok | Code::Unknown => Self::Unknown,
        }
    }
}

impl ClientError {
    /// A failure on the client's side.
    pub(crate) fn local(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: String::new(),
            reason: String::new(),
            retry_after: None,
        }
    }

    /// The device could not be reached at `target`.
    pub(crate) fn unreachable(target: &str, cause: &dyn std::error::Error) -> Self {
        let cause = innermost(cause);
        let message = format!(
            "cannot reach a graftd daemon at {target}: {cause}; start one with `graftd serve`, or \
             name another address with --target"
        );
        Self::local(ErrorKind::Unavailable, message)
    }

    /// Whether the same call may succeed when it is simply made again later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind, ErrorKind::ResourceExhausted | ErrorKind::Unavailable)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let field = details
            .bad_request()
            .and_then(|bad| bad.field_violations.first())
            .map(|violation| violation.field.clone());
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        let reason = details.error_info().map(|info| info.reason.clone());
        // tonic gives up by itself at the deadline, before the device's answer comes, and calls that
        // CANCELLED.
        let expired = status.code() == Code::Cancelled && status.message() == "Timeout expired";
        let (kind, message) = if expired {
            (ErrorKind::DeadlineExceeded, status.message().to_owned())
        } else if broke_off(&status) {
            let source = std::error::Error::source(&status);
            let cause = source.map_or_else(|| status.message().to_owned(), innermost);
            (ErrorKind::Unavailable, format!("the connection to the device broke ({cause})"))
        } else {
            (status.code().into(), status.message().to_owned())
        };
        Self {
            kind,
            message,
            field: field.unwrap_or_default(),
            reason: reason.unwrap_or_default(),
            retry_after,
        }
    }
}

/// The innermost cause, which is the one that helps: "connection refused".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether tonic made the status itself because a connection ended under a call, which it calls UNKNOWN,
/// CANCELLED or INTERNAL. A device always adds details to these.
fn broke_off(status: &Status) -> bool {
    let code = status.code();
    let by_transport = status.message().starts_with("h2 protocol error");
    status.details().is_empty()
        && (matches!(code, Code::Unknown | Code::Cancelled)
            || (code == Code::Internal && by_transport))
}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        Self {
            kind: Code::from(failure.code).into(),
            message: failure.message,
            field: failure.field,
            reason: failure.reason,
            retry_after: (failure.retry_after_ms > 0)
                .then(|| Duration::from_millis(failure.retry_after_ms.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_status_keeps_its_field_reason_and_retry_time() {
        let mut details = ErrorDetails::with_bad_request_violation("image.raw.width", "is 0");
        details.set_retry_info(Some(Duration::from_millis(70)));
        details.set_error_info("QUEUE_FULL", "graftd", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let error = ClientError::from(status);
        assert_eq!(error.kind, ErrorKind::ResourceExhausted);
        assert_eq!(error.to_string(), "busy");
        assert_eq!(error.field, "image.raw.width");
        assert_eq!(error.reason, "QUEUE_FULL");
        assert_eq!(error.retry_after, Some(Duration::from_millis(70)));
        assert!(error.is_temporary());
    }

    #[test]
    fn a_broken_connection_is_temporary_and_a_fault_of_the_device_is_not() {
        let broken = [
            Status::unknown("h2 protocol error: error reading a body from connection"),
            Status::internal("h2 protocol error: stream no longer needed"),
            Status::cancelled("operation was canceled"),
        ];
        for status in broken {
            let error = ClientError::from(status);
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(error.is_temporary() && error.message.contains("broke"), "{error}");
        }
        let facts = std::collections::HashMap::new();
        let details = ErrorDetails::with_error_info("FAULT", "graftd", facts);
        let fault = Status::with_error_details(Code::Internal, "a fault, id 7", details);
        assert_eq!(ClientError::from(fault).kind, ErrorKind::Internal);
    }

    #[test]
    fn a_failure_of_a_stream_item_reads_as_the_same_error_as_a_failed_call() {
        let failure = Failure { code: 5, message: "no head `x`".into(), ..Failure::default() };
        let error = ClientError::from(failure);
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.kind.to_string(), "NOT_FOUND");
        assert_eq!(error.retry_after, None);
        assert!(!error.is_temporary());
    }
}
