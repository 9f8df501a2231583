//! The way of a sample from the wire into the store: decode, embed, keep.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Learning, LearningError};
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answerer, EngineError, Priority, Subject, Target, Timings, prepare};
use crate::store::{Keep, NewEmbedding, NewSample, Outcome, Receipt, Sample, Store, StoreError};
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

impl Learning {
    /// Stores a sample; when this returns, it is durable. The photograph is decoded and embedded on
    /// a worker, so that intake is as fast as the device embeds and waits for its turn like any
    /// other request.
    ///
    /// # Errors
    /// A picture that cannot be used, a full queue, a quota, an id that is taken.
    pub async fn add_sample(
        &self,
        incoming: IncomingSample,
        cancel: Cancel,
    ) -> Result<StoredSample, LearningError> {
        let IncomingSample { dataset, facts, content } = incoming;
        // A dataset is made with its first sample, not by one that is refused.
        let keep = match self.store.dataset(&dataset) {
            Ok(known) => known.settings.keep,
            Err(StoreError::UnknownDataset(_)) => Keep::default(),
            Err(error) => return Err(error.into()),
        };
        let (sender, receiver) = oneshot::channel();
        match content {
            Content::Embedding { backbone, values } => {
                let facts = self.with_embedding(facts, &backbone, values)?;
                hand_over(&self.store, &dataset, facts, sender);
            }
            Content::Picture(subject) => {
                let by = self.engine.snapshot().resolve(&Target::Default).ok();
                let (store, target) = (self.store.clone(), dataset.clone());
                let limits = self.engine.limits();
                let ticket = self.engine.run(Priority::Foreground, cancel, move |cancel, _| {
                    let facts = with_picture(facts, subject, by, keep, &limits, cancel)?;
                    hand_over(&store, &target, facts, sender);
                    Ok::<_, EngineError>(())
                })?;
                ticket.await??;
            }
        }
        let receipt = receiver.await.unwrap_or(Err(StoreError::Closed));
        let Receipt { sample, outcome, .. } = receipt?;
        let duplicate = outcome == Outcome::Duplicate;
        if !duplicate {
            self.following.arrived(&dataset);
        }
        Ok(StoredSample { sample, duplicate })
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

type Answer = oneshot::Sender<crate::store::Result<Receipt>>;

/// Gives the sample to the store, whose receipt goes to `answer`.
fn hand_over(store: &Store, dataset: &Name, facts: NewSample, answer: Answer) {
    store.add_sample_making(dataset, facts, move |receipt| {
        // Whoever hung up meanwhile does not want to know.
        let _ = answer.send(receipt);
    });
}

/// The small picture, encoded, that a dataset keeps which keeps no photographs.
pub(super) fn thumbnail(picture: &Picture) -> Result<Vec<u8>, EngineError> {
    let small = picture.thumbnail(THUMBNAIL)?;
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
