//! Threads that fit, which give way to those that answer.

use super::LearningError;

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
