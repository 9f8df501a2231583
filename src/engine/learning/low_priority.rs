//! Threads that fit, which give way to those that answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::LearningError;
use crate::engine::EngineError;

/// Of Linux's -20 to 19: next to a thread of the usual 0 it gets about a tenth of a core, which is
/// little enough for predictions and enough that training ends on a device that is never idle.
const NICE: i32 = 10;

/// Threads for fitting. One core stays free for those who wait for an answer.
///
/// # Errors
/// When the system grants no threads.
pub(super) fn pool() -> Result<rayon::ThreadPool, LearningError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    rayon::ThreadPoolBuilder::new()
        .num_threads(cores.saturating_sub(1).max(1))
        .thread_name(|index| format!("graftd-fit-{index}"))
        .start_handler(|_| lower_priority())
        .build()
        .map_err(|error| LearningError::Thread(error.to_string()))
}

/// Lowers the calling thread's claim on a core; on Linux the priority is each thread's own.
pub(super) fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "training keeps its normal priority");
    }
}

/// Runs a piece of work whose panic is an error: a fault of ours in one training must not end the
/// thread that the next one waits for. What the work has changed must not be used after an error.
pub(super) fn guarded<T>(
    work: impl FnOnce() -> Result<T, LearningError>,
) -> Result<T, LearningError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "a panic without words".to_owned());
        Err(EngineError::Fault(text).into())
    })
}
