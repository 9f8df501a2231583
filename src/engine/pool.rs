//! Worker threads and the bounded queue before them.
//!
//! Each worker runs whole images, one at a time: parallelism goes across images, since tract is
//! fastest with one image a run. Predictions go first; then samples that come in, which may use every
//! worker that nobody else wants; background work (explanations, embeddings for training) starts only
//! while another worker stays idle, so that it never holds the last one. Where there is but one worker
//! it starts when nothing else waits, and gives way at its checkpoints: the predictions that have come
//! in the meantime run between two of its forward runs.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::EngineError;
use crate::base::{cancel::Cancel, memory};

/// After so long without work the workers give back the memory that the last runs have freed: long
/// enough that one photograph every few seconds does not pay for it.
const REST: Duration = Duration::from_secs(10);

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer: predictions and embeddings.
    Foreground,
    /// Samples on their way into the store: after predictions, on all workers.
    Intake,
    /// May wait: explanations, training.
    Background,
}

/// How many workers and how long a queue.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Jobs of each priority that may wait, at least 1; of [`Priority::Intake`]
    /// [`PoolOptions::intake`].
    pub queue: usize,
}

impl PoolOptions {
    /// Samples that are embedded or wait for it at one time: as many again as there are workers, so
    /// that none of them waits for the next one.
    #[must_use]
    pub fn intake(&self) -> usize {
        2 * self.workers.max(1)
    }

    fn room(&self, priority: Priority) -> usize {
        match priority {
            Priority::Foreground | Priority::Background => self.queue,
            Priority::Intake => self.intake(),
        }
    }
}

/// The worker threads. Dropping it stops them after the jobs that they are running.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the queue has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatistics {
    /// Worker threads.
    pub workers: usize,
    /// Workers that run a job now.
    pub busy: usize,
    /// Jobs that wait now, of all priorities.
    pub queued: usize,
    /// Jobs that ran to their end since the start.
    pub finished: u64,
    /// Jobs that were refused because the queue was full.
    pub refused: u64,
    /// Jobs whose caller hung up or whose deadline passed before they began.
    pub abandoned: u64,
}

type Work = Box<dyn FnOnce(Duration) + Send>;

struct Job {
    id: u64,
    cancel: Cancel,
    queued_at: Instant,
    work: Work,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a job arrives, a worker becomes idle or the pool closes.
    changed: Condvar,
    options: PoolOptions,
    /// Quiet time after which memory is given back.
    rest: Duration,
}

#[derive(Default)]
struct State {
    foreground: VecDeque<Job>,
    intake: VecDeque<Job>,
    background: VecDeque<Job>,
    next_id: u64,
    busy: usize,
    closed: bool,
    finished: u64,
    refused: u64,
    abandoned: u64,
    /// Whether memory was given back since the last job.
    rested: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queued = (self.foreground.len(), self.intake.len(), self.background.len());
        f.debug_struct("State")
            .field("queued", &queued)
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

/// The answer of a job to come. Dropping it frees the job's place in the queue and raises its
/// [`Cancel`].
#[derive(Debug)]
pub struct Ticket<T> {
    answer: oneshot::Receiver<T>,
    place: Place,
}

#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    id: u64,
    cancel: Cancel,
}

impl Pool {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the system grants no more threads.
    pub fn start(options: PoolOptions) -> std::io::Result<Self> {
        Self::start_with_rest(options, REST)
    }

