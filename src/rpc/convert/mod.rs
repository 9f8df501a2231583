//! Generated types to domain types and back. An error names the path of the field at fault.

pub mod answer;
pub mod backbone;
pub mod examination;
pub mod explanation;
pub mod field;
pub mod head;
pub mod head_version;
pub mod image;
pub mod job;
pub mod manifest;
pub mod request;
pub mod sample;
pub mod target;
pub mod time;
