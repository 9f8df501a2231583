//! A virtual file system for SQLite that stands for a medium: it hands everything on to the real one,
//! writes down what changes a file and what flushes it, and refuses writes when it is told to.

#![allow(dead_code)] // each test uses a part

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use rusqlite::ffi;

/// The name under which SQLite knows it.
pub const NAME: &str = "medium";

/// What was done to a file.
#[derive(Clone, Debug)]
pub enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Event {
    Changed {
        file: String,
        change: Change,
    },
    Flushed {
        file: String,
    },
    Removed {
        file: String,
    },
    /// A file of the images folder was flushed.
    ImageFlushed {
        file: String,
    },
    /// A file of the images folder was given another name, with this content.
    ImageRenamed {
        from: String,
        to: String,
        content: Vec<u8>,
    },
    /// A file of the images folder was removed.
    ImageRemoved {
        file: String,
    },
    /// The images folder itself was flushed.
    FolderFlushed,
    /// The client was told that the sample is durable.
    Stored(u64),
    /// The client asked to delete the sample.
    Deleting(u64),
    /// The client was told that the sample is gone.
    Deleted(u64),
}

struct Recording {
    folder: String,
    events: Vec<Event>,
}

static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);

/// Makes SQLite know the file system.
pub fn install() {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(register);
}

/// Begins to record what happens to the files of `folder`.
pub fn begin(folder: &Path) {
    install();
    *RECORDING.lock().unwrap() = Some(Recording { folder: prefix(folder), events: Vec::new() });
}

/// How the paths of the folder's files begin.
fn prefix(folder: &Path) -> String {
    folder.canonicalize().unwrap().to_str().unwrap().to_owned() + "/"
}

/// Why a medium takes no more data, as SQLite's own file system says it to SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `ENOSPC`.
    Full,
    /// Any other error, such as `EROFS` of a file system that turned read-only, or `EIO`.
    Failing,
}

static REFUSALS: OnceLock<Mutex<HashMap<String, Refusal>>> = OnceLock::new();

fn refusals() -> &'static Mutex<HashMap<String, Refusal>> {
    REFUSALS.get_or_init(Mutex::default)
}

/// Refuses every write to the files of `folder` from now on, until [`accept`].
pub fn refuse(folder: &Path, refusal: Refusal) {
    refusals().lock().unwrap().insert(prefix(folder), refusal);
}

/// Takes writes to the files of `folder` again.
pub fn accept(folder: &Path) {
    refusals().lock().unwrap().remove(&prefix(folder));
}

/// What SQLite is told of a write to the file, where it is refused.
fn refused(path: &str) -> Option<c_int> {
    let refusals = refusals().lock().unwrap();
    let found = refusals.iter().find(|(folder, _)| path.starts_with(folder.as_str()))?;
    Some(match found.1 {
        Refusal::Full => ffi::SQLITE_FULL,
        Refusal::Failing => ffi::SQLITE_IOERR_WRITE,
    })
}

/// Notes an event of the test's own.
pub fn note(event: Event) {
    if let Some(recording) = RECORDING.lock().unwrap().as_mut() {
        recording.events.push(event);
    }
}

/// Ends the recording.
pub fn end() -> Vec<Event> {
    RECORDING.lock().unwrap().take().map(|recording| recording.events).unwrap_or_default()
}

/// Notes what happened to `path`, if that is recorded and lies in the folder.
pub fn note_at(path: &Path, event: impl FnOnce(String) -> Event) {
    if let Some(path) = path.to_str() {
        note_file(path, event);
    }
}

fn note_file(path: &str, event: impl FnOnce(String) -> Event) {
    if let Some(recording) = RECORDING.lock().unwrap().as_mut()
        && let Some(file) = path.strip_prefix(recording.folder.as_str())
    {
        let event = event(file.to_owned());
        recording.events.push(event);
    }
}

/// Our file: SQLite's head, the path, and behind it in memory the real file.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    path: *mut String,
}