    fn start_with_rest(options: PoolOptions, rest: Duration) -> std::io::Result<Self> {
        let options = PoolOptions { workers: options.workers.max(1), queue: options.queue.max(1) };
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, options, rest });
        let threads = (0..options.workers)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let name = format!("graftd-worker-{index}");
                std::thread::Builder::new().name(name).spawn(move || shared.serve())
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok(Self { shared, threads })
    }

    /// Queues `work`, which gets the time that it waited and a flag to look at. A job whose caller
    /// hung up or whose deadline passed is dropped without being run.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`] at once, [`EngineError::Draining`] once the pool closes.
    pub fn submit<T: Send + 'static>(
        &self,
        priority: Priority,
        cancel: Cancel,
        work: impl FnOnce(&Cancel, Duration) -> T + Send + 'static,
    ) -> Result<Ticket<T>, EngineError> {
        let (sender, answer) = oneshot::channel();
        let flag = match priority {
            Priority::Foreground | Priority::Intake => cancel.clone(),
            Priority::Background => {
                let shared = Arc::clone(&self.shared);
                cancel.clone().giving_way(move || shared.run_urgent())
            }
        };
        let work: Work = Box::new(move |waited| {
            // The receiver is gone only if the caller hung up while the job ran.
            let _ = sender.send(work(&flag, waited));
        });
        let id = self.shared.push(priority, cancel.clone(), work)?;
        Ok(Ticket { answer, place: Place { shared: Arc::clone(&self.shared), id, cancel } })
    }

    /// What the queue has done so far.
    pub fn statistics(&self) -> PoolStatistics {
        let state = self.shared.lock();
        PoolStatistics {
            workers: self.shared.options.workers,
            busy: state.busy,
            queued: state.queued(),
            finished: state.finished,
            refused: state.refused,
            abandoned: state.abandoned,
        }
    }

    /// Takes no more jobs; those in the queue are still run.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.foreground.clear();
            state.intake.clear();
            state.background.clear();
        }
        self.shared.changed.notify_all();
        // A job may hold what holds the pool: the worker that lets go of it last cannot wait for itself.
        let own = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            // A worker catches the panics of its jobs, so there is nothing to learn from it.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, priority: Priority, cancel: Cancel, work: Work) -> Result<u64, EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::Draining);
        }
        let room = self.options.room(priority);
        if state.queue(priority).len() >= room {
            state.drop_abandoned(priority);
        }
        if state.queue(priority).len() >= room {
            state.refused += 1;
            return Err(EngineError::QueueFull { length: room });
        }
        let id = state.next_id;
        state.next_id += 1;
        state.queue(priority).push_back(Job { id, cancel, queued_at: Instant::now(), work });
        drop(state);
        // Whoever wakes may not be allowed to take background work, so all have to look.
        self.changed.notify_all();
        Ok(id)
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            let ran = job.run();
            let mut state = self.lock();
            state.busy -= 1;
            state.count(ran);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// On a worker in the middle of background work: runs the next foreground job, if one waits that
    /// no idle worker is about to take. Returns whether it did.
    fn run_urgent(&self) -> bool {
        let mut state = self.lock();
        if state.busy < self.options.workers {
            return false;
        }
        let Some(job) = state.foreground.pop_front() else { return false };
        drop(state);
        let ran = job.run();
        self.lock().count(ran);
        true
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let idle = self.options.workers - state.busy;
            let spares_one = idle >= 2 || self.options.workers == 1;
            let wanted = state.foreground.pop_front().or_else(|| state.intake.pop_front());
            let job = match wanted {
                None if spares_one => state.background.pop_front(),
                job => job,
            };
            if let Some(job) = job {
                state.busy += 1;
                state.rested = false;
                return Some(job);
            }
            if state.closed && state.background.is_empty() {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Waits for a change, and gives memory back where none comes for long after work.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.rested || state.busy > 0 {
            return self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout(state, self.rest);
        let (mut state, quiet) = waited.unwrap_or_else(PoisonError::into_inner);
        if !quiet.timed_out() || state.rested || state.busy > 0 {
            return state;
        }
        state.rested = true;
        drop(state);
        memory::give_back();
        self.lock()
    }
}

impl Job {
    /// Runs it unless nobody waits for it any more; returns whether it ran.
    fn run(self) -> bool {
        let Self { cancel, queued_at, work, .. } = self;
        let waited = queued_at.elapsed();
        let wanted = cancel.check().is_ok();
        if wanted {
            // The job's sender is dropped by the panic, which its ticket reports.
            let _ = catch_unwind(AssertUnwindSafe(|| work(waited)));
        }
        wanted
    }
}

impl State {
    fn count(&mut self, ran: bool) {
        if ran {
            self.finished += 1;
        } else {
            self.abandoned += 1;
        }
    }

    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Job> {
        match priority {
            Priority::Foreground => &mut self.foreground,
            Priority::Intake => &mut self.intake,
            Priority::Background => &mut self.background,
        }
    }

    fn queued(&self) -> usize {
        self.foreground.len() + self.intake.len() + self.background.len()
    }

    fn drop_abandoned(&mut self, priority: Priority) {
        let queue = self.queue(priority);
        let before = queue.len();
        queue.retain(|job| job.cancel.check().is_ok());
        self.abandoned += (before - queue.len()) as u64;
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let cancel = self.place.cancel.clone();
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.map_err(|_| lost(&cancel)))
    }
}

impl<T> Ticket<T> {
    /// Waits on this thread, for callers outside an asynchronous runtime.
    ///
    /// # Errors
    /// As for awaiting the ticket: cancelled, deadline passed, or a fault of ours.
    pub fn wait(mut self) -> Result<T, EngineError> {
        let (_, nothing) = oneshot::channel();
        let answer = std::mem::replace(&mut self.answer, nothing);
        let cancel = self.place.cancel.clone();
        answer.blocking_recv().map_err(|_| lost(&cancel))
    }

