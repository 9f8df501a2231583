//! From errors to gRPC statuses: the one place that chooses codes.
//!
//! The caller gets what it needs to do better: the field at fault, when to try again, a stable name
//! for the reason. What only we can put right goes to the log under an id that the caller is told.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::error::{Place, RpcError};
use crate::backbones::{BackboneError, LabelError};
use crate::engine::learning::LearningError;
use crate::engine::{EngineError, KeeperError};
use crate::explain::ExplainError;
use crate::grad::GradError;
use crate::graph::GraphError;
use crate::heads::HeadError;
use crate::proto::graft::Failure;
use crate::store::StoreError;
use crate::vision::VisionError;

/// The domain of the reasons in google.rpc.ErrorInfo.
const DOMAIN: &str = "graftd";
/// After this time a full queue has moved on: some ten images of a small network.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Room that a job or a person has to make takes longer.
const RETRY_JOB_AFTER: Duration = Duration::from_secs(10);

/// The configuration key of the largest message.
const LIMIT_KEY: &str = "server.max_message_mib";
/// The reason where one is larger. No time to try again goes with it: waiting does not help.
const MESSAGE_SIZE: &str = "MESSAGE_SIZE";

/// All that is told to the caller.
struct Problem {
    code: Code,
    /// Stable, upper case.
    reason: &'static str,
    message: String,
    field: String,
    retry_after: Option<Duration>,
    error_id: String,
}

impl Problem {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            field: String::new(),
            retry_after: None,
            error_id: String::new(),
        }
    }

    fn at(mut self, field: &str) -> Self {
        field.clone_into(&mut self.field);
        self
    }

    /// A fault of ours: the details go to the log.
    fn fault(detail: &dyn std::fmt::Display) -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        tracing::error!(error_id = %id, "{detail}");
        let message = format!("internal error; the daemon's log explains it under {id}");
        Self { error_id: id, ..Self::new(Code::Internal, "INTERNAL", message) }
    }
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Field(error) => {
                Self::new(Code::InvalidArgument, "FIELD", error.to_string()).at(error.path())
            }
            RpcError::Engine(error, place) => of_engine(error, &place),
            RpcError::Keeper(error) => of_keeper(error),
            RpcError::Learning(error, place) => of_learning(error, &place),
            RpcError::TooManyUploads(what, most) => {
                let message = format!("{most} {what} are being uploaded already; try again later");
                Self {
                    retry_after: Some(RETRY_JOB_AFTER),
                    ..Self::new(Code::ResourceExhausted, "TOO_MANY_UPLOADS", message)
                }
            }
            RpcError::Silent(patience) => {
                let message = format!("nothing came for {patience:?}; send the file again");
                Self::new(Code::DeadlineExceeded, "SILENT", message)
            }
            RpcError::Slow(rate) => {
                let message = format!(
                    "the file came at fewer than {rate} bytes a second; send it again over a \
                     faster connection"
                );
                Self::new(Code::DeadlineExceeded, "SLOW", message)
            }
            RpcError::AnswerTooLarge { bytes, limit } => {
                let message = format!(
                    "the answer has {bytes} bytes, more than {limit}: ask for less, such as an overlay \
                     with a smaller longest_side and no photograph_map, or raise the configuration \
                     key {LIMIT_KEY}"
                );
                Self::new(Code::ResourceExhausted, MESSAGE_SIZE, message)
            }
            RpcError::NotYet(what) => {
                let message = format!("this version of graftd does not {what} yet");
                Self::new(Code::Unimplemented, "NOT_YET", message)
            }
        }
    }
}

