//! How much is stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::dataset::Dataset;
use super::error::Result;
use super::ledger::DatasetState;
use super::open::Store;
use crate::base::digest::Digest;
use crate::base::name::Name;

/// How many samples carry a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelCount {
    /// Samples for training.
    pub train: u64,
    /// Samples held out.
    pub held_out: u64,
}

/// Sums over a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetStats {
    /// The dataset.
    pub dataset: Dataset,
    /// Number of samples.
    pub samples: u64,
    /// How many of them training never sees.
    pub held_out: u64,
    /// Bytes of images, embeddings and texts, without SQLite's own.
    pub bytes: u64,
    /// How many of them have no label.
    pub unlabelled: u64,
    /// Number of samples by label.
    pub labels: BTreeMap<String, LabelCount>,
}

/// Sums over the store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreStats {
    /// Each dataset, by name.
    pub datasets: Vec<DatasetStats>,
    /// Rows that were left out of the sums at opening, because they cannot be understood.
    pub damaged: u64,
    /// Each backbone with embeddings here and how many.
    pub embeddings: Vec<(Digest, u64)>,
    /// Number of heads, and of versions of all heads.
    pub heads: u64,
    /// Number of versions of all heads.
    pub head_versions: u64,
    /// Number of recorded jobs.
    pub jobs: u64,
    /// COMMITs since this process opened the store.
    pub commits: u64,
    /// Bytes of the database file, of which `free_bytes` are unused within it.
    pub database_bytes: u64,
    /// Bytes within the database file that new rows will use first.
    pub free_bytes: u64,
    /// Bytes of the write-ahead log.
    pub log_bytes: u64,
    /// Image files and their bytes.
    pub image_files: u64,
    /// Bytes of all image files.
    pub image_file_bytes: u64,
}

impl Store {
    /// Sums over one dataset; known without reading the database.
    ///
    /// # Errors
    /// [`super::StoreError::UnknownDataset`].
    pub fn dataset_stats(&self, name: &Name) -> Result<DatasetStats> {
        self.ledger().dataset(name).map(DatasetStats::from)
    }

    /// Sums over everything.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn stats(&self) -> Result<StoreStats> {
        let mut datasets: Vec<_> = self.ledger().datasets().map(DatasetStats::from).collect();
        datasets.sort_by(|a, b| a.dataset.name.cmp(&b.dataset.name));
        let backbones = self.ledger().backbones().to_vec();
        let damaged = self.ledger().damaged();
        let (image_files, image_file_bytes) = folder_size(&self.folder().images());
        let database = self.folder().database();
        let log = database.with_extension("sqlite-wal");
        self.read(|connection| {
            let count = |sql: &str| -> Result<u64> {
                Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
            };
            let mut embeddings = Vec::new();
            for backbone in backbones {
                let first = i64::from(backbone.number) << 48;
                let number: i64 = connection.query_row(
                    "SELECT count(*) FROM embeddings WHERE key >= ?1 AND key < ?2",
                    [first, first + (1 << 48)],
                    |row| row.get(0),
                )?;
                embeddings.push((backbone.digest, number.unsigned_abs()));
            }
            Ok(StoreStats {
                datasets,
                damaged,
                embeddings,
                heads: count("SELECT count(*) FROM heads")?,
                head_versions: count("SELECT count(*) FROM head_versions")?,
                jobs: count("SELECT count(*) FROM jobs")?,
                commits: self.commits(),
                database_bytes: file_size(&database),
                free_bytes: count("PRAGMA freelist_count")? * count("PRAGMA page_size")?,
                log_bytes: file_size(&log),
                image_files,
                image_file_bytes,
            })
        })
    }
}

impl From<&DatasetState> for DatasetStats {
    fn from(state: &DatasetState) -> Self {
        Self {
            dataset: state.dataset.clone(),
            samples: state.samples,
            held_out: state.held_out,
            bytes: state.bytes,
            unlabelled: state.unlabelled,
            labels: state.labels.clone(),
        }
    }
}

fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn folder_size(path: &Path) -> (u64, u64) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len());
    sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
}
