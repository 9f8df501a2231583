//! Datasets: named collections of samples with a policy on what is kept and how much.

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

use super::change::{self, Deletion};
use super::counter;
use super::error::{Result, StoreError};
use super::head::check_json;
use super::key::{DatasetNumber, SampleKey};
use super::open::Store;
use super::query::{self, Filter};
use super::writer::{Session, Urgency};
use crate::base::clock::{self, Timestamp};
use crate::base::name::Name;

/// What is kept of the picture of a sample. Embeddings are always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The encoded image as it came, so that every backbone to come can learn from it.
    #[default]
    Images,
    /// A small picture made by the caller: people can check labels, backbones cannot learn from it.
    Thumbnails,
    /// Nothing that a person could look at.
    Embeddings,
}

/// What happens to a sample that does not fit into the quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    #[default]
    Refuse,
    /// The oldest samples that are not pinned make room.
    DropOldest,
}

/// How much a dataset may hold; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Largest number of samples.
    pub max_samples: Option<u64>,
    /// Largest sum of the samples' bytes: image, embeddings and texts, without SQLite's own.
    pub max_bytes: Option<u64>,
    /// What to do at the limit.
    pub when_full: WhenFull,
}

/// What can be set for a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSettings {
    /// What is kept of the pictures that come from now on.
    pub keep: Keep,
    /// Share of new samples that training never sees, 0 to 1. Default 0.2.
    pub held_out_share: f64,
    /// How much it may hold.
    pub quota: Quota,
    /// Which predictions are kept here for review, as JSON that the store does not look into.
    pub capture: Option<String>,
}

impl Default for DatasetSettings {
    fn default() -> Self {
        Self { keep: Keep::default(), held_out_share: 0.2, quota: Quota::default(), capture: None }
    }
}

/// A dataset as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Its name, unique in the store.
    pub name: Name,
    /// Its policies.
    pub settings: DatasetSettings,
    /// When it was made.
    pub created_at: Timestamp,
    pub(super) number: DatasetNumber,
}

impl Store {
    /// Makes an empty dataset.
    ///
    /// # Errors
    /// [`StoreError::DatasetExists`], or a setting out of its range.
    pub fn create_dataset(&self, name: &Name, settings: DatasetSettings) -> Result<Dataset> {
        check(&settings)?;
        let name = name.clone();
        self.write(Urgency::Now, move |session| create(session, &name, settings))
    }

    /// The dataset, made with default settings if there is none of that name.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn ensure_dataset(&self, name: &Name) -> Result<Dataset> {
        if let Ok(dataset) = self.dataset(name) {
            return Ok(dataset);
        }
        let name = name.clone();
        self.write(Urgency::Now, move |session| {
            let known = session.ledger().dataset(&name).map(|state| state.dataset.clone());
            known.or_else(|_| create(session, &name, DatasetSettings::default()))
        })
    }

    /// Changes the settings for what comes from now on; nothing stored is removed by it.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`], or a setting out of its range.
    pub fn update_dataset(&self, name: &Name, settings: DatasetSettings) -> Result<Dataset> {
        check(&settings)?;
        let name = name.clone();
        self.write(Urgency::Now, move |session| {
            let mut dataset = session.ledger().dataset(&name)?.dataset.clone();
            dataset.settings = settings;
            let settings = &dataset.settings;
            session
                .connection
                .prepare_cached(
                    "UPDATE datasets SET keep = ?2, held_out_share = ?3, max_samples = ?4,
                     max_bytes = ?5, when_full = ?6, capture = ?7 WHERE number = ?1",
                )?
                .execute(params![
                    dataset.number,
                    settings.keep.to_text(),
                    settings.held_out_share,
                    settings.quota.max_samples.map(clamp),
                    settings.quota.max_bytes.map(clamp),
                    settings.quota.when_full.to_text(),
                    settings.capture,
                ])?;
            session.ledger().dataset_mut(dataset.number)?.dataset = dataset.clone();
            Ok(dataset)
        })
    }

    /// The dataset of that name.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn dataset(&self, name: &Name) -> Result<Dataset> {
        Ok(self.ledger().dataset(name)?.dataset.clone())
    }

    /// All datasets by name.
    pub fn datasets(&self) -> Vec<Dataset> {
        let mut datasets: Vec<_> =
            self.ledger().datasets().map(|state| state.dataset.clone()).collect();
        datasets.sort_by(|a, b| a.name.cmp(&b.name));
        datasets
    }

    /// Deletes the dataset with all its samples.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn delete_dataset(&self, name: &Name) -> Result<Deletion> {
        let mut total = Deletion { removed: 0, bytes: 0, erased: true };
        loop {
            let samples = self.delete_samples(name, &Filter::default())?;
            total.removed += samples.removed;
            total.bytes += samples.bytes;
            // Samples may have come in since: then the row stays and another round follows.
            let gone = self.making_room(|_| self.delete_if_empty(name))?;
            if gone {
                return Ok(Deletion { erased: self.erase()?, ..total });
            }
        }
    }
}