struct Real(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's default file system is a static of its own that lives for ever and is made to be
// called from several threads.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

fn real() -> *mut ffi::sqlite3_vfs {
    REAL.get().unwrap().0
}

fn register() {
    // SAFETY: the default file system exists in every build for Unix; the copy keeps all its
    // functions but two, and both copy and name are leaked, so they outlive every connection.
    unsafe {
        ffi::sqlite3_initialize();
        let default = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!default.is_null());
        assert!(REAL.set(Real(default)).is_ok());
        let mut vfs = std::ptr::read(default);
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = c"medium".as_ptr();
        vfs.szOsFile += size_of::<File>() as c_int;
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
    }
}

/// The real file behind ours.
///
/// # Safety
/// `file` must be one that [`open`] was given.
unsafe fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocated szOsFile bytes, which is our part and the real one's.
    unsafe { file.cast::<u8>().add(size_of::<File>()).cast() }
}

/// # Safety
/// As [`inner`].
unsafe fn path<'a>(file: *mut ffi::sqlite3_file) -> &'a str {
    // SAFETY: set by `open`, freed by `close` only.
    unsafe { (*(*file.cast::<File>()).path).as_str() }
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite hands over a file of szOsFile bytes and a name that is null or a string which
    // lives as long as the file.
    unsafe {
        let ours = file.cast::<File>();
        (*ours).base.pMethods = std::ptr::null();
        let result = (*real()).xOpen.unwrap()(real(), name, inner(file), flags, out_flags);
        if result == ffi::SQLITE_OK {
            let text = if name.is_null() {
                String::new()
            } else {
                CStr::from_ptr(name).to_string_lossy().into_owned()
            };
            (*ours).path = Box::into_raw(Box::new(text));
            (*ours).base.pMethods = &raw const METHODS;
        }
        result
    }
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let result = (*real()).xDelete.unwrap()(real(), name, sync_folder);
        if result == ffi::SQLITE_OK {
            let name = CStr::from_ptr(name).to_string_lossy();
            note_file(&name, |file| Event::Removed { file });
        }
        result
    }
}

/// Calls a method of the real file.
macro_rules! hand_on {
    ($file:ident, $method:ident $(, $argument:expr)*) => {{
        let inner = inner($file);
        (*(*inner).pMethods).$method.unwrap()(inner $(, $argument)*)
    }};
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `open` made the path; SQLite closes a file once.
    unsafe {
        drop(Box::from_raw((*file.cast::<File>()).path));
        hand_on!(file, xClose)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: `data` holds `length` bytes.
    unsafe {
        if let Some(refusal) = refused(path(file)) {
            return refusal;
        }
        let result = hand_on!(file, xWrite, data, length, offset);
        if result == ffi::SQLITE_OK {
            let data = std::slice::from_raw_parts(data.cast::<u8>(), length as usize).to_vec();
            let change = Change::Write { offset: offset as usize, data };
            note_file(path(file), |file| Event::Changed { file, change });
        }
        result
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let result = hand_on!(file, xTruncate, length);
        if result == ffi::SQLITE_OK {
            let change = Change::Truncate(length as usize);
            note_file(path(file), |file| Event::Changed { file, change });
        }
        result
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as SQLite calls it.
    unsafe {
        let result = hand_on!(file, xSync, flags);
        if result == ffi::SQLITE_OK {
            note_file(path(file), |file| Event::Flushed { file });
        }
        result
    }
}

/// Methods that change nothing on the medium are handed on as they are.
macro_rules! plain {
    ($($name:ident: $method:ident($($argument:ident: $kind:ty),*) -> $out:ty;)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $kind)*) -> $out {
            // SAFETY: the arguments are SQLite's own.
            unsafe { hand_on!(file, $method $(, $argument)*) }
        }
    )*};
}

plain! {
    read: xRead(data: *mut c_void, length: c_int, offset: i64) -> c_int;
    file_size: xFileSize(size: *mut i64) -> c_int;
    lock: xLock(level: c_int) -> c_int;
    unlock: xUnlock(level: c_int) -> c_int;
    check_reserved_lock: xCheckReservedLock(out: *mut c_int) -> c_int;
    file_control: xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    sector_size: xSectorSize() -> c_int;
    device_characteristics: xDeviceCharacteristics() -> c_int;
    shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock: xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier: xShmBarrier() -> ();
    shm_unmap: xShmUnmap(delete: c_int) -> c_int;
}

/// Version 2: no memory-mapped reading, which would pass us by.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
