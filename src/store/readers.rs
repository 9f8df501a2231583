//! Connections for reading, lent to one caller at a time.

use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::error::Result;
use super::folder::StateFolder;
use super::open::Options;
use super::schema;

/// Idle connections that are kept; each costs some 2 MB of page cache at most.
const KEPT: usize = 4;

pub(super) struct Readers {
    folder: StateFolder,
    options: Options,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(folder: StateFolder, options: Options) -> Self {
        Self { folder, options, idle: Mutex::default() }
    }

    /// Runs `work` in a read transaction: everything it sees is of one moment.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => schema::open_reader(&self.folder, &self.options)?,
        };
        let transaction = connection.transaction()?;
        let result = work(&transaction)?;
        transaction.finish()?;
        let mut idle = idle();
        if idle.len() < KEPT {
            idle.push(connection);
        }
        Ok(result)
    }
}
