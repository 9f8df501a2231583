//! The one thread that writes.
//!
//! Operations queue up and are applied in groups, one transaction each: at most [`GROUP`] of them,
//! at most [`GATHER`] after the COMMIT before. A writer that was idle for longer commits at once.
//! Each operation runs in a savepoint, so that one which is refused takes no other with it. Nobody
//! is told of success before COMMIT has returned, and with `synchronous = FULL` that is after the
//! medium said that it has the data.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rusqlite::Connection;

use super::error::{Result, StoreError};
use super::folder::StateFolder;
use super::image::{self, StagedFile};
use super::ledger::Ledger;
use super::schema::BUSY_TIMEOUT;

/// Most operations in one transaction.
const GROUP: usize = 64;
/// Longest time between two COMMITs while operations come in one by one.
const GATHER: Duration = Duration::from_millis(50);
/// Operations that may wait; further callers block. Large images are files by then, so one holds
/// some 100 KB at most.
const QUEUE: usize = 256;
/// After this much quiet the writer clears away what was deleted.
const IDLE: Duration = Duration::from_millis(500);
/// Without such quiet, it clears away once this much time has passed since.
pub(super) const ERASE_WITHIN: Duration = Duration::from_secs(5);
/// How long it then waits for a reader that is in the way: a stream waits with it.
const ERASE_PATIENCE: Duration = Duration::from_millis(50);

/// Whether an operation may wait for others to share its COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Batch,
    Now,
}

/// What an operation works on.
pub(super) struct Session<'a> {
    pub(super) connection: &'a Connection,
    pub(super) effects: &'a mut Effects,
    ledger: &'a Mutex<Ledger>,
}

impl Session<'_> {
    /// The ledger, locked: let go of it before calling anything that takes a session.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(self.ledger)
    }
}

/// What happens outside the database once the group is durable.
#[derive(Default)]
pub(super) struct Effects {
    /// New files, which have a row then.
    pub(super) staged: Vec<StagedFile>,
    /// Files that have no row any more.
    pub(super) unlinked: Vec<String>,
    /// Whether something was deleted.
    pub(super) erase: bool,
}

impl Effects {
    fn add(&mut self, other: Self) {
        self.staged.extend(other.staged);
        self.unlinked.extend(other.unlinked);
        self.erase |= other.erase;
    }
}

trait Operation: Send {
    fn urgency(&self) -> Urgency;
    /// Runs the operation and keeps its outcome; returns why its changes are not to stay, if so.
    fn apply(&mut self, session: &mut Session<'_>) -> Option<StoreError>;
    /// Hands the outcome over, or the reason why the whole group failed.
    fn finish(self: Box<Self>, group: &Result<()>);
}

struct Pending<T, A, F> {
    urgency: Urgency,
    apply: Option<A>,
    outcome: Option<Result<T>>,
    done: F,
}

impl<T, A, F> Operation for Pending<T, A, F>
where
    T: Send,
    A: FnOnce(&mut Session<'_>) -> Result<T> + Send,
    F: FnOnce(Result<T>) + Send,
{
    fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn apply(&mut self, session: &mut Session<'_>) -> Option<StoreError> {
        self.outcome = self.apply.take().map(|apply| apply(session));
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err().cloned())
    }

    fn finish(self: Box<Self>, group: &Result<()>) {
        let outcome = match (self.outcome, group) {
            // Its own reason says more than the group's.
            (Some(Err(own)), _) => Err(own),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(error)) => Err(error.clone()),
            (None, Ok(())) => Err(StoreError::Closed),
        };
        (self.done)(outcome);
    }
}

/// Where to say whether the log is empty now.
type EraseAnswer = Sender<Result<bool>>;

enum Message {
    Apply(Box<dyn Operation>),
    /// Truncate the log, so that nothing deleted is left in it.
    Erase(EraseAnswer),
    Close,
}

/// The handle of the thread; dropping it lets the thread finish its queue and waits for that.
pub(super) struct Writer {
    sender: Sender<Message>,
    commits: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn spawn(
        connection: Connection,
        ledger: Arc<Mutex<Ledger>>,
        folder: StateFolder,
        erase_within: Duration,
    ) -> Result<Self> {
        let (sender, receiver) = bounded(QUEUE);
        let folder_path = folder.root().to_owned();
        let commits = Arc::<AtomicU64>::default();
        let mut state = Thread {
            connection,
            ledger,
            folder,
            receiver,
            commits: Arc::clone(&commits),
            last_commit: None,
            erase_due: None,
            erase_within,
            closing: false,
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || state.run())
            .map_err(|error| StoreError::io(&folder_path, error))?;
        Ok(Self { sender, commits, thread: Some(thread) })
    }