    /// As [`Ticket::wait`], but gives the job up once `cancel` is raised: a job of low priority may
    /// wait for its turn as long as there is other work.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn wait_unless(mut self, cancel: &Cancel) -> Result<T, EngineError> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut self).poll(&mut context) {
                return answer;
            }
            cancel.check()?;
            std::thread::park_timeout(LOOK_AT_FLAG);
        }
    }
}

/// How long a thread that waits for a ticket does not look at its flag, at most.
const LOOK_AT_FLAG: Duration = Duration::from_millis(20);

/// Wakes a thread that has parked itself.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Why a job was dropped without an answer.
fn lost(cancel: &Cancel) -> EngineError {
    match cancel.check() {
        Err(reason) => reason.into(),
        Ok(()) => EngineError::Fault("a worker panicked or the daemon is stopping".into()),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cancel.cancel();
        let mut state = self.shared.lock();
        let before = state.queued();
        state.foreground.retain(|job| job.id != self.id);
        state.intake.retain(|job| job.id != self.id);
        state.background.retain(|job| job.id != self.id);
        let gone = before - state.queued();
        state.abandoned += gone as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn pool(workers: usize, queue: usize) -> Pool {
        Pool::start(PoolOptions { workers, queue }).unwrap()
    }

    /// Occupies a worker until the returned sender is dropped.
    fn occupy(pool: &Pool, priority: Priority) -> (mpsc::Sender<()>, Ticket<()>) {
        let (release, released) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let work = move |_: &Cancel, _| {
            began.send(()).unwrap();
            let _ = released.recv();
        };
        let ticket = pool.submit(priority, Cancel::default(), work).unwrap();
        begun.recv().unwrap();
        (release, ticket)
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let pool = pool(1, 1);
        let (release, _running) = occupy(&pool, Priority::Foreground);
        let waiting = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 1).unwrap();
        let refused = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 2);
        assert!(matches!(refused, Err(EngineError::QueueFull { length: 1 })));
        drop(release);
        assert_eq!(waiting.wait().unwrap(), 1);
        assert_eq!(pool.statistics().refused, 1);
    }

    #[test]
    fn a_caller_that_hangs_up_frees_its_place() {
        let pool = pool(1, 1);
        let (release, _running) = occupy(&pool, Priority::Foreground);
        drop(pool.submit(Priority::Foreground, Cancel::default(), |_, _| 1).unwrap());
        let next = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 2).unwrap();
        drop(release);
        assert_eq!(next.wait().unwrap(), 2);
        assert_eq!(pool.statistics().abandoned, 1);
    }

    #[test]
    fn a_job_whose_deadline_passed_gives_way_and_is_not_run() {
        let pool = pool(1, 1);
        let (release, _running) = occupy(&pool, Priority::Foreground);
        let late = Cancel::with_deadline(Some(Instant::now()));
        let late = pool.submit(Priority::Foreground, late, |_, _| panic!("must not run")).unwrap();
        let next = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 2).unwrap();
        drop(release);
        assert_eq!(next.wait().unwrap(), 2);
        assert!(matches!(late.wait(), Err::<(), _>(EngineError::DeadlineExceeded)));
    }

    #[test]
    fn background_work_leaves_one_worker_idle() {
        let pool = pool(2, 4);
        let (release, first) = occupy(&pool, Priority::Background);
        let second = pool.submit(Priority::Background, Cancel::default(), |_, _| ()).unwrap();
        let prediction = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 7).unwrap();
        assert_eq!(prediction.wait().unwrap(), 7, "the second worker was kept free for it");
        assert_eq!(pool.statistics().queued, 1, "the second background job still waits");
        drop(release);
        first.wait().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn predictions_overtake_samples_that_wait_and_those_take_every_idle_worker() {
        let pool = pool(2, 1);
        let (release, first) = occupy(&pool, Priority::Intake);
        let (_hold, _second) = occupy(&pool, Priority::Intake);
        let (order, said) = mpsc::channel();
        let mut waiting = Vec::new();
        let mut give = |priority, name: &'static str| {
            let order = order.clone();
            let work = move |_: &Cancel, _| order.send(name).unwrap();
            pool.submit(priority, Cancel::default(), work).map(|ticket| waiting.push(ticket))
        };
        give(Priority::Background, "background").unwrap();
        for _ in 0..4 {
            give(Priority::Intake, "sample").unwrap();
        }
        let full = give(Priority::Intake, "one too many");
        assert!(matches!(full, Err(EngineError::QueueFull { length: 4 })));
        give(Priority::Foreground, "prediction").unwrap();
        drop(release);
        first.wait().unwrap();
        let order: Vec<_> = (0..5).map(|_| said.recv().unwrap()).collect();
        assert_eq!(order, ["prediction", "sample", "sample", "sample", "sample"]);
    }

    #[test]
    fn a_single_worker_does_background_work_when_nothing_else_waits() {
        let pool = pool(1, 4);
        let ticket = pool.submit(Priority::Background, Cancel::default(), |_, _| 3).unwrap();
        assert_eq!(ticket.wait().unwrap(), 3);
    }

    #[test]
    fn predictions_run_at_the_checkpoints_of_background_work_that_holds_the_only_worker() {
        let pool = pool(1, 4);
        let (order, seen) = mpsc::channel();
        let (began, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let log = order.clone();
        let long = move |cancel: &Cancel, _| {
            began.send(()).unwrap();
            gone.recv().unwrap();
            cancel.checkpoint().unwrap();
            log.send("background").unwrap();
        };
        let long = pool.submit(Priority::Background, Cancel::default(), long).unwrap();
        begun.recv().unwrap();
        let first = order.clone();
        let say = move |_: &Cancel, _| first.send("prediction").unwrap();
        let prediction = pool.submit(Priority::Foreground, Cancel::default(), say).unwrap();
        let bad = pool.submit(Priority::Foreground, Cancel::default(), |_, _| panic!("test"));
        let other = pool.submit(Priority::Background, Cancel::default(), |_, _| ()).unwrap();
        go.send(()).unwrap();
        prediction.wait().unwrap();
        long.wait().unwrap();
        other.wait().unwrap();
        assert!(matches!(bad.unwrap().wait(), Err::<(), _>(EngineError::Fault(_))));
        drop(order);
        assert_eq!(seen.iter().collect::<Vec<_>>(), ["prediction", "background"]);
    }

    #[test]
    fn waiting_ends_with_the_flag_even_if_the_job_never_gets_its_turn() {
        let pool = pool(2, 4);
        let (release, running) = occupy(&pool, Priority::Background);
        let starved = pool.submit(Priority::Background, Cancel::default(), |_, _| ()).unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(matches!(starved.wait_unless(&cancel), Err(EngineError::Cancelled)));
        assert_eq!(pool.statistics().abandoned, 1, "and its place in the queue is free");
        let next = pool.submit(Priority::Background, Cancel::default(), |_, _| 5).unwrap();
        drop(release);
        running.wait().unwrap();
        assert_eq!(next.wait_unless(&Cancel::default()).unwrap(), 5);
    }

    #[test]
    fn a_job_that_panics_is_an_error_and_the_worker_lives_on() {
        let pool = pool(1, 4);
        let bad =
            pool.submit(Priority::Foreground, Cancel::default(), |_, _| panic!("test")).unwrap();
        assert!(matches!(bad.wait(), Err::<(), _>(EngineError::Fault(_))));
        let good = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 1).unwrap();
        assert_eq!(good.wait().unwrap(), 1);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn workers_that_rest_give_back_what_their_jobs_have_freed() {
        let options = PoolOptions { workers: 2, queue: 4 };
        let pool = Pool::start_with_rest(options, Duration::from_millis(10)).unwrap();
        let resident = || crate::base::host::Host::default().memory().resident;
        let work = move |_: &Cancel, _| {
            let pieces: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 64 << 10]).collect();
            let kept: Vec<Vec<u8>> = pieces.into_iter().skip(1).step_by(64).collect();
            (resident(), kept)
        };
        let (freed, kept) =
            pool.submit(Priority::Foreground, Cancel::default(), work).unwrap().wait().unwrap();
        let patience = Instant::now() + Duration::from_mins(1);
        while resident() + (64 << 20) > freed {
            assert!(Instant::now() < patience, "{freed} bytes before, {} after", resident());
            std::thread::yield_now();
        }
        drop(kept);
    }

    #[test]
    fn a_closed_pool_finishes_what_waits_and_takes_no_more() {
        let pool = pool(1, 4);
        let (release, running) = occupy(&pool, Priority::Foreground);
        let waiting = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 1).unwrap();
        pool.close();
        let refused = pool.submit(Priority::Foreground, Cancel::default(), |_, _| 2);
        assert!(matches!(refused, Err(EngineError::Draining)));
        drop(release);
        running.wait().unwrap();
        assert_eq!(waiting.wait().unwrap(), 1);
    }
}
