//! Comparing everything that is stored with its digests.

use rusqlite::{Connection, OptionalExtension};

use super::dataset;
use super::embedding;
use super::error::{Result, StoreError};
use super::image::StoredImage;
use super::open::Store;
use super::sample::{self, COLUMN_COUNT, COLUMNS, Sample};
use crate::base::digest::Digest;

/// Faults that are listed; beyond that they are only counted.
const LISTED: usize = 100;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: a table and row, or a file.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Sample rows read.
    pub samples: u64,
    /// Embeddings compared with their checksum.
    pub embeddings: u64,
    /// Images compared with their digest.
    pub images: u64,
    /// Versions of heads compared with their digest.
    pub head_versions: u64,
    /// The first hundred faults.
    pub faults: Vec<Fault>,
    /// The number of all faults.
    pub fault_count: u64,
}

impl Verification {
    /// Whether everything is as it was written.
    pub fn is_sound(&self) -> bool {
        self.fault_count == 0
    }

    fn fault(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.fault_count += 1;
        if self.faults.len() < LISTED {
            self.faults.push(Fault { place: place.into(), what: what.into() });
        }
    }

    /// Notes a table that could not be read to its end.
    fn unreadable(&mut self, table: &str, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.fault(table, format!("cannot be read to its end: {error}"));
        }
    }
}

impl Store {
    /// Reads everything and compares it with its checksums and digests. Runs beside the writer.
    ///
    /// # Errors
    /// Only where the database cannot be opened at all; damage within it is reported as faults.
    pub fn verify(&self) -> Result<Verification> {
        self.read(|connection| Ok(self.verify_at(connection)))
    }

    /// As [`Store::verify`], of the moment that `connection` sees.
    pub(super) fn verify_at(&self, connection: &Connection) -> Verification {
        let mut report = Verification::default();
        let structure = check_structure(connection, &mut report);
        report.unreadable("structure", structure);
        let datasets = check_datasets(connection, &mut report);
        report.unreadable("datasets", datasets);
        let samples = check_samples(connection, &mut report);
        report.unreadable("samples", samples);
        let embeddings = check_embeddings(connection, &mut report);
        report.unreadable("embeddings", embeddings);
        let images = self.check_images(connection, &mut report);
        report.unreadable("images", images);
        let heads = check_heads(connection, &mut report);
        report.unreadable("head_versions", heads);
        report
    }

    fn check_images(&self, connection: &Connection, report: &mut Verification) -> Result<()> {
        // A file without a row is no fault: it may be on its way in, and the next start sweeps it.
        let mut statement =
            connection.prepare("SELECT key, length, sha256, file, bytes FROM images")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = row.get(0)?;
            report.images += 1;
            let loaded = StoredImage::from_row(row, 1).and_then(|image| image.load(self.folder()));
            if let Err(error) = loaded
                && self.has_image(key)?
            {
                report.fault(format!("images row {key}"), error.to_string());
            }
        }
        Ok(())
    }

    /// Whether the sample has an image now. The files are those of this moment and not of the one that
    /// a reader sees: of a sample that was deleted since, the file is gone.
    pub(super) fn has_image(&self, key: i64) -> Result<bool> {
        self.read(|connection| {
            let found: Option<i64> = connection
                .prepare_cached("SELECT 1 FROM images WHERE key = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()?;
            Ok(found.is_some())
        })
    }
}

fn check_structure(connection: &Connection, report: &mut Verification) -> Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({LISTED})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.fault("database", line);
        }
    }
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.fault(format!("table {}", row.get::<_, String>(0)?), "refers to a missing row");
    }
    let orphans: i64 = connection.query_row(
        "SELECT (SELECT count(*) FROM embeddings WHERE (key & 0xFFFFFFFFFFFF) NOT IN
         (SELECT key FROM samples)) + (SELECT count(*) FROM images WHERE key NOT IN
         (SELECT key FROM samples))",
        [],
        |row| row.get(0),
    )?;
    if orphans > 0 {
        report.fault("database", format!("{orphans} embeddings or images without their sample"));
    }
    Ok(())
}

/// Rows of datasets carry no checksum; one that cannot be understood is told.
fn check_datasets(connection: &Connection, report: &mut Verification) -> Result<()> {
    for found in dataset::load(connection)? {
        if let Err(error) = found {
            report.fault("datasets", error.to_string());
        }
    }
    Ok(())
}

fn check_samples(connection: &Connection, report: &mut Verification) -> Result<()> {
    let mut statement =
        connection.prepare(&format!("SELECT {COLUMNS}, id_hash FROM samples ORDER BY key"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.samples += 1;
        match Sample::from_row(row) {
            Ok(sample) => {
                let hash = sample::id_hash(sample.key.dataset(), &sample.id);
                if row.get::<_, i64>(COLUMN_COUNT)? != hash {
                    report.fault(format!("samples row {}", sample.key.0), "hash of its id");
                }
            }
            Err(error) => report.fault("samples", error.to_string()),
        }
    }
    Ok(())
}

fn check_embeddings(connection: &Connection, report: &mut Verification) -> Result<()> {
    let mut statement = connection.prepare("SELECT key, checksum, halves FROM embeddings")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.embeddings += 1;
        let bytes = row.get_ref(2)?.as_blob().unwrap_or_default();
        if embedding::checksum(bytes) != row.get::<_, i64>(1)? {
            report.fault(format!("embeddings row {}", row.get::<_, i64>(0)?), "checksum");
        }
    }
    Ok(())
}

fn check_heads(connection: &Connection, report: &mut Verification) -> Result<()> {
    let mut statement = connection.prepare(
        "SELECT heads.name, version, sha256, bytes
         FROM head_versions JOIN heads ON heads.number = head_versions.head",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.head_versions += 1;
        let digest = Digest(row.get(2)?);
        let bytes = row.get_ref(3)?.as_blob().map_err(|e| StoreError::Corrupt(e.to_string()))?;
        if Digest::of(bytes) != digest {
            let (head, version): (String, u32) = (row.get(0)?, row.get(1)?);
            report.fault(format!("version {version} of head {head}"), "digest");
        }
    }
    Ok(())
}
