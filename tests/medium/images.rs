//! The files that the store keeps beside the database, as a medium sees them. Unlike SQLite the store
//! writes them through the C library, whose functions stand here instead: each does what it is asked
//! and writes it down.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::medium::{Event, note_at};

/// Whether the path lies in a folder of images.
fn is_image(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new("images"))
}

/// The path that a C string holds.
///
/// # Safety
/// `path` must be a C string.
unsafe fn path(path: *const c_char) -> PathBuf {
    // SAFETY: the caller's promise.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// Stands for `fsync` of the C library.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: a system call that takes a number.
    let result = unsafe { libc::syscall(libc::SYS_fsync, file) } as c_int;
    if result == 0
        && let Ok(path) = fs::read_link(format!("/proc/self/fd/{file}"))
    {
        if is_image(&path) {
            note_at(&path, |file| Event::ImageFlushed { file });
        } else if path.file_name() == Some(OsStr::new("images")) {
            note_at(&path, |_| Event::FolderFlushed);
        }
    }
    result
}

/// Stands for `rename` of the C library.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: two C strings, as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, 0) } as c_int;
    // SAFETY: as above.
    let (from, to) = unsafe { (path(from), path(to)) };
    if result == 0 && is_image(&to) {
        let content = fs::read(&to).unwrap_or_default();
        let name = |path: &Path| {
            format!("images/{}", path.file_name().unwrap_or_default().to_string_lossy())
        };
        let from = name(&from);
        note_at(&to, |to| Event::ImageRenamed { from, to, content });
    }
    result
}

/// Stands for `unlink` of the C library.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    // SAFETY: a C string, as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, name, 0) } as c_int;
    // SAFETY: as above.
    let name = unsafe { path(name) };
    if result == 0 && is_image(&name) {
        note_at(&name, |file| Event::ImageRemoved { file });
    }
    result
}
