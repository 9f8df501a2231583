//! The typed client: what a Rust program needs to talk to a graftd device.
//!
//! It needs no part of the daemon: build with `default-features = false`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use graftd::client::{Client, Picture};
//!
//! let client = Client::connect("127.0.0.1:7411").await?;
//! let answer = client.predict(Picture::from_file("cat.jpg").await?.into()).await?;
//! println!("{}", answer.predictions[0].label);
//! # Ok(())
//! # }
//! ```

mod backbones;
mod connection;
mod device;
mod error;
mod heads;
mod inference;
mod picture;
mod samples;
mod training;

pub use backbones::UploadProgress;
pub use connection::{Client, Options};
pub use error::{ClientError, ErrorKind};
pub use inference::{AnswerStream, AuditStream, StreamAnswer};
pub use picture::Picture;
pub use samples::AcknowledgementStream;

/// The messages of `graft.v1`, as the requests and answers of [`Client`] use them.
pub use crate::proto::graft as messages;