impl Store {
    fn delete_if_empty(&self, name: &Name) -> Result<bool> {
        let target = name.clone();
        self.write(Urgency::Now, move |session| {
            let number = session.ledger().dataset(&target)?.dataset.number;
            let first = SampleKey::before(number);
            let all = Filter::default();
            if !query::list(session.connection, number, &all, first, 1)?.is_empty() {
                return Ok(false);
            }
            // What is left cannot be read any more, but it is to be gone as well.
            change::remove_damaged(session, number)?;
            session.connection.execute("DELETE FROM datasets WHERE number = ?1", [number])?;
            counter::forget(session.connection, number)?;
            session.ledger().remove_dataset(number);
            Ok(true)
        })
    }
}

pub(super) fn create(
    session: &mut Session<'_>,
    name: &Name,
    settings: DatasetSettings,
) -> Result<Dataset> {
    if session.ledger().dataset(name).is_ok() {
        return Err(StoreError::DatasetExists(name.clone()));
    }
    let number = counter::next_dataset(session.connection)?;
    let dataset = Dataset { name: name.clone(), settings, created_at: clock::now(), number };
    let settings = &dataset.settings;
    session.connection.execute(
        "INSERT INTO datasets (number, name, keep, held_out_share, max_samples, max_bytes,
         when_full, created_at, capture) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            number,
            name.as_str(),
            settings.keep.to_text(),
            settings.held_out_share,
            settings.quota.max_samples.map(clamp),
            settings.quota.max_bytes.map(clamp),
            settings.quota.when_full.to_text(),
            dataset.created_at.0,
            settings.capture,
        ],
    )?;
    session.ledger().insert_dataset(dataset.clone());
    Ok(dataset)
}

pub(super) fn check(settings: &DatasetSettings) -> Result<()> {
    if let Some(capture) = &settings.capture {
        check_json("capture", capture)?;
    }
    if (0.0..=1.0).contains(&settings.held_out_share) {
        Ok(())
    } else {
        Err(StoreError::invalid("held_out_share", "must lie between 0 and 1"))
    }
}

impl DatasetSettings {
    /// For an export. Which predictions are kept for review is a matter of the device and stays there.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "keep": self.keep.to_text(),
            "held_out_share": self.held_out_share,
            "max_samples": self.quota.max_samples,
            "max_bytes": self.quota.max_bytes,
            "when_full": self.quota.when_full.to_text(),
        })
    }

    /// What [`DatasetSettings::to_json`] wrote; `None` where it did not. What is left out is the
    /// default.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        fn read<T>(value: &Value, or: T, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
            if value.is_null() { Some(or) } else { read(value) }
        }
        let limit = |value: &Value| read(value, None, |value| value.as_u64().map(Some));
        let default = Self::default();
        Some(Self {
            keep: read(&value["keep"], default.keep, |v| Keep::from_text(v.as_str()?))?,
            held_out_share: read(&value["held_out_share"], default.held_out_share, Value::as_f64)?,
            quota: Quota {
                max_samples: limit(&value["max_samples"])?,
                max_bytes: limit(&value["max_bytes"])?,
                when_full: read(&value["when_full"], WhenFull::default(), |v| {
                    WhenFull::from_text(v.as_str()?)
                })?,
            },
            capture: None,
        })
    }
}

fn clamp(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Reads all datasets, each of which may be damaged; for the ledger.
pub(super) fn load(connection: &Connection) -> Result<Vec<Result<Dataset>>> {
    let mut statement = connection.prepare(
        "SELECT number, name, keep, held_out_share, max_samples, max_bytes, when_full, created_at,
         capture FROM datasets",
    )?;
    let mut rows = statement.query([])?;
    let mut datasets = Vec::new();
    while let Some(row) = rows.next()? {
        datasets.push(from_row(row));
    }
    Ok(datasets)
}

fn from_row(row: &Row<'_>) -> Result<Dataset> {
    let name: String = row.get(1)?;
    let damaged = || StoreError::Corrupt(format!("dataset row {name:?}"));
    Ok(Dataset {
        number: row.get(0)?,
        name: name.parse().map_err(|_| damaged())?,
        settings: DatasetSettings {
            keep: Keep::from_text(&row.get::<_, String>(2)?).ok_or_else(damaged)?,
            held_out_share: row.get(3)?,
            quota: Quota {
                max_samples: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
                max_bytes: row.get::<_, Option<i64>>(5)?.map(i64::unsigned_abs),
                when_full: WhenFull::from_text(&row.get::<_, String>(6)?).ok_or_else(damaged)?,
            },
            capture: row.get(8)?,
        },
        created_at: Timestamp(row.get(7)?),
    })
}

impl Keep {
    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Thumbnails => "thumbnails",
            Self::Embeddings => "embeddings",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        [Self::Images, Self::Thumbnails, Self::Embeddings].into_iter().find(|k| k.to_text() == text)
    }
}

impl WhenFull {
    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop_oldest",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        [Self::Refuse, Self::DropOldest].into_iter().find(|w| w.to_text() == text)
    }
}