fn of_engine(error: EngineError, place: &Place) -> Problem {
    let text = error.to_string();
    match error {
        EngineError::Picture(error) => of_vision(&error, &place.picture()),
        // Only explanations look for tensors by names that a caller gave.
        EngineError::Graph(error @ GraphError::UnknownTensor(_)) => {
            of_graph(&error).at(&place.option("layers"))
        }
        EngineError::Graph(error) => of_graph(&error),
        EngineError::Head(error) => of_head(&error),
        EngineError::Label(error) => of_label(&error),
        EngineError::Explain(error) => of_explain(&error, place),
        EngineError::HeadFile { .. } => Problem::new(Code::DataLoss, "CORRUPT", text),
        EngineError::Unknown { .. } => Problem::new(Code::NotFound, "UNKNOWN_NAME", text),
        EngineError::NoLiveVersion { .. } => {
            Problem::new(Code::FailedPrecondition, "NO_LIVE_VERSION", text)
        }
        EngineError::NotLoaded(_) => Problem::new(Code::Unavailable, "NOT_LOADED", text),
        EngineError::NothingLoaded => Problem::new(Code::Unavailable, "NOTHING_LOADED", text),
        EngineError::NoClassifier(_) => {
            Problem::new(Code::FailedPrecondition, "NO_CLASSIFIER", text)
        }
        EngineError::OtherBackbone { .. } => {
            Problem::new(Code::FailedPrecondition, "OTHER_BACKBONE", text)
        }
        EngineError::QueueFull { .. } => Problem {
            retry_after: Some(RETRY_AFTER),
            ..Problem::new(Code::ResourceExhausted, "QUEUE_FULL", text)
        },
        EngineError::Draining => Problem::new(Code::Unavailable, "DRAINING", text),
        EngineError::DeadlineExceeded => Problem::new(Code::DeadlineExceeded, "DEADLINE", text),
        EngineError::Cancelled => Problem::new(Code::Cancelled, "CANCELLED", text),
        EngineError::Fault(detail) => Problem::fault(&detail),
    }
}

fn of_keeper(error: KeeperError) -> Problem {
    let text = error.to_string();
    match error {
        KeeperError::Backbone(error) => of_backbone(&error),
        KeeperError::BuiltIn => Problem::new(Code::FailedPrecondition, "BUILT_IN", text),
        KeeperError::InUse { .. } => Problem::new(Code::FailedPrecondition, "IN_USE", text),
    }
}

fn of_backbone(error: &BackboneError) -> Problem {
    let text = error.to_string();
    match error {
        BackboneError::Unknown(_) | BackboneError::NotInCatalog(_) => {
            Problem::new(Code::NotFound, "UNKNOWN_NAME", text)
        }
        BackboneError::Exists(_) => Problem::new(Code::AlreadyExists, "EXISTS", text),
        BackboneError::Manifest { .. } => Problem::new(Code::FailedPrecondition, "MANIFEST", text),
        BackboneError::TooLarge { .. } => Problem::new(Code::InvalidArgument, "MODEL_SIZE", text),
        BackboneError::Digest { .. } => {
            Problem::new(Code::InvalidArgument, "DIGEST", text).at("manifest.sha256")
        }
        BackboneError::Size { .. } => {
            Problem::new(Code::InvalidArgument, "MODEL_SIZE", text).at("manifest.size_bytes")
        }
        BackboneError::DiskFull => Problem {
            retry_after: Some(RETRY_JOB_AFTER),
            ..Problem::new(Code::ResourceExhausted, "DISK_FULL", text)
        },
        BackboneError::Refused(_) => Problem::new(Code::InvalidArgument, "NETWORK", text),
        BackboneError::Mismatch(_) => {
            Problem::new(Code::InvalidArgument, "MISMATCH", text).at("manifest")
        }
        BackboneError::Download(_) => Problem::new(Code::Unavailable, "DOWNLOAD", text),
        BackboneError::Cancelled => Problem::new(Code::Cancelled, "CANCELLED", text),
        BackboneError::Preprocessing(error) => of_vision(error, "image"),
        BackboneError::Graph(error) => of_graph(error),
        BackboneError::Trial(_) | BackboneError::Io { .. } => Problem::fault(&text),
    }
}

