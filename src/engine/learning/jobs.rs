//! Trainings: a record each, a bounded queue, and one thread of low priority that takes them in
//! turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::following::{self, Herald};
use super::job::FAULT;
use super::low_priority::{self, guarded, lower_priority};
use super::{Job, JobProgress, LearningError, TrainingOutcome, TrainingRequest, training};
use crate::base::{cancel::Cancel, memory};
use crate::engine::{Engine, EngineError};
use crate::store::{JobId, JobState, JobUpdate, NewJob, Store};

/// Jobs that may wait.
const WAITING: usize = 16;
/// The least time between two pieces of news to those who watch.
const NEWS_INTERVAL: Duration = Duration::from_millis(100);

/// What a job does on its turn.
type Work = fn(
    &Engine,
    &Store,
    JobId,
    &TrainingRequest,
    &Cancel,
    &mut training::Tell<'_>,
) -> Result<TrainingOutcome, LearningError>;

/// Starts, watches and cancels trainings.
pub struct Jobs {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    engine: Arc<Engine>,
    /// Heads may follow their dataset once they are trained.
    herald: Herald,
    work: Work,
    state: Mutex<State>,
    /// Signalled when a job arrives or the daemon stops.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<JobId>,
    /// Jobs that have not ended.
    unfinished: HashMap<JobId, Unfinished>,
    closing: bool,
}

struct Unfinished {
    cancel: Cancel,
    news: watch::Sender<Job>,
}

impl Jobs {
    pub(super) fn start(
        engine: Arc<Engine>,
        store: Store,
        herald: Herald,
    ) -> Result<Self, LearningError> {
        Self::start_with(engine, store, herald, training::run)
    }

