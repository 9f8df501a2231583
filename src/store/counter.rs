//! Numbers that are given once: of datasets, and of the samples within each. What remembers a deleted
//! one by its number or key never finds another one there.
//!
//! The newest row of a dataset tells which number it gave last. Only where that row is deleted is the
//! number written down, so that intake writes no page more.

use rusqlite::{Connection, params};

use super::error::{Result, StoreError};
use super::key::{DatasetNumber, SampleKey};

/// How the names of the counters of samples begin; the number of their dataset follows.
const SAMPLES: &str = "samples/";

/// Gives the next dataset its number.
pub(super) fn next_dataset(connection: &Connection) -> Result<DatasetNumber> {
    let number: i64 = connection.query_row(
        "UPDATE counters SET value = value + 1 WHERE name = 'datasets' RETURNING value",
        [],
        |row| row.get(0),
    )?;
    DatasetNumber::try_from(number).map_err(|_| {
        let reason =
            "a store can make 65,535 datasets and has: export what is needed into a new one";
        StoreError::invalid("dataset", reason)
    })
}

/// Writes down that this key was given, before its row goes.
pub(super) fn remember(connection: &Connection, key: SampleKey) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO counters (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute(params![name(key.dataset()), key.sequence()])?;
    Ok(())
}

/// Forgets what was given within a dataset that is gone.
pub(super) fn forget(connection: &Connection, dataset: DatasetNumber) -> Result<()> {
    connection.execute("DELETE FROM counters WHERE name = ?1", [name(dataset)])?;
    Ok(())
}

/// The last keys that were written down, one for a dataset.
pub(super) fn remembered(connection: &Connection) -> Result<Vec<SampleKey>> {
    // Who only reads may find a database that is older than the table, and gives no numbers.
    let is_there: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'counters')",
        [],
        |row| row.get(0),
    )?;
    if !is_there {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT name, value FROM counters")?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let of: String = row.get(0)?;
        let dataset = of.strip_prefix(SAMPLES).and_then(|number| number.parse().ok());
        if let (Some(dataset), Ok(sequence)) = (dataset, u32::try_from(row.get::<_, i64>(1)?)) {
            keys.push(SampleKey::new(dataset, sequence));
        }
    }
    Ok(keys)
}

fn name(dataset: DatasetNumber) -> String {
    format!("{SAMPLES}{dataset}")
}
