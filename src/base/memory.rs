//! Memory that was freed, and the system that could use it.
//!
//! glibc keeps freed memory for the next allocation. Loading a network and running it free tens of
//! megabytes in pieces between others that live on, and those would stay with the process for ever.

/// Gives all memory that was freed back to the system: `malloc_trim(3)`. Takes a millisecond or two,
/// and what is given back has to be fetched anew when it is needed, so this is for the end of large
/// work. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer and may be called at any time from any thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::base::host::Host;

    #[test]
    fn what_was_freed_between_pieces_that_live_on_goes_back_to_the_system() {
        const PIECE: usize = 64 << 10;
        let resident = || Host::default().memory().resident;
        let pieces: Vec<Vec<u8>> = (0..4096).map(|number| vec![number as u8; PIECE]).collect();
        let kept: Vec<Vec<u8>> = pieces.into_iter().skip(1).step_by(64).collect();
        let freed = resident();
        give_back();
        let left = resident();
        assert!(freed.saturating_sub(left) > 64 << 20, "{freed} bytes before, {left} after");
        assert_eq!(kept.len(), 64);
    }
}
