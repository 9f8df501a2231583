//! Work on many pictures that may wait: some at a time on the workers, at background priority.

use std::collections::VecDeque;
use std::time::Duration;

use super::LearningError;
use crate::base::cancel::Cancel;
use crate::engine::{Engine, EngineError, Priority, Ticket};

/// Pictures on their way at one time: enough to keep the workers busy that background work may use,
/// few enough to be gone soon after a cancellation.
const IN_FLIGHT: usize = 4;
/// How long to wait for room in the queue before looking again.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(10);

/// Pieces of work on the workers, whose outcomes come back in the order in which they were given.
pub(super) struct Background<'a, K, T> {
    engine: &'a Engine,
    cancel: &'a Cancel,
    running: VecDeque<(K, Ticket<T>)>,
}

impl<'a, K, T: Send + 'static> Background<'a, K, T> {
    pub(super) fn new(engine: &'a Engine, cancel: &'a Cancel) -> Self {
        Self { engine, cancel, running: VecDeque::new() }
    }

    /// Gives one more piece; returns the oldest outcome once enough are under way. A full queue is
    /// waited for.
    ///
    /// # Errors
    /// Cancelled; the daemon stops.
    pub(super) fn give(
        &mut self,
        key: K,
        work: impl Fn(&Cancel) -> T + Clone + Send + 'static,
    ) -> Result<Option<(K, T)>, LearningError> {
        let oldest = if self.running.len() >= IN_FLIGHT { self.take()? } else { None };
        loop {
            self.cancel.check()?;
            let work = work.clone();
            let flag = self.cancel.child();
            match self.engine.run(Priority::Background, flag, move |cancel, _| work(cancel)) {
                Ok(ticket) => {
                    self.running.push_back((key, ticket));
                    return Ok(oldest);
                }
                Err(EngineError::QueueFull { .. }) => std::thread::park_timeout(WAIT_FOR_ROOM),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the oldest outcome; `None` once all were taken.
    ///
    /// # Errors
    /// Cancelled; the daemon stops.
    pub(super) fn take(&mut self) -> Result<Option<(K, T)>, LearningError> {
        let Some((key, ticket)) = self.running.pop_front() else { return Ok(None) };
        Ok(Some((key, ticket.wait_unless(self.cancel)?)))
    }
}
