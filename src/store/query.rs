//! Reading samples: by id, by filter, and a digest of what a dataset held at a moment.

use rusqlite::{Connection, OptionalExtension, ToSql};

use super::dataset::Keep;
use super::error::{Result, StoreError};
use super::image::{Image, StoredImage};
use super::key::{DatasetNumber, SampleKey};
use super::ledger::Ledger;
use super::open::Store;
use super::sample::{self, COLUMNS, Origin, Sample, Split};
use crate::base::clock::Timestamp;
use crate::base::digest::{Digest, Hasher};
use crate::base::name::Name;

/// Which samples of a dataset are meant: those that meet every condition that is set. The default
/// sets none and means all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only these ids, unless empty.
    pub ids: Vec<String>,
    /// Only with one of these among its labels, unless empty.
    pub labels: Vec<String>,
    /// Only without any label (`true`) or with one (`false`).
    pub unlabelled: Option<bool>,
    /// Only on this side.
    pub split: Option<Split>,
    /// Only those that came in so.
    pub origin: Option<Origin>,
    /// Only from this source.
    pub source: Option<String>,
    /// Only pinned or only not pinned.
    pub pinned: Option<bool>,
    /// Only what arrived at this time or later.
    pub added_from: Option<Timestamp>,
    /// Only what arrived before this time.
    pub added_before: Option<Timestamp>,
}

/// Samples in order of arrival.
#[derive(Clone, Debug)]
pub struct SamplePage {
    /// At most as many as were asked for.
    pub samples: Vec<Sample>,
    /// Where the next page begins, if there may be one.
    pub next: Option<SampleKey>,
}

/// How many samples meet a filter, and how large they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of samples.
    pub samples: u64,
    /// Bytes of their images, embeddings and texts.
    pub bytes: u64,
}

/// What a head was trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Samples in the dataset.
    pub samples: u64,
    /// SHA-256 over id, content, labels, weight and split of each, in order of arrival.
    pub digest: Digest,
}

impl Store {
    /// The sample with this id.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`], [`StoreError::UnknownSample`].
    pub fn sample(&self, dataset: &Name, id: &str) -> Result<Sample> {
        let number = self.dataset(dataset)?.number;
        self.read(|connection| find(connection, &self.ledger(), number, id))?.ok_or_else(|| {
            StoreError::UnknownSample { dataset: dataset.clone(), id: id.to_owned() }
        })
    }

    /// The sample in the row with this key; none where it was deleted since.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the row is not as it was written.
    pub fn sample_with_key(&self, key: SampleKey) -> Result<Option<Sample>> {
        self.read(|connection| by_key(connection, key))
    }

