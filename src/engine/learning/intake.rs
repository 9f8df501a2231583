//! The way of a sample from the wire into the store: decode, embed, keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{Learning, LearningError};
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answerer, Engine, EngineError, Priority, Subject, Target, Timings, prepare};
use crate::store::{Keep, NewEmbedding, NewSample, Outcome, Receipt, Sample, StoreError};
use crate::vision::{self, ImageFormat, Limits, Picture};

/// Pixels of a thumbnail's longer side.
const THUMBNAIL: u32 = 160;
/// JPEG quality of a thumbnail.
const THUMBNAIL_QUALITY: u8 = 85;

/// A sample as a client sends it. Image and embeddings of `facts` are filled in on the way.
#[derive(Debug)]
pub struct IncomingSample {
    /// Where it belongs; made with default settings if there is no such dataset.
    pub dataset: Name,
    /// Everything that is known of it; an empty id becomes the content's digest.
    pub facts: NewSample,
    /// What is to be learnt from.
    pub content: Content,
}

/// What a sample shows.
#[derive(Debug)]
pub enum Content {
    /// A photograph: it is embedded by the backbone that answers a request which names none.
    Picture(Subject),
    /// An embedding that the named backbone made elsewhere.
    Embedding {
        /// A loaded backbone.
        backbone: String,
        /// As wide as that backbone's.
        values: Vec<f32>,
    },
}

/// A sample that is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSample {
    /// As it is stored.
    pub sample: Sample,
    /// Whether it was stored already.
    pub duplicate: bool,
}

/// A sample on its way to its embedding.
#[derive(Debug)]
pub struct OpenSample {
    incoming: IncomingSample,
    keep: Keep,
}

/// A sample that lacks nothing but its place in the store.
#[derive(Debug)]
pub struct ReadySample {
    dataset: Name,
    facts: NewSample,
}

/// A sample that the store has taken and not yet committed.
#[derive(Debug)]
pub struct PendingSample {
    dataset: Name,
    receipt: oneshot::Receiver<crate::store::Result<Receipt>>,
}

/// What to do while as many samples wait to be embedded as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Wait for a place, for a stream that reads no further meanwhile.
    Wait,
    /// Say so.
    Refuse,
}

/// The places of samples that are embedded, one device wide: all streams share them, so that none
/// of them can fill what predictions wait in.
#[derive(Debug)]
pub(super) struct Places {
    free: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// Counts one who waits for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    pub(super) fn new(engine: &Engine) -> Self {
        let free = Semaphore::new(engine.intake_capacity());
        Self { free, waiting: AtomicUsize::new(0), most_waiting: engine.queue_capacity() }
    }

    async fn take(&self, full: Full) -> Result<SemaphorePermit<'_>, EngineError> {
        if let Ok(place) = self.free.try_acquire() {
            return Ok(place);
        }
        let others = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if full == Full::Refuse && others >= self.most_waiting {
            return Err(EngineError::QueueFull { length: self.most_waiting });
        }
        self.free.acquire().await.map_err(|_| EngineError::Draining)
    }
}

/// A sample goes through [`Learning::open_sample`], [`Learning::embed_sample`],
/// [`Learning::store_sample`] and [`Learning::stored_sample`]. The first and the third wait for the
/// store and so for the disk; the others wait without holding a thread.
impl Learning {
    /// Finds out what the sample's dataset keeps and checks an embedding that it brings. Blocks.
    ///
    /// # Errors
    /// An embedding of another width, an unknown backbone, a store that is full.
    pub fn open_sample(&self, mut incoming: IncomingSample) -> Result<OpenSample, LearningError> {
        // A dataset is made with its first sample, not by one that is refused.
        let keep = match self.store.dataset(&incoming.dataset) {
            Ok(known) => known.settings.keep,
            Err(StoreError::UnknownDataset(_)) => Keep::default(),
            Err(error) => return Err(error.into()),
        };
        if let Content::Embedding { backbone, values } = &mut incoming.content {
            let values = std::mem::take(values);
            incoming.facts = self.with_embedding(incoming.facts, backbone, values)?;
        }
        Ok(OpenSample { incoming, keep })
    }

