//! How the device learns: samples come in, a head is trained on them, judged, and made live.
//!
//! [`Learning`] is what the services talk to. A sample goes through `intake`; a training is a record
//! and a turn of the one thread in `jobs`, whose work is `training`; what becomes of its head is
//! decided in `promotion`, beside the versions that `lineage` names, and done in `versions`; `capture`
//! keeps pictures that a head was not sure of; `examination` finds what is wrong with a dataset;
//! `following` lets a head learn each sample as it comes.

mod background;
mod capture;
mod embedding;
mod error;
mod evaluation;
mod examination;
mod following;
mod intake;
mod job;
mod jobs;
mod labelled;
mod lineage;
mod low_priority;
mod promotion;
mod training;
mod versions;

use std::sync::{Arc, Mutex};

pub use capture::{CaptureSettings, Captured};
pub use error::LearningError;
pub use evaluation::Judged;
pub use examination::Examination;
pub use intake::{
    Content, Full, IncomingSample, OpenSample, PendingSample, ReadySample, StoredSample,
};
pub use job::{
    CurvePoint, Job, JobProgress, TrainingOptions, TrainingOutcome, TrainingReport, TrainingRequest,
};
pub use jobs::Jobs;
pub use lineage::Line;
pub use promotion::{Decision, Policy, Promotion, Rival, Role, decide};
pub use versions::{About, Follow, HeadImport, HeadRecord};

use super::Engine;
use crate::base::name::Name;
use crate::store::{Deletion, Filter, Sample, SampleChange, Store};

/// Samples, training and heads of one device.
pub struct Learning {
    engine: Arc<Engine>,
    store: Store,
    jobs: Jobs,
    following: following::Following,
    capture: capture::Capture,
    places: intake::Places,
    /// Held while a dataset is examined: one at a time.
    examining: Mutex<()>,
}

impl Learning {
    /// Publishes the stored heads and starts the thread that trains.
    ///
    /// # Errors
    /// When the store cannot be read, or the system grants no thread.
    pub fn start(engine: Arc<Engine>, store: Store) -> Result<Self, LearningError> {
        versions::publish_all(&engine, &store)?;
        let following = following::Following::start(Arc::clone(&engine), store.clone())?;
        let jobs = Jobs::start(Arc::clone(&engine), store.clone(), following.herald())?;
        let capture = capture::Capture::start(store.clone(), engine.limits())?;
        let (places, examining) = (intake::Places::new(&engine), Mutex::default());
        Ok(Self { engine, store, jobs, following, capture, places, examining })
    }

    /// What is stored.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is live.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Trainings.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// The dataset that a head follows, if it does.
    ///
    /// # Errors
    /// Only the store's.
    pub fn followed_by(&self, head: &crate::store::Head) -> Result<Option<Name>, LearningError> {
        following::of(&self.store, head)
    }

    /// Changes what is noted of a sample.
    ///
    /// # Errors
    /// As [`Store::update_sample`].
    pub fn update_sample(
        &self,
        dataset: &Name,
        id: &str,
        change: SampleChange,
    ) -> Result<Sample, LearningError> {
        // A head that follows learns neither notes nor weights.
        let corrects = change.labels.is_some() || change.split.is_some();
        let sample = self.store.update_sample(dataset, id, change)?;
        if corrects {
            self.following.corrected(dataset);
        }
        Ok(sample)
    }

    /// Deletes the samples that meet the filter.
    ///
    /// # Errors
    /// As [`Store::delete_samples`].
    pub fn delete_samples(
        &self,
        dataset: &Name,
        filter: &Filter,
    ) -> Result<Deletion, LearningError> {
        let deletion = self.store.delete_samples(dataset, filter)?;
        self.following.corrected(dataset);
        Ok(deletion)
    }

    /// Deletes a dataset with all its samples. A head that follows it forgets what it learnt as soon as
    /// there is one of the same name again.
    ///
    /// # Errors
    /// As [`Store::delete_dataset`].
    pub fn delete_dataset(&self, dataset: &Name) -> Result<Deletion, LearningError> {
        let deletion = self.store.delete_dataset(dataset)?;
        self.following.corrected(dataset);
        Ok(deletion)
    }
}

impl std::fmt::Debug for Learning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learning").field("state", &self.store.path()).finish_non_exhaustive()
    }
}