    /// Up to `limit` samples that meet the filter and come after `after`; damaged rows are left out.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn samples(
        &self,
        dataset: &Name,
        filter: &Filter,
        after: Option<SampleKey>,
        limit: usize,
    ) -> Result<SamplePage> {
        let number = self.dataset(dataset)?.number;
        let after = after.unwrap_or(SampleKey::before(number)).max(SampleKey::before(number));
        let limit = limit.max(1);
        let samples = if filter.ids.is_empty() {
            self.read(|connection| list(connection, number, filter, after, limit))?
        } else {
            self.by_ids(number, filter, after, limit)?
        };
        let full = samples.len() == limit;
        let next = samples.last().filter(|_| full).map(|sample| sample.key);
        Ok(SamplePage { samples, next })
    }

    /// Sums over the samples that meet the filter; of ids, damaged rows are left out.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn totals(&self, dataset: &Name, filter: &Filter) -> Result<Totals> {
        let number = self.dataset(dataset)?.number;
        if !filter.ids.is_empty() {
            let found = self.by_ids(number, filter, SampleKey::before(number), usize::MAX)?;
            let bytes = found.iter().map(|sample| sample.bytes).sum();
            return Ok(Totals { samples: found.len() as u64, bytes });
        }
        self.read(|connection| {
            let sql = format!("SELECT count(*), coalesce(sum(bytes), 0) FROM samples {CONDITIONS}");
            let mut statement = connection.prepare_cached(&sql)?;
            let values = filter.values(SampleKey::before(number), number);
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            let (samples, bytes) =
                statement.query_row(&values.each_ref().map(|v| &**v)[..], row)?;
            Ok(Totals { samples: samples.unsigned_abs(), bytes: bytes.unsigned_abs() })
        })
    }

    fn by_ids(
        &self,
        number: DatasetNumber,
        filter: &Filter,
        after: SampleKey,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let mut samples = self.read(|connection| {
            let ledger = self.ledger();
            let found = filter
                .ids
                .iter()
                .map(|id| sound(find(connection, &ledger, number, id)).map(Option::flatten));
            found.filter_map(Result::transpose).collect::<Result<Vec<_>>>()
        })?;
        samples.retain(|sample| sample.key > after && filter.meets(sample));
        samples.sort_by_key(|sample| sample.key);
        samples.dedup_by_key(|sample| sample.key);
        samples.truncate(limit);
        Ok(samples)
    }

    /// The sample's image or thumbnail, if the dataset keeps one.
    ///
    /// # Errors
    /// [`StoreError::UnknownSample`], [`StoreError::Corrupt`] if the bytes are not those stored.
    pub fn image(&self, dataset: &Name, id: &str) -> Result<Option<Image>> {
        let sample = self.sample(dataset, id)?;
        self.image_of(&sample)
    }

    /// As [`Store::image`], for a sample that was read before.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the bytes are not those stored.
    pub fn image_of(&self, sample: &Sample) -> Result<Option<Image>> {
        let row = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT thumbnail, length, sha256, file, bytes FROM images WHERE key = ?1",
            )?;
            let mut rows = statement.query([sample.key.0])?;
            match rows.next()? {
                Some(row) => Ok(Some((row.get(0)?, StoredImage::from_row(row, 1)?))),
                None => Ok(None),
            }
        })?;
        row.map(|(thumbnail, image)| Ok(Image { bytes: image.load(self.folder())?, thumbnail }))
            .transpose()
    }

    /// As [`Store::image_of`], for work on many samples, which goes on without a damaged image.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn sound_image_of(&self, sample: &Sample) -> Result<Option<Image>> {
        let image = sound(self.image_of(sample))?;
        if image.is_none() {
            tracing::warn!(sample = %sample.id, "its image is damaged and left out");
        }
        Ok(image.flatten())
    }

    /// What is kept of the sample's picture.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn kept(&self, sample: &Sample) -> Result<Keep> {
        self.read(|connection| {
            let thumbnail: Option<bool> = connection
                .prepare_cached("SELECT thumbnail FROM images WHERE key = ?1")?
                .query_row([sample.key.0], |row| row.get(0))
                .optional()?;
            Ok(match thumbnail {
                Some(false) => Keep::Images,
                Some(true) => Keep::Thumbnails,
                None => Keep::Embeddings,
            })
        })
    }

    /// A digest of what the dataset holds now, damaged rows apart, for a head to remember.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn snapshot(&self, dataset: &Name) -> Result<Snapshot> {
        let found = self.snapshot_while(dataset, &|| true)?;
        Ok(found.unwrap_or(Snapshot { samples: 0, digest: Digest::of(b"") }))
    }

    /// The same, but `None` as soon as `goes_on`, asked every thousand samples, says no.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn snapshot_while(
        &self,
        dataset: &Name,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Snapshot>> {
        let number = self.dataset(dataset)?.number;
        let mut hasher = Hasher::default();
        let mut snapshot = Snapshot { samples: 0, digest: Digest::of(b"") };
        let all = self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM samples WHERE key > ?1 AND key <= ?2 ORDER BY key"
            ))?;
            let mut rows =
                statement.query([SampleKey::before(number).0, SampleKey::last(number).0])?;
            while let Some(row) = rows.next()? {
                let Some(sample) = sound(Sample::from_row(row))? else { continue };
                let labels = sample::labels_to_json(&sample.labels);
                hasher.update(&(sample.id.len() as u64).to_le_bytes());
                hasher.update(sample.id.as_bytes());
                hasher.update(&sample.content.0);
                hasher.update(&(labels.len() as u64).to_le_bytes());
                hasher.update(labels.as_bytes());
                hasher.update(&f64::from(sample.weight).to_le_bytes());
                hasher.update(&[u8::from(sample.split == Split::HeldOut)]);
                if snapshot.samples.is_multiple_of(1000) && !goes_on() {
                    return Ok(false);
                }
                snapshot.samples += 1;
            }
            Ok(true)
        })?;
        snapshot.digest = hasher.finish();
        Ok(all.then_some(snapshot))
    }
}

