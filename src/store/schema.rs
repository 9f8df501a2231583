//! How a connection is set up, and how an older database becomes a present one.

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::{Result, StoreError};
use super::folder::StateFolder;
use super::open::{Options, Synchronous};

/// `graf` in ASCII: tells `file` and us that this SQLite file is ours.
const APPLICATION_ID: i64 = 0x6772_6166;

/// How long to wait for another connection that is in the way.
pub(super) const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Each takes the schema from its index to its index + 1. Never edited once released.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_numbers_and_captures.sql"),
];

/// Pages in the write-ahead log before a COMMIT also checkpoints: 16 MB. A longer log lets a page
/// be written to the database once for more commits.
const CHECKPOINT_PAGES: i64 = 2000;

/// Opens the one connection that writes, making or migrating the database where needed.
pub(super) fn open_writer(folder: &StateFolder, options: &Options) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = match &options.vfs {
        None => Connection::open_with_flags(folder.database(), flags)?,
        Some(vfs) => Connection::open_with_flags_and_vfs(folder.database(), flags, vfs.as_str())?,
    };
    let synchronous = match options.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    // The page size only takes effect before the first write and the change to WAL.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    set_up(&connection)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens a connection that only reads; it sees a consistent state while the writer goes on.
pub(super) fn open_reader(folder: &StateFolder, options: &Options) -> Result<Connection> {
    if !folder.database().is_file() {
        return Err(StoreError::NoState { folder: folder.root().to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match &options.vfs {
        None => Connection::open_with_flags(folder.database(), flags)?,
        Some(vfs) => Connection::open_with_flags_and_vfs(folder.database(), flags, vfs.as_str())?,
    };
    connection.pragma_update(None, "cache_size", -2 * 1024)?;
    set_up(&connection)?;
    let found = version(&connection)?;
    if found > MIGRATIONS.len() as i64 {
        return Err(StoreError::NewerSchema { found, known: MIGRATIONS.len() as i64 });
    }
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // The schema may be damaged or hostile: its text must not call functions with side effects.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let found = version(connection)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let owner: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if found > 0 && owner != APPLICATION_ID {
        return Err(StoreError::Corrupt("the database belongs to another program".to_owned()));
    }
    for (migration, target) in MIGRATIONS.iter().zip(1_i64..).skip(found as usize) {
        // A cut in the middle leaves the older version whole: the number changes in the same
        // transaction as the tables.
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(migration)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.pragma_update(None, "user_version", target)?;
        step.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, StateFolder) {
        let directory = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(directory.path());
        folder.create().unwrap();
        (directory, folder)
    }

    #[test]
    fn the_bundled_sqlite_has_the_fix_of_the_wal_reset_bug() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }

    #[test]
    fn a_new_database_is_durable_and_forgets_what_is_deleted() {
        let (_directory, folder) = folder();
        let connection = open_writer(&folder, &Options::default()).unwrap();
        let text = |name: &str| -> String {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
                .map(|value| format!("{value:?}"))
                .unwrap()
        };
        assert_eq!(text("journal_mode"), r#"Text("wal")"#);
        assert_eq!(text("synchronous"), "Integer(2)");
        assert_eq!(text("page_size"), "Integer(8192)");
        assert_eq!(text("secure_delete"), "Integer(1)");
    }

    #[test]
    fn a_database_of_version_1_keeps_what_it_holds_and_gives_no_number_twice() {
        let (directory, folder) = folder();
        let first = Connection::open(folder.database()).unwrap();
        first.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        first.execute_batch(MIGRATIONS[0]).unwrap();
        first.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        first.pragma_update(None, "user_version", 1).unwrap();
        for (number, name) in [(3, "old"), (7, "parts")] {
            let row = "INSERT INTO datasets VALUES (?1, ?2, 'images', 0.2, NULL, NULL, 'refuse', \
                       NULL, 0)";
            first.execute(row, rusqlite::params![number, name]).unwrap();
        }
        drop(first);
        // Who only reads needs no migration.
        assert_eq!(
            crate::store::Store::open_read_only(directory.path()).unwrap().datasets().len(),
            2
        );
        let store = crate::store::Store::open(directory.path()).unwrap();
        let name = |text: &str| text.parse::<crate::base::name::Name>().unwrap();
        store.delete_dataset(&name("parts")).unwrap();
        let numbers = ["b", "c"].map(|n| {
            let made = store.create_dataset(&name(n), crate::store::DatasetSettings::default());
            store.delete_dataset(&name(n)).unwrap();
            made.unwrap().number
        });
        assert_eq!(numbers, [8, 9]);
        drop(store);
        let store = crate::store::Store::open(directory.path()).unwrap();
        assert_eq!(store.ensure_dataset(&name("d")).unwrap().number, 10, "after a restart too");
        assert_eq!(store.dataset(&name("old")).unwrap().number, 3);
        assert!(store.verify().unwrap().is_sound());
    }

    #[test]
    fn a_database_of_a_newer_graftd_is_refused() {
        let (_directory, folder) = folder();
        let connection = open_writer(&folder, &Options::default()).unwrap();
        connection.pragma_update(None, "user_version", 1000).unwrap();
        drop(connection);
        let refused = open_writer(&folder, &Options::default()).unwrap_err();
        assert!(matches!(refused, StoreError::NewerSchema { found: 1000, .. }), "{refused}");
    }
}
