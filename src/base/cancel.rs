//! A flag that long work looks at, so that it can be told to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Asks work to stop, by hand or at a deadline. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    asked: Arc<AtomicBool>,
    deadline: Option<Instant>,
    parent: Option<Arc<Self>>,
    give_way: Option<GiveWay>,
}

/// Does one piece of more urgent work, if any waits, and says whether it did.
#[derive(Clone)]
struct GiveWay(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for GiveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GiveWay")
    }
}

/// The work was told to stop before it had finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cancelled {
    /// The caller hung up or asked for it.
    #[error("cancelled by the caller")]
    ByCaller,
    /// The deadline passed.
    #[error("the deadline passed before the work was done")]
    DeadlineExceeded,
}

impl Cancel {
    /// A flag that also counts as raised once `deadline` has passed.
    pub fn with_deadline(deadline: Option<Instant>) -> Self {
        Self { deadline, ..Self::default() }
    }

    /// A flag for a part of the work: it counts as raised when this one is, and can be raised
    /// without raising this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let deadline = self.deadline;
        let give_way = self.give_way.clone();
        Self { asked: Arc::default(), deadline, parent: Some(Arc::new(self.clone())), give_way }
    }

    /// Raises the flag for every clone.
    pub fn cancel(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// The moment after which [`Cancel::check`] fails, if there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// To be called between steps of at most a few tens of milliseconds.
    ///
    /// # Errors
    /// Says which of the two reasons to stop holds.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.asked.load(Ordering::Relaxed) {
            return Err(Cancelled::ByCaller);
        }
        if let Some(parent) = &self.parent {
            parent.check()?;
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Cancelled::DeadlineExceeded),
            _ => Ok(()),
        }
    }

    /// The same flag for work that gives way at its checkpoints: `urgent` does one piece of more urgent
    /// work, if any waits, and says whether it did.
    #[must_use]
    pub fn giving_way(self, urgent: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { give_way: Some(GiveWay(Arc::new(urgent))), ..self }
    }

    /// A place where long work can be interrupted: more urgent work that waits is done here first.
    /// To be called between steps of at most a few tens of milliseconds, with no lock held.
    ///
    /// # Errors
    /// As [`Cancel::check`].
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        self.check()?;
        if let Some(GiveWay(urgent)) = &self.give_way {
            while urgent() {
                self.check()?;
            }
        }
        Ok(())
    }

    /// Raises the flag when the returned guard is dropped: a caller that hangs up drops its future,
    /// the future drops the guard, and the work stops.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// See [`Cancel::on_drop`].
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_clone_sees_that_the_flag_was_raised() {
        let cancel = Cancel::default();
        let clone = cancel.clone();
        assert_eq!(clone.check(), Ok(()));
        drop(cancel.on_drop());
        assert_eq!(clone.check(), Err(Cancelled::ByCaller));
    }

    #[test]
    fn a_child_is_raised_by_its_parent_but_not_the_other_way_round() {
        let parent = Cancel::default();
        let (first, second) = (parent.child(), parent.child());
        first.cancel();
        assert_eq!((parent.check(), second.check()), (Ok(()), Ok(())));
        parent.cancel();
        assert_eq!(second.check(), Err(Cancelled::ByCaller));
    }

    #[test]
    fn a_checkpoint_does_all_urgent_work_that_waits_and_sees_the_flag_between() {
        let left = Arc::new(AtomicUsize::new(3));
        let (urgent, plain) = (Arc::clone(&left), Cancel::default());
        let take = move || {
            urgent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        };
        let cancel = plain.clone().giving_way(take);
        assert_eq!((plain.checkpoint(), left.load(Ordering::Relaxed)), (Ok(()), 3));
        assert_eq!((cancel.checkpoint(), left.load(Ordering::Relaxed)), (Ok(()), 0));
        left.store(2, Ordering::Relaxed);
        plain.cancel();
        assert_eq!(cancel.checkpoint(), Err(Cancelled::ByCaller));
        assert_eq!(left.load(Ordering::Relaxed), 2, "nobody waits for a job that was given up");
    }

    #[test]
    fn a_deadline_in_the_past_counts_as_raised() {
        let cancel = Cancel::with_deadline(Some(Instant::now()));
        assert_eq!(cancel.check(), Err(Cancelled::DeadlineExceeded));
    }
}
