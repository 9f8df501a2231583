//! What the device remembers: labelled samples, their embeddings and images, heads, jobs.
//!
//! One SQLite database and one folder of image files, written by one thread. The store deals in
//! bytes and ids and knows neither what an embedding means nor how to decode a picture. Format,
//! commit protocol and promises: `docs/store.md`.

mod change;
mod counter;
mod dataset;
mod embedding;
mod error;
mod export;
mod folder;
mod forget;
mod head;
mod image;
mod import;
mod intake;
mod job;
mod key;
mod ledger;
mod open;
mod query;
mod readers;
mod reserve;
mod sample;
mod schema;
mod stats;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use change::{Deletion, SampleChange};
pub use dataset::{Dataset, DatasetSettings, Keep, Quota, WhenFull};
pub use embedding::{EmbeddedSample, EmbeddingBlock, EmbeddingBlocks, NewEmbedding};
pub use error::{Result, StoreError};
pub use export::{ExportReport, ExportTarget};
pub use folder::StateLock;
pub use head::{Head, HeadVersion, NewHeadVersion};
pub use image::{INLINE_LIMIT, Image};
pub use import::Import;
pub use intake::{CaptureBudget, Outcome, Receipt};
pub use job::{Job, JobId, JobState, JobUpdate, NewJob};
pub use key::SampleKey;
pub use open::{Options, Store, Synchronous};
pub use query::{Filter, SamplePage, Snapshot, Totals};
pub use sample::{NewSample, Origin, Sample, Split};
pub use stats::{DatasetStats, LabelCount, StoreStats};
pub use verify::{Fault, Verification};