    pub(super) fn submit<T, A, F>(&self, urgency: Urgency, apply: A, done: F)
    where
        T: Send + 'static,
        A: FnOnce(&mut Session<'_>) -> Result<T> + Send + 'static,
        F: FnOnce(Result<T>) + Send + 'static,
    {
        let operation = Pending { urgency, apply: Some(apply), outcome: None, done };
        if let Err(refused) = self.sender.send(Message::Apply(Box::new(operation)))
            && let Message::Apply(operation) = refused.into_inner()
        {
            operation.finish(&Err(StoreError::Closed));
        }
    }

    /// COMMITs since the store was opened.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(super) fn erase(&self) -> Result<bool> {
        let (sender, receiver) = bounded(1);
        self.sender.send(Message::Erase(sender)).map_err(|_| StoreError::Closed)?;
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.sender.send(Message::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Thread {
    connection: Connection,
    ledger: Arc<Mutex<Ledger>>,
    folder: StateFolder,
    receiver: Receiver<Message>,
    commits: Arc<AtomicU64>,
    last_commit: Option<Instant>,
    /// Since when the log has held what was deleted, or when it was last tried to cut it.
    erase_due: Option<Instant>,
    erase_within: Duration,
    closing: bool,
}

impl Thread {
    fn run(&mut self) {
        while !self.closing {
            let first = if self.erase_due.is_some() {
                self.receiver.recv_timeout(IDLE)
            } else {
                self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match first {
                Ok(Message::Apply(operation)) => {
                    let (group, erase) = self.gather(operation);
                    self.commit(group);
                    self.answer_erase(erase);
                    self.erase_overdue();
                }
                Ok(Message::Erase(answer)) => self.answer_erase(Some(answer)),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.erase() {
                        tracing::error!(%error, "deleted bytes could not be cleared away");
                    }
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => self.closing = true,
            }
        }
        if let Err(error) = self.erase() {
            tracing::warn!(%error, "the log could not be cut at closing");
        }
    }

    /// Collects what shares the next COMMIT with `first`.
    fn gather(
        &mut self,
        first: Box<dyn Operation>,
    ) -> (Vec<Box<dyn Operation>>, Option<EraseAnswer>) {
        let commit_at = self.last_commit.map(|last| last + GATHER);
        let mut urgent = first.urgency() == Urgency::Now;
        let mut group = vec![first];
        while group.len() < GROUP {
            // The receiver looks for a message before it looks at the clock: on a busy machine, where
            // one is there at every look, it alone would never end the group.
            let next = match commit_at {
                Some(at) if !urgent && Instant::now() < at => self.receiver.recv_deadline(at),
                _ => self.receiver.try_recv().map_err(|_| RecvTimeoutError::Timeout),
            };
            match next {
                Ok(Message::Apply(operation)) => {
                    urgent |= operation.urgency() == Urgency::Now;
                    group.push(operation);
                }
                Ok(Message::Erase(answer)) => return (group, Some(answer)),
                Ok(Message::Close) => {
                    self.closing = true;
                    break;
                }
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Operation>>) {
        let mut effects = Effects::default();
        let result = self.transact(&mut group, &mut effects);
        let result = result.map_err(|failure| self.folder.diagnose(failure));
        match &result {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                effects.staged.drain(..).for_each(StagedFile::commit);
                image::remove_files(&self.folder, &effects.unlinked);
                if effects.erase {
                    self.erase_due.get_or_insert_with(Instant::now);
                }
            }
            Err(error) => {
                tracing::error!(%error, operations = group.len(), "a COMMIT failed");
                self.recover();
            }
        }
        self.last_commit = Some(Instant::now());
        for operation in group {
            operation.finish(&result);
        }
    }

    fn transact(&self, group: &mut [Box<dyn Operation>], effects: &mut Effects) -> Result<()> {
        let execute = |sql| -> Result<()> {
            self.connection.prepare_cached(sql)?.execute([])?;
            Ok(())
        };
        execute("BEGIN IMMEDIATE")?;
        for operation in group {
            execute("SAVEPOINT operation")?;
            let changes = lock(&self.ledger).changes();
            let mut own = Effects::default();
            let mut session =
                Session { connection: &self.connection, effects: &mut own, ledger: &self.ledger };
            let failure = operation.apply(&mut session);
            if let Some(failure) = failure {
                // Some failures, such as a full disk, end the whole transaction by themselves.
                if self.connection.is_autocommit() {
                    return Err(failure);
                }
                execute("ROLLBACK TO operation")?;
                if lock(&self.ledger).changes() != changes {
                    let sums = Ledger::load(&self.connection)?;
                    *lock(&self.ledger) = sums;
                }
            } else {
                effects.add(own);
            }
            execute("RELEASE operation")?;
        }
        let indexed = lock(&self.ledger).recent_if_many();
        for (_, key) in &indexed {
            self.connection
                .prepare_cached("UPDATE samples SET indexed = 1 WHERE key = ?1")?
                .execute([key.0])?;
        }
        execute("COMMIT")?;
        lock(&self.ledger).forget_recent(&indexed);
        Ok(())
    }

    /// After a failed group: back to what the database says.
    fn recover(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a failed transaction could not be rolled back");
        }
        match Ledger::load(&self.connection) {
            Ok(ledger) => *lock(&self.ledger) = ledger,
            Err(error) => tracing::error!(%error, "the store's sums could not be read again"),
        }
    }

    fn answer_erase(&mut self, answer: Option<EraseAnswer>) {
        if let Some(answer) = answer {
            let _ = answer.send(self.erase());
        }
    }

    /// Checkpoints everything and cuts the log to nothing. `false`: a reader was in the way for
    /// longer than the busy timeout; it is tried again at the next idle moment.
    fn erase(&mut self) -> Result<bool> {
        let busy: i64 =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        self.erase_due = (busy != 0).then(Instant::now);
        Ok(busy == 0)
    }

    /// A stream that never pauses must not keep deleted bytes in the log for ever.
    fn erase_overdue(&mut self) {
        if self.erase_due.is_none_or(|due| due.elapsed() < self.erase_within) {
            return;
        }
        let patience = |connection: &Connection, timeout| {
            connection.busy_timeout(timeout).map_err(StoreError::from)
        };
        let outcome = patience(&self.connection, ERASE_PATIENCE).and_then(|()| self.erase());
        let restored = patience(&self.connection, BUSY_TIMEOUT);
        if let Err(error) = outcome.and(restored) {
            // Not again with the next COMMIT: the medium that fails has enough to do.
            self.erase_due = Some(Instant::now());
            tracing::error!(%error, "deleted bytes could not be cleared away");
        }
    }
}

/// Locks; a thread that panicked while it held the ledger has left sums at worst, and those are
/// made anew after every failure.
pub(super) fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
