//! Embedding what is stored: photographs that a backbone has not seen yet, and changed copies of them.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use bytes::Bytes;

use super::LearningError;
use super::background::Background;
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answerer, Engine, EngineError, LiveBackbone, Subject, Timings, prepare};
use crate::store::{self, NewEmbedding, Sample, SampleKey, Store, StoreError};
use crate::vision::augmented;

/// Samples listed at one time.
const PAGE: usize = 256;

/// Embeds the photographs after `after` that this backbone has not seen yet and stores what it makes
/// of them; returns how many there were. `tell` hears the share that is done, 0 to 1.
///
/// # Errors
/// Cancelled; the network's and the store's own. A photograph that cannot be decoded is left out.
pub(super) fn embed_missing(
    engine: &Engine,
    store: &Store,
    dataset: &Name,
    backbone: &Arc<LiveBackbone>,
    after: Option<SampleKey>,
    cancel: &Cancel,
    tell: &mut dyn FnMut(f32),
) -> Result<u64, LearningError> {
    let key = backbone.embedding_key();
    let total = store.dataset_stats(dataset)?.samples.max(1);
    let mut work = Background::new(engine, cancel);
    let mut keeping = Keeping::new(store, dataset, key);
    let mut seen = 0_u64;
    let mut after = after;
    loop {
        let page = store.samples_without_embedding(dataset, key, after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key());
        for sample in page {
            cancel.check()?;
            let Some(image) = store.sound_image_of(&sample)? else { continue };
            let (bytes, limits) = (Bytes::from(image.bytes), engine.limits());
            let by = Answerer { backbone: Arc::clone(backbone), head: None };
            let embed = move |cancel: &Cancel| {
                let subject = Subject::Encoded(bytes.clone());
                let prepared = prepare(&by, subject, &limits, cancel, &mut Timings::default())?;
                Ok(by.backbone.forward(&prepared.tensor)?.embedding().to_vec())
            };
            if let Some(outcome) = work.give(sample, embed)? {
                keeping.keep(outcome)?;
            }
            seen += 1;
            tell((seen as f32 / total as f32).min(1.0));
        }
    }
    while let Some(outcome) = work.take()? {
        keeping.keep(outcome)?;
    }
    let unusable = keeping.end()?;
    if unusable > 0 {
        tracing::warn!(%dataset, unusable, "photographs cannot be learnt from and were left out");
    }
    Ok(seen)
}

/// Embeds changed copies ([`augmented`]) of the samples whose photograph is kept: `count` of each,
/// given to `keep` one by one with the index of the original in `ids`. The same `seed` gives the same
/// copies. `tell` hears the share that is done, 0 to 1.
///
/// # Errors
/// As [`embed_missing`].
pub(super) fn embed_copies(
    engine: &Engine,
    store: &Store,
    (dataset, ids): (&Name, &[String]),
    backbone: &Arc<LiveBackbone>,
    (count, seed): (u32, u64),
    cancel: &Cancel,
    keep: &mut dyn FnMut(usize, &[f32]),
    tell: &mut dyn FnMut(f32),
) -> Result<(), LearningError> {
    let mut work = Background::new(engine, cancel);
    let mut keep = |(of, values): (usize, _)| {
        let values = usable(&ids[of], values)?;
        values.iter().for_each(|values| keep(of, values));
        Ok::<_, LearningError>(())
    };
    for (index, id) in ids.iter().enumerate() {
        cancel.check()?;
        let image = match store.sample(dataset, id) {
            Ok(sample) => store.sound_image_of(&sample)?.filter(|image| !image.thumbnail),
            Err(StoreError::UnknownSample { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(image) = image else { continue };
        let bytes = Bytes::from(image.bytes);
        for copy in 0..count {
            let (bytes, limits) = (bytes.clone(), engine.limits());
            let by = Answerer { backbone: Arc::clone(backbone), head: None };
            let own = Digest::of(format!("{seed} {copy} {id}").as_bytes());
            let own = own.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let embed = move |cancel: &Cancel| {
                let picture = Subject::Encoded(bytes.clone()).to_picture(&limits)?;
                let subject = Subject::Picture(Arc::new(augmented(&picture, own)));
                let prepared = prepare(&by, subject, &limits, cancel, &mut Timings::default())?;
                Ok::<_, EngineError>(by.backbone.forward(&prepared.tensor)?.embedding().to_vec())
            };
            if let Some(outcome) = work.give(index, embed)? {
                keep(outcome)?;
            }
        }
        tell((index + 1) as f32 / ids.len() as f32);
    }
    while let Some(outcome) = work.take()? {
        keep(outcome)?;
    }
    Ok(())
}

/// Embeddings on their way into the store. Nobody waits for one of them, so that they share COMMITs.
struct Keeping<'a> {
    store: &'a Store,
    dataset: &'a Name,
    key: Digest,
    /// Photographs that cannot be decoded.
    unusable: u64,
    sender: Sender<store::Result<()>>,
    receipts: Receiver<store::Result<()>>,
}

impl<'a> Keeping<'a> {
    fn new(store: &'a Store, dataset: &'a Name, key: Digest) -> Self {
        let (sender, receipts) = mpsc::channel();
        Self { store, dataset, key, unusable: 0, sender, receipts }
    }

    /// Hands one to the store; fails where that or an earlier one could not be stored.
    fn keep(
        &mut self,
        (sample, values): (Sample, Result<Vec<f32>, EngineError>),
    ) -> Result<(), LearningError> {
        let Some(values) = usable(&sample.id, values)? else {
            self.unusable += 1;
            return Ok(());
        };
        let embedding = NewEmbedding { backbone: self.key, values };
        let sender = self.sender.clone();
        let done = move |outcome| {
            let _ = sender.send(outcome);
        };
        let (id, content) = (&sample.id, sample.content);
        self.store.put_embedding_then(self.dataset, id, content, &embedding, done);
        self.receipts.try_iter().try_for_each(stored)
    }

    /// Waits until all are stored; how many photographs could not be used.
    fn end(self) -> Result<u64, LearningError> {
        drop(self.sender);
        self.receipts.into_iter().try_for_each(stored)?;
        Ok(self.unusable)
    }
}

fn stored(receipt: store::Result<()>) -> Result<(), LearningError> {
    match receipt {
        // Deleted meanwhile: nothing to learn from it any more.
        Ok(()) | Err(StoreError::UnknownSample { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What was made of a sample's photograph; `None` where that cannot be decoded, so that one bad
/// photograph never keeps a head from learning from all others.
fn usable(
    id: &str,
    values: Result<Vec<f32>, EngineError>,
) -> Result<Option<Vec<f32>>, EngineError> {
    match values {
        Ok(values) => Ok(Some(values)),
        Err(EngineError::Picture(reason)) => {
            tracing::warn!(sample = id, %reason, "its photograph cannot be used and is left out");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
