//! The engine as its callers see it: submit a request, await its answer.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::explain::Explainers;
use super::{
    Answer, Answerer, EngineError, HeadSource, Pool, PoolOptions, PoolStatistics, Priority,
    Registry, Snapshot, Subject, Target, Ticket, Timings, classify, prepare,
};
use crate::base::cancel::Cancel;
use crate::vision::Limits;

/// How an engine is set up.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Workers and queue.
    pub pool: PoolOptions,
    /// What is refused before a pixel is allocated.
    pub limits: Limits,
}

/// Loaded networks, and workers that run them.
#[derive(Debug)]
pub struct Engine {
    registry: Registry,
    explainers: Explainers,
    pool: Pool,
    options: EngineOptions,
    stored_heads: OnceLock<Arc<dyn HeadSource>>,
}

/// The embedding of one image.
#[derive(Debug)]
pub struct Embedded {
    /// Whose embedding it is.
    pub by: Answerer,
    /// The vector that enters the classifier.
    pub embedding: Vec<f32>,
    /// How long each stage took.
    pub timings: Timings,
}

impl Engine {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the system grants no more threads.
    pub fn start(snapshot: Snapshot, options: EngineOptions) -> std::io::Result<Self> {
        let pool = Pool::start(options.pool)?;
        let registry = Registry::new(snapshot);
        Ok(Self {
            registry,
            explainers: Explainers::default(),
            pool,
            options,
            stored_heads: OnceLock::new(),
        })
    }

    /// What is loaded, and the way to change it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the queue has done so far.
    pub fn statistics(&self) -> PoolStatistics {
        self.pool.statistics()
    }

    /// Images of each priority that may wait.
    pub fn queue_capacity(&self) -> usize {
        self.options.pool.queue
    }

    /// Samples that are embedded, or wait for it on the workers, at one time.
    pub(super) fn intake_capacity(&self) -> usize {
        self.options.pool.intake()
    }

    /// Where versions of heads lie that are not in memory; the first that is set stays.
    pub(super) fn stored_heads(
        &self,
        make: impl FnOnce() -> Arc<dyn HeadSource>,
    ) -> &Arc<dyn HeadSource> {
        self.stored_heads.get_or_init(make)
    }

    /// Networks that were prepared for explaining.
    pub(super) fn explainers(&self) -> &Explainers {
        &self.explainers
    }

    /// What is refused before a pixel is allocated.
    pub fn limits(&self) -> Limits {
        self.options.limits
    }

    /// Takes no more requests; those in the queue are still answered.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Classifies one image. Dropping the ticket frees its place in the queue.
    ///
    /// # Errors
    /// An unknown target or a full queue at once; the rest through the ticket.
    pub fn predict(
        &self,
        target: &Target,
        subject: Subject,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Answer, EngineError>>, EngineError> {
        self.predict_by(self.registry.snapshot().resolve(target)?, subject, cancel)
    }

    /// The same by one that was resolved before: several images of one request are answered by one
    /// version, whatever goes live meanwhile.
    ///
    /// # Errors
    /// As [`Engine::predict`], but for the target's.
    pub fn predict_by(
        &self,
        by: Answerer,
        subject: Subject,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Answer, EngineError>>, EngineError> {
        let limits = self.options.limits;
        self.run(Priority::Foreground, cancel, move |cancel, mut timings| {
            let prepared = prepare(&by, subject, &limits, cancel, &mut timings)?;
            classify(by, &prepared.tensor, timings)
        })
    }

    /// Computes the embedding of one image.
    ///
    /// # Errors
    /// As [`Engine::predict`].
    pub fn embed(
        &self,
        priority: Priority,
        target: &Target,
        subject: Subject,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Embedded, EngineError>>, EngineError> {
        self.embed_by(priority, self.registry.snapshot().resolve(target)?, subject, cancel)
    }

    /// The same by one that was resolved before.
    ///
    /// # Errors
    /// As [`Engine::predict_by`].
    pub fn embed_by(
        &self,
        priority: Priority,
        by: Answerer,
        subject: Subject,
        cancel: Cancel,
    ) -> Result<Ticket<Result<Embedded, EngineError>>, EngineError> {
        let limits = self.options.limits;
        self.run(priority, cancel, move |cancel, mut timings| {
            let prepared = prepare(&by, subject, &limits, cancel, &mut timings)?;
            let began = Instant::now();
            let forward = by.backbone.forward(&prepared.tensor)?;
            timings.inference = began.elapsed();
            let embedding = forward.embedding().to_vec();
            Ok(Embedded { by, embedding, timings })
        })
    }

    /// Runs other work on a worker, with the time that it waited already noted.
    ///
    /// # Errors
    /// A full queue at once; the rest through the ticket.
    pub fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        cancel: Cancel,
        work: impl FnOnce(&Cancel, Timings) -> T + Send + 'static,
    ) -> Result<Ticket<T>, EngineError> {
        self.pool.submit(priority, cancel, move |cancel, queue| {
            work(cancel, Timings { queue, ..Timings::default() })
        })
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.registry.snapshot()
    }
}