impl Filter {
    /// Whether the sample meets the conditions apart from `ids`.
    fn meets(&self, sample: &Sample) -> bool {
        (self.labels.is_empty() || sample.labels.iter().any(|l| self.labels.contains(l)))
            && self.origin.is_none_or(|origin| sample.origin == origin)
            && self.unlabelled.is_none_or(|unlabelled| sample.labels.is_empty() == unlabelled)
            && self.split.is_none_or(|split| sample.split == split)
            && self.source.as_ref().is_none_or(|source| sample.source == *source)
            && self.pinned.is_none_or(|pinned| sample.pinned == pinned)
            && self.added_from.is_none_or(|from| sample.added_at >= from)
            && self.added_before.is_none_or(|before| sample.added_at < before)
    }
}

/// Looks an id up, first among the recent ones and then in the index. Hashes may collide, so the
/// row's own id decides.
pub(super) fn find(
    connection: &Connection,
    ledger: &Ledger,
    dataset: DatasetNumber,
    id: &str,
) -> Result<Option<Sample>> {
    let hash = sample::id_hash(dataset, id);
    for key in ledger.recent(hash) {
        let found = by_key(connection, key)?;
        if found.as_ref().is_some_and(|sample| sample.id == id && key.dataset() == dataset) {
            return Ok(found);
        }
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM samples WHERE id_hash = ?1 AND indexed = 1"
    ))?;
    let mut rows = statement.query([hash])?;
    while let Some(row) = rows.next()? {
        let sample = Sample::from_row(row)?;
        if sample.id == id && sample.key.dataset() == dataset {
            return Ok(Some(sample));
        }
    }
    Ok(None)
}

/// The rows in which this id should be found but which are not as they were written.
pub(super) fn damaged_under(
    connection: &Connection,
    ledger: &Ledger,
    dataset: DatasetNumber,
    id: &str,
) -> Result<Vec<SampleKey>> {
    let hash = sample::id_hash(dataset, id);
    let mut keys = ledger.recent(hash);
    // The id itself may be what is damaged, so its hash alone decides.
    let mut statement =
        connection.prepare_cached("SELECT key FROM samples WHERE id_hash = ?1 AND indexed = 1")?;
    let mut rows = statement.query([hash])?;
    while let Some(row) = rows.next()? {
        keys.push(SampleKey(row.get(0)?));
    }
    keys.retain(|key| key.dataset() == dataset);
    let mut damaged = Vec::new();
    for key in keys {
        if is_damaged(connection, key)? {
            damaged.push(key);
        }
    }
    Ok(damaged)
}

/// Whether there is a row with this key that is not as it was written.
pub(super) fn is_damaged(connection: &Connection, key: SampleKey) -> Result<bool> {
    Ok(sound(by_key(connection, key))?.is_none())
}

