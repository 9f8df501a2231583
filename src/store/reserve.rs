//! Room that is kept for deleting. On a full disk not even a deletion could be logged, and the daemon
//! could not start; so a file holds some room, which is given up then and taken back afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::error::{Result, StoreError};
use super::folder::StateFolder;
use super::open::Store;

/// A full log, which has to go into the database before it can be cut, and a little more.
const BYTES: u64 = 20 << 20;
/// On a small disk no more than this part of what is free.
const PART: u64 = 16;

/// How much is deleted in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As is quick.
    Usual,
    /// A little at a time, the log cut after each: the disk is full.
    Careful,
}

/// The file that holds the room.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    given_up: AtomicBool,
}

impl Reserve {
    /// Takes the room, if it can be had.
    pub(super) fn new(folder: &StateFolder) -> Self {
        let reserve =
            Self { path: folder.root().join("reserve"), given_up: AtomicBool::new(false) };
        reserve.take();
        reserve
    }

    /// Whether the room is there; takes it where it is not. As long as it cannot be had, the disk is as
    /// good as full, and nothing may come in that would eat what a deletion needs.
    pub(super) fn is_there(&self) -> bool {
        !self.given_up.load(Ordering::Acquire) || self.take()
    }

    /// Takes the room, on a small disk less. Where something else than a full disk stands against it,
    /// nothing is gained by refusing what comes in.
    fn take(&self) -> bool {
        let taken = self.try_take();
        let full = taken.as_ref().is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        });
        let known = self.given_up.swap(full, Ordering::AcqRel) && full;
        if let Err(error) = taken
            && !known
        {
            tracing::warn!(path = %self.path.display(), %error, "no room can be kept for deleting");
        }
        !full
    }

    fn try_take(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let there = file.metadata()?.len();
        let disk = statvfs(&self.path)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(there);
        let wanted = BYTES.min(free / PART);
        if there < wanted {
            allocate(&mut file, there, wanted - there)?;
        }
        Ok(())
    }

    /// Frees the room.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "the room kept for deleting stays");
        }
    }

    /// Runs `work`, on a full disk once more with the room given up.
    ///
    /// # Errors
    /// What `work` returns.
    pub(super) fn with<T>(&self, mut work: impl FnMut(Pace) -> Result<T>) -> Result<T> {
        match work(Pace::Usual) {
            Err(StoreError::DiskFull) => {
                self.give_up();
                let outcome = work(Pace::Careful);
                self.take();
                outcome
            }
            outcome => outcome,
        }
    }
}

fn allocate(file: &mut File, start: u64, bytes: u64) -> io::Result<()> {
    match fallocate(&*file, FallocateFlags::empty(), start, bytes) {
        // Some file systems can only be written to.
        Err(Errno::OPNOTSUPP) => {
            let block = [0; 1 << 16];
            let mut left = bytes;
            while left > 0 {
                let count = left.min(block.len() as u64);
                file.write_all(&block[..count as usize])?;
                left -= count;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

impl Store {
    /// Deletes something, on a full disk with the room that is kept for this; `work` may run twice.
    ///
    /// # Errors
    /// What `work` returns.
    pub(super) fn making_room<T>(&self, mut work: impl FnMut(Pace) -> Result<T>) -> Result<T> {
        match self.reserve() {
            Some(reserve) => reserve.with(work),
            None => work(Pace::Usual),
        }
    }
}
