//! Embedding what is stored: photographs that a backbone has not seen yet.

use std::sync::Arc;

use bytes::Bytes;

use super::LearningError;
use super::background::Background;
use crate::base::cancel::Cancel;
use crate::base::digest::Digest;
use crate::base::name::Name;
use crate::engine::{Answerer, Engine, EngineError, LiveBackbone, Subject, Timings, prepare};
use crate::store::{NewEmbedding, Sample, Store, StoreError};

/// Samples listed at one time.
const PAGE: usize = 256;

/// Embeds the photographs that this backbone has not seen yet and stores what it makes of them;
/// returns how many there were. `tell` hears the share that is done, 0 to 1.
///
/// # Errors
/// Cancelled; a photograph that cannot be used any more; the store's own.
pub(super) fn embed_missing(
    engine: &Engine,
    store: &Store,
    dataset: &Name,
    backbone: &Arc<LiveBackbone>,
    cancel: &Cancel,
    tell: &mut dyn FnMut(f32),
) -> Result<u64, LearningError> {
    let key = backbone.embedding_key();
    let total = store.dataset_stats(dataset)?.samples.max(1);
    let mut work = Background::new(engine, cancel);
    let keep = |outcome| keep(store, dataset, key, outcome);
    let mut seen = 0_u64;
    let mut after = None;
    loop {
        let page = store.samples_without_embedding(dataset, key, after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key());
        for sample in page {
            cancel.check()?;
            let Some(image) = store.image_of(&sample)? else { continue };
            let (bytes, limits) = (Bytes::from(image.bytes), engine.limits());
            let by = Answerer { backbone: Arc::clone(backbone), head: None };
            let embed = move |cancel: &Cancel| {
                let subject = Subject::Encoded(bytes.clone());
                let prepared = prepare(&by, subject, &limits, cancel, &mut Timings::default())?;
                Ok(by.backbone.forward(&prepared.tensor)?.embedding().to_vec())
            };
            if let Some(outcome) = work.give(sample, embed)? {
                keep(outcome)?;
            }
            seen += 1;
            tell((seen as f32 / total as f32).min(1.0));
        }
    }
    while let Some(outcome) = work.take()? {
        keep(outcome)?;
    }
    Ok(seen)
}

fn keep(
    store: &Store,
    dataset: &Name,
    key: Digest,
    (sample, values): (Sample, Result<Vec<f32>, EngineError>),
) -> Result<(), LearningError> {
    let embedding = NewEmbedding { backbone: key, values: values? };
    match store.put_embedding(dataset, &sample.id, sample.content, &embedding) {
        // Deleted meanwhile: nothing to learn from it any more.
        Ok(()) | Err(StoreError::UnknownSample { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