fn of_learning(error: LearningError, place: &Place) -> Problem {
    let text = error.to_string();
    match error {
        LearningError::Store(error) => of_store(&error, place),
        LearningError::Engine(error) => of_engine(error, place),
        LearningError::Train(_) => Problem::new(Code::FailedPrecondition, "TRAINING", text),
        LearningError::Head(error) => of_head(&error),
        LearningError::Export(_) => Problem::new(Code::FailedPrecondition, "EXPORT", text),
        LearningError::Name(_) => Problem::new(Code::InvalidArgument, "FIELD", text),
        LearningError::JobQueueFull { .. } => Problem {
            retry_after: Some(RETRY_JOB_AFTER),
            ..Problem::new(Code::ResourceExhausted, "JOB_QUEUE_FULL", text)
        },
        LearningError::JobNotEnded(_) => {
            Problem::new(Code::FailedPrecondition, "JOB_NOT_ENDED", text)
        }
        LearningError::TooManyFollow { .. } => {
            Problem::new(Code::ResourceExhausted, "TOO_MANY_FOLLOW", text)
        }
        LearningError::Examining => Problem {
            retry_after: Some(RETRY_JOB_AFTER),
            ..Problem::new(Code::ResourceExhausted, "EXAMINING", text)
        },
        LearningError::ForeignHead { .. } => {
            Problem::new(Code::FailedPrecondition, "OTHER_BACKBONE", text)
        }
        LearningError::NoSamples(_) => Problem::new(Code::FailedPrecondition, "NO_SAMPLES", text),
        LearningError::Record(_) => Problem::new(Code::DataLoss, "CORRUPT", text),
        LearningError::Thread(_) => Problem::fault(&text),
    }
}

fn of_store(error: &StoreError, place: &Place) -> Problem {
    let problem = |code, reason| Problem::new(code, reason, error.to_string());
    match error {
        StoreError::Invalid { field, .. } => {
            problem(Code::InvalidArgument, "FIELD").at(&place.field(field))
        }
        StoreError::UnknownDataset(_)
        | StoreError::UnknownSample { .. }
        | StoreError::UnknownHead(_)
        | StoreError::UnknownHeadVersion { .. }
        | StoreError::UnknownJob(_) => problem(Code::NotFound, "UNKNOWN_NAME"),
        StoreError::DatasetExists(_) => problem(Code::AlreadyExists, "DATASET_EXISTS"),
        StoreError::SampleConflict { .. } => problem(Code::AlreadyExists, "SAMPLE_CONFLICT"),
        StoreError::QuotaExceeded { .. } => Problem {
            retry_after: Some(RETRY_JOB_AFTER),
            ..problem(Code::ResourceExhausted, "QUOTA")
        },
        StoreError::DiskFull => Problem {
            retry_after: Some(RETRY_JOB_AFTER),
            ..problem(Code::ResourceExhausted, "DISK_FULL")
        },
        StoreError::HeadVersionActive { .. } => {
            problem(Code::FailedPrecondition, "HEAD_VERSION_ACTIVE")
        }
        StoreError::NothingToRollBack(_) => {
            problem(Code::FailedPrecondition, "NOTHING_TO_ROLL_BACK")
        }
        StoreError::Medium(_)
        | StoreError::ReadOnly(_)
        | StoreError::Locked { .. }
        | StoreError::NoState { .. }
        | StoreError::NewerSchema { .. } => problem(Code::FailedPrecondition, "STATE_FOLDER"),
        StoreError::Corrupt(_) => problem(Code::DataLoss, "CORRUPT"),
        StoreError::Closed => problem(Code::Unavailable, "DRAINING"),
        StoreError::Io { .. } | StoreError::Database(_) => Problem::fault(error),
    }
}

fn of_vision(error: &VisionError, picture: &str) -> Problem {
    let refused_at = |field: &str, reason| {
        Problem::new(Code::InvalidArgument, reason, format!("{field}: {error}")).at(field)
    };
    let refused = |reason| refused_at(picture, reason);
    match error {
        VisionError::Empty | VisionError::UnknownFormat | VisionError::Unsupported { .. } => {
            refused("IMAGE_FORMAT")
        }
        VisionError::TooManyBytes { .. }
        | VisionError::TooManyPixels { .. }
        | VisionError::TooLong { .. }
        | VisionError::TooMuchMemory { .. }
        | VisionError::NoPixels { .. } => refused("IMAGE_SIZE"),
        VisionError::Truncated { .. }
        | VisionError::Malformed { .. }
        | VisionError::DecoderPanicked { .. } => refused("IMAGE_DAMAGED"),
        VisionError::FrameStride { .. } => {
            refused_at(&format!("{picture}.raw.stride"), "RAW_FRAME")
        }
        VisionError::FrameSize { .. } => refused_at(&format!("{picture}.raw.data"), "RAW_FRAME"),
        VisionError::Preprocessing { field, .. } => {
            Problem::new(Code::InvalidArgument, "PREPROCESSING", error.to_string())
                .at(&format!("preprocessing.{field}"))
        }
        VisionError::PictureSize { .. }
        | VisionError::TensorSize { .. }
        | VisionError::HeatMapSize { .. }
        | VisionError::Resize(_)
        | VisionError::Encode { .. } => Problem::fault(error),
    }
}