    /// Decodes and embeds the photograph on a worker, as soon as one has nothing to predict. At most
    /// twice as many samples as there are workers are there at a time.
    ///
    /// # Errors
    /// A picture that cannot be used; a full queue, where that is to be told.
    pub async fn embed_sample(
        &self,
        sample: OpenSample,
        cancel: Cancel,
        full: Full,
    ) -> Result<ReadySample, LearningError> {
        let OpenSample { incoming: IncomingSample { dataset, facts, content }, keep } = sample;
        let subject = match content {
            Content::Embedding { .. } => return Ok(ReadySample { dataset, facts }),
            Content::Picture(subject) => subject,
        };
        let place = self.places.take(full).await?;
        let by = self.engine.snapshot().resolve(&Target::Default).ok();
        let limits = self.engine.limits();
        let ticket = self.engine.run(Priority::Intake, cancel, move |cancel, _| {
            with_picture(facts, subject, by, keep, &limits, cancel)
        })?;
        let facts = ticket.await??;
        drop(place);
        Ok(ReadySample { dataset, facts })
    }

    /// Gives the sample to the store. Blocks while that has as many waiting as it takes.
    pub fn store_sample(&self, sample: ReadySample) -> PendingSample {
        let ReadySample { dataset, facts } = sample;
        let (sender, receipt) = oneshot::channel();
        self.store.add_sample_making(&dataset, facts, move |receipt| {
            // Whoever hung up meanwhile does not want to know.
            let _ = sender.send(receipt);
        });
        PendingSample { dataset, receipt }
    }

    /// Waits for the COMMIT; when this returns, the sample is durable.
    ///
    /// # Errors
    /// A quota, an id that is taken, a failure of the medium.
    pub async fn stored_sample(
        &self,
        sample: PendingSample,
    ) -> Result<StoredSample, LearningError> {
        let receipt = sample.receipt.await.unwrap_or(Err(StoreError::Closed));
        let Receipt { sample: stored, outcome, .. } = receipt?;
        let duplicate = outcome == Outcome::Duplicate;
        if !duplicate {
            self.following.arrived(&sample.dataset);
        }
        Ok(StoredSample { sample: stored, duplicate })
    }

    fn with_embedding(
        &self,
        mut facts: NewSample,
        backbone: &str,
        values: Vec<f32>,
    ) -> Result<NewSample, LearningError> {
        let by = self.engine.snapshot().resolve(&Target::Backbone(backbone.to_owned()))?;
        let width = by.backbone.network.embedding().width;
        if values.len() != width {
            return Err(StoreError::Invalid {
                field: "embedding.values".to_owned(),
                reason: format!("has {} values, {backbone} makes {width}", values.len()),
            }
            .into());
        }
        if facts.id.is_empty() {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            facts.id = Digest::of(&bytes).to_string();
        }
        facts.embeddings.push(NewEmbedding { backbone: by.backbone.embedding_key(), values });
        Ok(facts)
    }
}

/// The small picture, encoded, that a dataset keeps which keeps no photographs.
pub(super) fn thumbnail(picture: &Picture) -> Result<Vec<u8>, EngineError> {
    let small = picture.at_most(THUMBNAIL)?;
    Ok(vision::encode(&small, ImageFormat::Jpeg { quality: THUMBNAIL_QUALITY })?)
}

/// A picture that came as bare pixels, in a form that any program opens.
pub(super) fn without_loss(picture: &Picture) -> Result<Vec<u8>, EngineError> {
    Ok(vision::encode(picture, ImageFormat::Png)?)
}

/// Decodes and embeds the picture; on a worker.
fn with_picture(
    mut facts: NewSample,
    subject: Subject,
    by: Option<Answerer>,
    keep: Keep,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<NewSample, EngineError> {
    let encoded: Option<Bytes> = match &subject {
        Subject::Encoded(bytes) => Some(bytes.clone()),
        Subject::Frame { .. } | Subject::Picture(_) | Subject::Tensor(_) => None,
    };
    let picture: Arc<Picture> = match by {
        Some(by) => {
            let prepared = prepare(&by, subject, limits, cancel, &mut Timings::default())?;
            let values = by.backbone.forward(&prepared.tensor)?.embedding().to_vec();
            let backbone = by.backbone.embedding_key();
            facts.embeddings.push(NewEmbedding { backbone, values });
            prepared.picture.ok_or_else(|| EngineError::Fault("a sample without picture".into()))?
        }
        None => subject.to_picture(limits)?,
    };
    (facts.width, facts.height) = (picture.width, picture.height);
    let image = match encoded {
        Some(bytes) => bytes.to_vec(),
        None => without_loss(&picture)?,
    };
    if facts.id.is_empty() {
        facts.id = Digest::of(&image).to_string();
    }
    if keep == Keep::Thumbnails {
        facts.thumbnail = Some(thumbnail(&picture)?);
    }
    facts.image = Some(image);
    Ok(facts)
}
