//! How a version does on chosen samples.

use std::sync::Arc;

use half::f16;

use super::embedding::embed_missing;
use super::labelled::{Gathering, Several};
use super::{Learning, LearningError};
use crate::base::cancel::Cancel;
use crate::base::name::Name;
use crate::engine::{EngineError, LiveHead, Target};
use crate::heads::Kind;
use crate::store::{EmbeddedSample, Filter};
use crate::train::Report;

/// Samples listed at one time.
const PAGE: usize = 256;

/// A version and how it does.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The version.
    pub head: Arc<LiveHead>,
    /// How it does.
    pub report: Report,
}

impl Learning {
    /// Judges a version on the labelled samples that meet the filter; embeddings by its backbone that
    /// are missing are made first, and samples that are damaged are left out. May take long.
    ///
    /// # Errors
    /// An unknown head or dataset; no labelled sample with an embedding by the head's backbone.
    pub fn evaluate(
        &self,
        target: &Target,
        dataset: &Name,
        filter: &Filter,
        cancel: &Cancel,
    ) -> Result<Judged, LearningError> {
        let by = self.engine().snapshot().resolve(target)?;
        let head = by.head.ok_or_else(|| EngineError::Fault("a target without head".into()))?;
        let (engine, store) = (self.engine(), self.store());
        embed_missing(engine, store, dataset, &by.backbone, None, cancel, &mut |_| {})?;
        let key = by.backbone.embedding_key();
        let multi_label = head.head.kind() == Kind::MultiLabel;
        let several = if multi_label { Several::Keep } else { Several::Refuse };
        let mut labelled = Gathering::new(by.backbone.network.embedding().width, several);
        let mut after = None;
        loop {
            let page = store.samples(dataset, filter, after, PAGE)?;
            for sample in page.samples {
                cancel.check()?;
                if let Some(values) = self.sound_embedding(&sample, key)? {
                    let (id, labels) = (sample.id, sample.labels);
                    let (split, weight) = (sample.split, sample.weight);
                    let sample = EmbeddedSample { id, labels, split, weight };
                    labelled.push(&sample, values.into_iter().map(f16::from_f32))?;
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let labelled = labelled.finish();
        let Some(rows) = labelled.rows() else {
            return Err(LearningError::NoSamples(format!(
                "dataset {dataset} has no labelled samples that meet the filter and have an \
                 embedding by {}",
                by.backbone.name
            )));
        };
        let report = labelled.judge(&rows, &head.head, cancel)?;
        Ok(Judged { head, report })
    }
}