fn of_graph(error: &GraphError) -> Problem {
    match error {
        GraphError::Malformed(_)
        | GraphError::ExternalData(_)
        | GraphError::NotFinite(_)
        | GraphError::NotAWaist(_)
        | GraphError::Input { .. } => {
            Problem::new(Code::InvalidArgument, "NETWORK", error.to_string())
        }
        GraphError::OutputNotFinite(_) => {
            Problem::new(Code::FailedPrecondition, "NOT_FINITE", error.to_string())
        }
        GraphError::Changed { .. } => Problem::new(Code::DataLoss, "CORRUPT", error.to_string()),
        GraphError::UnsupportedOperator { .. } => {
            Problem::new(Code::Unimplemented, "OPERATOR", error.to_string())
        }
        GraphError::UnknownTensor(_) => {
            Problem::new(Code::NotFound, "UNKNOWN_LAYER", error.to_string())
        }
        GraphError::InputLength { .. } => {
            Problem::new(Code::InvalidArgument, "INPUT_LENGTH", error.to_string())
        }
        GraphError::Engine { .. } => Problem::fault(error),
    }
}

fn of_head(error: &HeadError) -> Problem {
    match error {
        HeadError::Width { .. } => {
            Problem::new(Code::FailedPrecondition, "OTHER_BACKBONE", error.to_string())
        }
        HeadError::NotFinite { .. } => {
            Problem::new(Code::FailedPrecondition, "NOT_FINITE", error.to_string())
        }
        HeadError::Label { .. } => Problem::new(Code::InvalidArgument, "LABEL", error.to_string()),
        HeadError::Format(_) => Problem::new(Code::InvalidArgument, "HEAD_FILE", error.to_string()),
        HeadError::Classes { .. } | HeadError::Inconsistent(_) => Problem::fault(error),
    }
}

fn of_explain(error: &ExplainError, place: &Place) -> Problem {
    let text = error.to_string();
    let refused = |reason, field: &str| {
        Problem::new(Code::InvalidArgument, reason, text.as_str()).at(&place.option(field))
    };
    match error {
        ExplainError::BadClass(_)
        | ExplainError::ClassRange { .. }
        | ExplainError::UnknownLabel(_)
        | ExplainError::AmbiguousLabel { .. } => refused("CLASS", "class"),
        ExplainError::NotSpatial { .. } => refused("NOT_SPATIAL", "layers"),
        ExplainError::Behind { .. } => refused("NOT_ON_THE_WAY", "layers"),
        ExplainError::Range { field, .. } => refused("RANGE", field),
        ExplainError::Unsuitable { field, .. } => refused("UNSUITABLE", field),
        ExplainError::NoSpatialLayer => {
            Problem::new(Code::FailedPrecondition, "NO_SPATIAL_LAYER", text)
        }
        ExplainError::NoClassifier => Problem::new(Code::FailedPrecondition, "NO_CLASSIFIER", text),
        ExplainError::NotFinite(_) => Problem::new(Code::FailedPrecondition, "NOT_FINITE", text),
        ExplainError::Gradient(GradError::Missing { .. }) => {
            Problem::new(Code::Unimplemented, "GRADIENT_RULE", text)
        }
        ExplainError::Gradient(_) => Problem::fault(error),
        ExplainError::Graph(error) => of_graph(error),
        ExplainError::Head(error) => of_head(error),
        ExplainError::Cancelled(_) => Problem::new(Code::Cancelled, "CANCELLED", text),
    }
}

fn of_label(error: &LabelError) -> Problem {
    match error {
        LabelError::Unknown(_) => Problem::new(Code::NotFound, "UNKNOWN_LABEL", error.to_string()),
        LabelError::Ambiguous(..) => {
            Problem::new(Code::InvalidArgument, "LABEL", error.to_string())
        }
    }
}

