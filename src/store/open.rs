//! Opening and closing the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::Connection;

use super::error::{Result, StoreError};
use super::folder::{StateFolder, StateLock};
use super::image;
use super::job;
use super::ledger::Ledger;
use super::readers::Readers;
use super::reserve::Reserve;
use super::schema;
use super::writer::{self, Session, Urgency, Writer};

/// How hard COMMIT pushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// The log is flushed to the medium before COMMIT returns: what was acknowledged survives a
    /// power cut.
    #[default]
    Full,
    /// The log is flushed at checkpoints only: a power cut loses the latest samples, though the
    /// database stays sound. For tests that show the difference, and for throw-away stores.
    Normal,
}

/// How to open a store. The default is right for a device.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How hard COMMIT pushes.
    pub synchronous: Synchronous,
    /// The SQLite virtual file system to use, by name; for tests that watch or break the medium.
    pub vfs: Option<String>,
    /// How long deleted bytes may stay in the log while samples stream in without a pause; `None` for
    /// five seconds.
    pub erase_within: Option<Duration>,
}

/// A store that is open. Clones share it; it closes when the last one is dropped, after everything
/// that was handed to it has been written.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    // Dropped in this order: the writer finishes while the lock is still held.
    writer: Option<Writer>,
    readers: Readers,
    ledger: Arc<Mutex<Ledger>>,
    folder: StateFolder,
    reserve: Option<Reserve>,
    _lock: Option<StateLock>,
}

impl Store {
    /// Opens the store in the state folder, making it where there is none, and takes the folder's
    /// lock. Jobs that were running when it was last left are marked as interrupted.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::NewerSchema`], [`StoreError::Corrupt`],
    /// [`StoreError::ReadOnly`].
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(folder, Options::default())
    }

    /// As [`Store::open`] with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(folder: &Path, options: Options) -> Result<Self> {
        let folder = StateFolder::new(folder);
        folder.create()?;
        let lock = StateLock::acquire(folder.root())?;
        let reserve = Reserve::new(&folder);
        let (connection, ledger) = reserve.with(|_| {
            let connection = schema::open_writer(&folder, &options)
                .map_err(|failure| folder.diagnose(failure))?;
            // Before the first operation, so that no new file can be mistaken for a left-over one.
            image::sweep(&folder, &connection)?;
            job::mark_interrupted(&connection)?;
            let ledger = Ledger::load(&connection)?;
            Ok((connection, Arc::new(Mutex::new(ledger))))
        })?;
        let erase_within = options.erase_within.unwrap_or(writer::ERASE_WITHIN);
        let writer = Writer::spawn(connection, Arc::clone(&ledger), folder.clone(), erase_within)?;
        Ok(Self(Arc::new(Inner {
            writer: Some(writer),
            readers: Readers::new(folder.clone(), options),
            ledger,
            folder,
            reserve: Some(reserve),
            _lock: Some(lock),
        })))
    }

    /// Opens an existing store for reading, also while a daemon has it open. Sums and names are of
    /// this moment.
    ///
    /// # Errors
    /// [`StoreError::NoState`] where there is nothing to read; every write answers
    /// [`StoreError::ReadOnly`].
    pub fn open_read_only(folder: &Path) -> Result<Self> {
        let folder = StateFolder::new(folder);
        let readers = Readers::new(folder.clone(), Options::default());
        let ledger = readers.read(Ledger::load)?;
        Ok(Self(Arc::new(Inner {
            writer: None,
            readers,
            ledger: Arc::new(Mutex::new(ledger)),
            folder,
            reserve: None,
            _lock: None,
        })))
    }

    /// The state folder.
    pub fn path(&self) -> PathBuf {
        self.0.folder.root().to_owned()
    }

    pub(super) fn folder(&self) -> &StateFolder {
        &self.0.folder
    }

    /// The room kept for deleting; `None` where the store is open for reading.
    pub(super) fn reserve(&self) -> Option<&Reserve> {
        self.0.reserve.as_ref()
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        writer::lock(&self.0.ledger)
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.0.readers.read(work)
    }

    /// Hands an operation to the writer; `done` runs on the writer's thread after COMMIT.
    pub(super) fn submit<T, A, F>(&self, urgency: Urgency, apply: A, done: F)
    where
        T: Send + 'static,
        A: FnOnce(&mut Session<'_>) -> Result<T> + Send + 'static,
        F: FnOnce(Result<T>) + Send + 'static,
    {
        match &self.0.writer {
            Some(writer) => writer.submit(urgency, apply, done),
            None => done(Err(read_only())),
        }
    }

    /// As [`Store::submit`], and waits for the outcome.
    pub(super) fn write<T, A>(&self, urgency: Urgency, apply: A) -> Result<T>
    where
        T: Send + 'static,
        A: FnOnce(&mut Session<'_>) -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.submit(urgency, apply, move |outcome| {
            let _ = sender.send(outcome);
        });
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }

    pub(super) fn commits(&self) -> u64 {
        self.0.writer.as_ref().map_or(0, Writer::commits)
    }

    /// Makes what was deleted vanish from the log as well. `false`: a long read was in the way.
    pub(super) fn erase(&self) -> Result<bool> {
        self.0.writer.as_ref().ok_or_else(read_only)?.erase()
    }
}

fn read_only() -> StoreError {
    StoreError::ReadOnly("this process opened it for reading".to_owned())
}