    fn start_with(
        engine: Arc<Engine>,
        store: Store,
        herald: Herald,
        work: Work,
    ) -> Result<Self, LearningError> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { store, engine, herald, work, state, changed });
        let turns = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("graftd-training".to_owned())
            .spawn(move || turns.serve())
            .map_err(|error| LearningError::Thread(error.to_string()))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Records a training and lets it wait for its turn.
    ///
    /// # Errors
    /// [`LearningError::JobQueueFull`]; an unknown dataset or backbone, so that it is told at once.
    pub fn begin(&self, request: &TrainingRequest) -> Result<Job, LearningError> {
        self.shared.store.dataset(&request.dataset)?;
        let target = crate::engine::Target::Backbone(request.backbone.to_string());
        self.shared.engine.snapshot().resolve(&target)?;
        if request.options.follow_dataset
            && following::count(&self.shared.store)? >= following::MAXIMUM
            && !following::follows(&self.shared.store, &request.head)?
        {
            return Err(LearningError::TooManyFollow { maximum: following::MAXIMUM });
        }
        let waiting = self.shared.lock().waiting.len();
        if waiting >= WAITING {
            return Err(LearningError::JobQueueFull { waiting });
        }
        self.queue(request)
    }

    fn queue(&self, request: &TrainingRequest) -> Result<Job, LearningError> {
        let request = serde_json::to_string(request)?;
        let record = self.shared.store.add_job(NewJob { kind: "training".to_owned(), request })?;
        let (id, job) = (record.id, Job::try_from(record)?);
        let unfinished =
            Unfinished { cancel: Cancel::default(), news: watch::channel(job.clone()).0 };
        let mut state = self.shared.lock();
        state.unfinished.insert(id, unfinished);
        state.waiting.push_back(id);
        drop(state);
        self.shared.changed.notify_all();
        Ok(job)
    }

    /// Begins the training of an ended job again, as a new job.
    ///
    /// # Errors
    /// [`LearningError::JobNotEnded`], else as [`Jobs::begin`].
    pub fn restart(&self, id: JobId) -> Result<Job, LearningError> {
        let job = self.get(id)?;
        if !job.record.state.is_final() {
            return Err(LearningError::JobNotEnded(id));
        }
        self.begin(&job.request)
    }

    /// A job as it stands.
    ///
    /// # Errors
    /// [`crate::store::StoreError::UnknownJob`].
    pub fn get(&self, id: JobId) -> Result<Job, LearningError> {
        if let Some(unfinished) = self.shared.lock().unfinished.get(&id) {
            return Ok(unfinished.news.borrow().clone());
        }
        self.shared.store.job(id)?.try_into()
    }

    /// Up to `limit` jobs, the latest first, all older than `before` where that is given.
    ///
    /// # Errors
    /// Only the store's.
    pub fn list(&self, before: Option<JobId>, limit: usize) -> Result<Vec<Job>, LearningError> {
        let records = self.shared.store.jobs(before, limit)?;
        let state = self.shared.lock();
        let live = |id: &JobId| state.unfinished.get(id).map(|live| live.news.borrow().clone());
        records.into_iter().map(|r| live(&r.id).map_or_else(|| r.try_into(), Ok)).collect()
    }

    /// The job now and after every change; `None` for one that has ended.
    pub fn watch(&self, id: JobId) -> Option<watch::Receiver<Job>> {
        self.shared.lock().unfinished.get(&id).map(|unfinished| unfinished.news.subscribe())
    }

    /// Tells a job to stop; one that waits has ended when this returns, one that runs within 100 ms
    /// plus one forward run, and one that has ended stays as it is.
    ///
    /// # Errors
    /// [`crate::store::StoreError::UnknownJob`].
    pub fn cancel(&self, id: JobId) -> Result<Job, LearningError> {
        let mut state = self.shared.lock();
        let waited = state.waiting.iter().position(|waiting| *waiting == id);
        if let Some(unfinished) = state.unfinished.get(&id) {
            unfinished.cancel.cancel();
        }
        if let Some(position) = waited {
            state.waiting.remove(position);
        }
        drop(state);
        if waited.is_some() {
            self.shared.end(id, JobState::Cancelled, JobUpdate::default());
        }
        self.get(id)
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        state.unfinished.values().for_each(|unfinished| unfinished.cancel.cancel());
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        lower_priority();
        let pool = match low_priority::pool() {
            Ok(pool) => pool,
            Err(error) => {
                tracing::error!(%error, "no threads for training; jobs will wait for ever");
                return;
            }
        };
        while let Some((id, cancel)) = self.next() {
            let outcome = guarded(|| self.run(id, &cancel, &pool));
            memory::give_back();
            // What a stopping daemon interrupts is found so by the next one, which says it.
            if self.lock().closing && outcome.as_ref().is_err_and(LearningError::is_cancelled) {
                return;
            }
            match outcome.and_then(|outcome| Ok(serde_json::to_string(&outcome)?)) {
                Ok(report) => {
                    let update = JobUpdate { report: Some(report), ..JobUpdate::default() };
                    self.end(id, JobState::Succeeded, update);
                    self.herald.look();
                }
                Err(error) if error.is_cancelled() => {
                    self.end(id, JobState::Cancelled, JobUpdate::default());
                }
                Err(LearningError::Engine(EngineError::Fault(text))) => {
                    tracing::error!(job = %id, fault = text, "a fault of ours ended a training");
                    let told = format!("{FAULT}; the log of the device says more under job {id}");
                    let update = JobUpdate { error: Some(told), ..JobUpdate::default() };
                    self.end(id, JobState::Failed, update);
                }
                Err(error) => {
                    tracing::warn!(job = %id, %error, "a training failed");
                    let update =
                        JobUpdate { error: Some(error.to_string()), ..JobUpdate::default() };
                    self.end(id, JobState::Failed, update);
                }
            }
        }
    }

    fn next(&self) -> Option<(JobId, Cancel)> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(id) = state.waiting.pop_front()
                && let Some(unfinished) = state.unfinished.get(&id)
            {
                return Some((id, unfinished.cancel.clone()));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(
        &self,
        id: JobId,
        cancel: &Cancel,
        pool: &rayon::ThreadPool,
    ) -> Result<TrainingOutcome, LearningError> {
        let running = JobUpdate { state: Some(JobState::Running), ..JobUpdate::default() };
        let job = Job::try_from(self.store.update_job(id, running)?)?;
        self.tell(id, &job);
        let latest = JobProgress::default();
        let mut news = News { shared: self, job, latest, began: Instant::now(), told: None };
        let request = news.job.request.clone();
        let mut tell = |progress| news.tell(progress);
        let work = self.work;
        pool.install(|| work(&self.engine, &self.store, id, &request, cancel, &mut tell))
    }

    /// Records how a job ended and tells those who watch, after which they hear no more.
    fn end(&self, id: JobId, state: JobState, update: JobUpdate) {
        let update = JobUpdate { state: Some(state), ..update };
        let recorded = self.store.update_job(id, update.clone());
        match recorded.map_err(LearningError::from).and_then(Job::try_from) {
            Ok(job) => {
                self.tell(id, &job);
                self.lock().unfinished.remove(&id);
            }
            // What is stored still says that it runs: it stays here, so that all hear how it ended.
            Err(error) => {
                tracing::error!(job = %id, %error, "a job's end could not be recorded");
                if let Some(unfinished) = self.lock().unfinished.get(&id) {
                    let made = update.report.and_then(|made| serde_json::from_str(&made).ok());
                    unfinished.news.send_modify(|job| {
                        job.record.state = state;
                        job.record.error = update.error;
                        job.outcome = made;
                    });
                }
            }
        }
    }

    fn tell(&self, id: JobId, job: &Job) {
        if let Some(unfinished) = self.lock().unfinished.get(&id) {
            unfinished.news.send_replace(job.clone());
        }
    }
}

/// Passes progress on, not too often, and records each new phase.
struct News<'a> {
    shared: &'a Shared,
    job: Job,
    /// The latest, told or not.
    latest: JobProgress,
    began: Instant,
    told: Option<Instant>,
}