/// What a caller over the network would be told: the commands that need no daemon say the same.
pub fn failure(error: impl Into<RpcError>) -> Failure {
    error.into().into()
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let problem = Problem::from(error);
        let mut details = ErrorDetails::new();
        let mut facts = HashMap::new();
        if !problem.error_id.is_empty() {
            facts.insert("error_id".to_owned(), problem.error_id);
        }
        details.set_error_info(problem.reason, DOMAIN, facts);
        if !problem.field.is_empty() {
            details.add_bad_request_violation(problem.field, problem.message.clone());
        }
        if problem.retry_after.is_some() {
            details.set_retry_info(problem.retry_after);
        }
        Self::with_error_details(problem.code, problem.message, details)
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let problem = Problem::from(error);
        Self {
            code: problem.code.into(),
            message: problem.message,
            field: problem.field,
            reason: problem.reason.to_owned(),
            error_id: problem.error_id,
            retry_after_ms: problem.retry_after.map_or(0, |after| after.as_millis() as u32),
        }
    }
}

/// The status of a message over the limit, with the key that raises it, where that is what tonic's
/// own status says.
pub fn name_the_limit(tonics: &Status, limit: usize) -> Option<Status> {
    if tonics.code() != Code::OutOfRange || !tonics.message().contains("length too large") {
        return None;
    }
    let message = format!(
        "the message is larger than {limit} bytes: send a smaller one, or raise the configuration \
         key {LIMIT_KEY}"
    );
    let mut details = ErrorDetails::new();
    details.set_error_info(MESSAGE_SIZE, DOMAIN, HashMap::new());
    Some(Status::with_error_details(Code::ResourceExhausted, message, details))
}

/// The status of a call whose deadline passed, where that is what tonic's own status says: it calls
/// that CANCELLED.
pub fn deadline_passed(tonics: &Status) -> Option<Status> {
    let expired = tonics.code() == Code::Cancelled && tonics.message() == "Timeout expired";
    expired.then(|| RpcError::from(EngineError::DeadlineExceeded).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::convert::field::FieldError;

    fn status(error: impl Into<RpcError>) -> Status {
        error.into().into()
    }

    #[test]
    fn a_bad_field_is_named_in_message_and_details() {
        let status = status(FieldError::new("image.raw.width", "must be even"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "image.raw.width: must be even");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "image.raw.width");
    }

    #[test]
    fn a_full_queue_says_when_to_try_again() {
        let status = status(EngineError::QueueFull { length: 64 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        assert_eq!(status.get_details_error_info().unwrap().reason, "QUEUE_FULL");
    }

    #[test]
    fn a_full_disk_is_the_device_s_to_empty_and_no_fault_of_ours() {
        let status = status(KeeperError::from(BackboneError::DiskFull));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_error_info().unwrap().reason, "DISK_FULL");
    }

    #[test]
    fn a_fault_of_ours_tells_an_id_and_keeps_its_details() {
        let status = status(EngineError::Fault("secret path".into()));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
        let id = &status.get_details_error_info().unwrap().metadata["error_id"];
        assert!(status.message().contains(id.as_str()));
    }

    #[test]
    fn a_bad_picture_is_laid_at_the_field_that_holds_it() {
        let error = RpcError::from(EngineError::Picture(VisionError::Empty));
        let status = Status::from(error.with_picture_at("inputs[0].contents[3]"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "inputs[0].contents[3]");
    }

    #[test]
    fn a_missing_operator_is_unimplemented_and_named() {
        let error = GraphError::UnsupportedOperator {
            operator: "com.microsoft.QLinearAdd".into(),
            node: "add_3".into(),
        };
        let status = status(EngineError::Graph(error));
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("QLinearAdd") && status.message().contains("add_3"));
    }

    #[test]
    fn a_stream_item_fails_with_the_same_facts_as_a_call() {
        let failure = Failure::from(RpcError::from(EngineError::QueueFull { length: 1 }));
        assert_eq!((failure.code, failure.retry_after_ms), (8, 100));
        assert_eq!(failure.reason, "QUEUE_FULL");
    }

    #[test]
    fn the_message_limit_names_its_key_and_other_statuses_pass() {
        let tonics = Status::out_of_range("Error, decoded message length too large: found 9 bytes");
        let status = name_the_limit(&tonics, 5).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains(LIMIT_KEY));
        assert!(name_the_limit(&Status::not_found("x"), 5).is_none());
    }
}
