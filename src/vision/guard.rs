//! Turns a decoder's panic into a value.
//!
//! The `image` crate says of itself that many of its decoders panic on malicious input, and our
//! input comes from the network. The guard needs unwinding, hence `panic = "unwind"` in the release
//! profile.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread runs a guarded decoder now.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

static QUIET_HOOK: Once = Once::new();

/// The guarded code panicked.
#[derive(Debug)]
pub(super) struct Panicked;

/// Runs `decode`; a panic in it becomes `Err(Panicked)` and one line in the log at debug level,
/// instead of a message and backtrace on standard error that any client could fill the journal
/// with. Panics elsewhere are reported as before.
///
/// `decode` must not share state that a panic could leave half-changed.
pub(super) fn catch<T>(decode: impl FnOnce() -> T) -> Result<T, Panicked> {
    QUIET_HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                tracing::debug!(panic = %info, "an image decoder panicked");
            } else {
                previous(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(outer);
    result.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_thread_is_usable_afterwards() {
        assert!(catch(|| -> u8 { panic!("a decoder's index ran out of bounds") }).is_err());
        assert!(!GUARDED.get());
        assert_eq!(catch(|| 7).unwrap(), 7);
    }
}