/// The rows of a dataset that are not as they were written.
pub(super) fn damaged_in(
    connection: &Connection,
    dataset: DatasetNumber,
) -> Result<Vec<SampleKey>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM samples WHERE key > ?1 AND key <= ?2 ORDER BY key"
    ))?;
    let mut rows = statement.query([SampleKey::before(dataset).0, SampleKey::last(dataset).0])?;
    let mut damaged = Vec::new();
    while let Some(row) = rows.next()? {
        if sound(Sample::from_row(row))?.is_none() {
            damaged.push(SampleKey(row.get(0)?));
        }
    }
    Ok(damaged)
}

pub(super) fn by_key(connection: &Connection, key: SampleKey) -> Result<Option<Sample>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM samples WHERE key = ?1"))?
        .query_row([key.0], |row| Ok(Sample::from_row(row)))
        .optional()?
        .transpose()
}

/// The samples that make room first, for as long as `needed` says of the next one that it is.
pub(super) fn oldest_unpinned(
    connection: &Connection,
    dataset: DatasetNumber,
    mut needed: impl FnMut(&Sample) -> bool,
) -> Result<Vec<Sample>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM samples WHERE key > ?1 AND key <= ?2 AND pinned = 0 ORDER BY key"
    ))?;
    let mut rows = statement.query([SampleKey::before(dataset).0, SampleKey::last(dataset).0])?;
    let mut samples = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(sample) = sound(Sample::from_row(row))? else { continue };
        if !needed(&sample) {
            break;
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// The filter as SQL, but for its ids; see [`Filter::values`].
const CONDITIONS: &str = "WHERE key > ?1 AND key <= ?2
     AND (?3 IS NULL OR EXISTS (SELECT 1 FROM json_each(iif(json_valid(labels), labels, '[]')) AS has,
                                              json_each(?3) AS asked WHERE has.value = asked.value))
     AND (?4 IS NULL OR (labels = '[]') = ?4)
     AND (?5 IS NULL OR held_out = ?5) AND (?6 IS NULL OR source = ?6)
     AND (?7 IS NULL OR pinned = ?7) AND (?8 IS NULL OR origin = ?8)
     AND (?9 IS NULL OR added_at >= ?9) AND (?10 IS NULL OR added_at < ?10)";

impl Filter {
    fn values(&self, after: SampleKey, dataset: DatasetNumber) -> [Box<dyn ToSql + '_>; 10] {
        let labels = (!self.labels.is_empty()).then(|| sample::labels_to_json(&self.labels));
        [
            Box::new(after.0),
            Box::new(SampleKey::last(dataset).0),
            Box::new(labels),
            Box::new(self.unlabelled),
            Box::new(self.split.map(|split| split == Split::HeldOut)),
            Box::new(&self.source),
            Box::new(self.pinned),
            Box::new(self.origin.map(Origin::to_number)),
            Box::new(self.added_from.map(|at| at.0)),
            Box::new(self.added_before.map(|at| at.0)),
        ]
    }
}

/// Up to `limit` samples that meet the filter, damaged rows apart.
pub(super) fn list(
    connection: &Connection,
    dataset: DatasetNumber,
    filter: &Filter,
    after: SampleKey,
    limit: usize,
) -> Result<Vec<Sample>> {
    // No limit in the statement, which would count damaged rows too and end a listing early.
    let sql = format!("SELECT {COLUMNS} FROM samples {CONDITIONS} ORDER BY key");
    let mut statement = connection.prepare_cached(&sql)?;
    let values = filter.values(after, dataset);
    let mut rows = statement.query(&values.each_ref().map(|v| &**v)[..])?;
    let mut samples = Vec::new();
    while samples.len() < limit
        && let Some(row) = rows.next()?
    {
        samples.extend(sound(Sample::from_row(row))?);
    }
    Ok(samples)
}

/// Leaves a damaged row out of what is read with others; `graftd store verify` names each.
pub(super) fn sound<T>(row: Result<T>) -> Result<Option<T>> {
    match row {
        Ok(row) => Ok(Some(row)),
        Err(StoreError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