impl News<'_> {
    /// The bar never goes back, and what a phase has no news of stays as it was.
    fn tell(&mut self, mut progress: JobProgress) {
        progress.done = progress.done.max(self.latest.done);
        progress.loss = progress.loss.or(self.latest.loss);
        progress.held_out_accuracy = progress.held_out_accuracy.or(self.latest.held_out_accuracy);
        self.latest = progress.clone();
        let new_phase = progress.phase != self.job.progress.phase;
        if !new_phase && self.told.is_some_and(|told| told.elapsed() < NEWS_INTERVAL) {
            return;
        }
        self.told = Some(Instant::now());
        let done = f64::from(progress.done);
        if done > 0.02 {
            let elapsed = self.began.elapsed().as_secs_f64();
            progress.remaining_seconds = Some(elapsed * (1.0 - done) / done);
        }
        self.job.progress = progress;
        let id = self.job.record.id;
        self.shared.tell(id, &self.job);
        if new_phase && let Ok(progress) = serde_json::to_string(&self.job.progress) {
            let update = JobUpdate { progress: Some(progress), ..JobUpdate::default() };
            if let Err(error) = self.shared.store.update_job(id, update) {
                tracing::warn!(job = %id, %error, "a job's progress could not be recorded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::learning::following::Following;
    use crate::engine::learning::{Promotion, TrainingOptions};
    use crate::engine::{EngineOptions, PoolOptions, Snapshot};
    use crate::vision::Limits;

    #[test]
    fn a_job_that_panics_is_a_fault_of_ours_and_the_next_one_gets_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let pool = PoolOptions { workers: 1, queue: 1 };
        let options = EngineOptions { pool, limits: Limits::default() };
        let engine = Arc::new(Engine::start(Snapshot::default(), options).unwrap());
        let following = Following::start(Arc::clone(&engine), store.clone()).unwrap();
        let work: Work = |_, _, _, request, _, _| {
            assert!(request.head.as_str() != "bad", "by design");
            Err(LearningError::NoSamples("nothing to learn".to_owned()))
        };
        let jobs = Jobs::start_with(engine, store, following.herald(), work).unwrap();
        let request = |head: &str| TrainingRequest {
            head: head.parse().unwrap(),
            dataset: "d".parse().unwrap(),
            backbone: "b".parse().unwrap(),
            options: TrainingOptions::default(),
            promotion: Promotion::default(),
        };
        let queued = ["bad", "good"].map(|head| jobs.queue(&request(head)).unwrap().record.id);
        for id in queued {
            if let Some(mut news) = jobs.watch(id) {
                // The sender goes once the job has ended.
                while news.has_changed().is_ok() {
                    news.borrow_and_update();
                    std::thread::yield_now();
                }
            }
        }
        let [bad, good] = queued.map(|id| jobs.get(id).unwrap());
        assert_eq!((bad.record.state, bad.is_fault()), (JobState::Failed, true));
        assert!(!bad.record.error.unwrap().contains("by design"), "that is for the log");
        assert_eq!((good.record.state, good.is_fault()), (JobState::Failed, false));
        assert_eq!(good.record.error.as_deref(), Some("nothing to learn"));
    }

    #[test]
    fn news_of_a_job_never_go_back_and_keep_what_a_later_phase_says_nothing_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let options =
            EngineOptions { pool: PoolOptions { workers: 1, queue: 1 }, limits: Limits::default() };
        let engine = Arc::new(Engine::start(Snapshot::default(), options).unwrap());
        let following = Following::start(Arc::clone(&engine), store.clone()).unwrap();
        let work: Work = |_, _, _, _, _, tell| {
            let news = |phase: &str, done| JobProgress {
                phase: phase.to_owned(),
                done,
                ..JobProgress::default()
            };
            tell(news("fitting", 0.4));
            // Too soon after the first to be passed on by itself.
            let (loss, held_out_accuracy) = (Some(0.7), Some(0.9));
            tell(JobProgress { loss, held_out_accuracy, ..news("fitting", 0.5) });
            tell(news("judging", 0.3));
            Err(LearningError::NoSamples("nothing to learn".to_owned()))
        };
        let jobs = Jobs::start_with(engine, store, following.herald(), work).unwrap();
        let request = TrainingRequest {
            head: "h".parse().unwrap(),
            dataset: "d".parse().unwrap(),
            backbone: "b".parse().unwrap(),
            options: TrainingOptions::default(),
            promotion: Promotion::default(),
        };
        let id = jobs.queue(&request).unwrap().record.id;
        if let Some(mut news) = jobs.watch(id) {
            while news.has_changed().is_ok() {
                news.borrow_and_update();
                std::thread::yield_now();
            }
        }
        let told = jobs.get(id).unwrap().progress;
        assert_eq!((told.phase.as_str(), told.done), ("judging", 0.5));
        assert_eq!((told.loss, told.held_out_accuracy), (Some(0.7), Some(0.9)));
        assert!(told.remaining_seconds.is_some());
    }
}
