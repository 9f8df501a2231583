//! Changing and deleting samples that are stored.

use rusqlite::{OptionalExtension, params};

use super::counter;
use super::error::{Result, StoreError};
use super::key::{DatasetNumber, SampleKey};
use super::open::Store;
use super::query::{self, Filter};
use super::reserve::Pace;
use super::sample::{self, Sample, Split};
use super::writer::{Session, Urgency};
use crate::base::name::Name;

/// Samples deleted in one transaction, so that others can come in between and the log stays short.
const DELETE_AT_ONCE: usize = 500;
/// The same on a full disk: 2 MB of log at most.
const DELETE_AT_ONCE_WHEN_FULL: usize = 16;

/// What is to be different about a sample; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleChange {
    /// The labels instead of the present ones.
    pub labels: Option<Vec<String>>,
    /// The other side.
    pub split: Option<Split>,
    /// Another weight.
    pub weight: Option<f32>,
    /// Another remark.
    pub note: Option<String>,
    /// Pin or unpin.
    pub pinned: Option<bool>,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Samples that are gone.
    pub removed: u64,
    /// Bytes that they took: images, embeddings and texts.
    pub bytes: u64,
    /// Whether their bytes are gone from every file of the state folder as well. If a long read
    /// was in the way they go with the next idle moment.
    pub erased: bool,
}

impl Store {
    /// Changes a sample, for example its label; returns it as it is then.
    ///
    /// # Errors
    /// [`StoreError::UnknownSample`] or [`StoreError::Invalid`].
    pub fn update_sample(&self, dataset: &Name, id: &str, change: SampleChange) -> Result<Sample> {
        if let Some(labels) = &change.labels {
            sample::check_labels(labels)?;
        }
        if let Some(note) = &change.note {
            sample::check_note(note)?;
        }
        let weight = change.weight.map(sample::check_weight).transpose()?;
        let (dataset, id) = (dataset.clone(), id.to_owned());
        self.write(Urgency::Now, move |session| {
            let number = session.ledger().dataset(&dataset)?.dataset.number;
            let found = query::find(session.connection, &session.ledger(), number, &id)?;
            let Some(old) = found else { return Err(StoreError::UnknownSample { dataset, id }) };
            let mut new = old.clone();
            new.labels = change.labels.unwrap_or(new.labels);
            new.split = change.split.unwrap_or(new.split);
            new.weight = weight.unwrap_or(new.weight);
            new.note = change.note.unwrap_or(new.note);
            new.pinned = change.pinned.unwrap_or(new.pinned);
            rewrite(session, &old, &new)?;
            // The text that was replaced leaves the log with the next idle moment, as if deleted.
            session.effects.erase |= old.labels != new.labels || old.note != new.note;
            Ok(new)
        })
    }

    /// Deletes the samples that meet the filter; the default filter means all of them. Damaged rows go
    /// with all, or where the filter names nothing but their ids. On a full disk too, with the room
    /// that is kept for it.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`]. Samples deleted before a failure stay deleted.
    pub fn delete_samples(&self, dataset: &Name, filter: &Filter) -> Result<Deletion> {
        let mut total = Deletion { removed: 0, bytes: 0, erased: true };
        self.making_room(|pace| self.delete_pages(dataset, filter, pace, &mut total))?;
        Ok(total)
    }

    fn delete_pages(
        &self,
        dataset: &Name,
        filter: &Filter,
        pace: Pace,
        total: &mut Deletion,
    ) -> Result<()> {
        let at_once = match pace {
            Pace::Usual => DELETE_AT_ONCE,
            Pace::Careful => DELETE_AT_ONCE_WHEN_FULL,
        };
        // The sample that a page began with which removed nothing.
        let mut unmoved = None;
        loop {
            let page = self.samples(dataset, filter, None, at_once)?;
            let Some(first) = page.samples.first().map(Sample::key) else {
                if *filter == (Filter { ids: filter.ids.clone(), ..Filter::default() }) {
                    total.removed += self.delete_damaged(dataset, &filter.ids, at_once)?;
                }
                total.erased = total.removed == 0 || self.erase()?;
                return Ok(());
            };
            if unmoved == Some(first) {
                return Err(StoreError::Corrupt(format!("sample row {} stays", first.0)));
            }
            if pace == Pace::Careful
                && let Err(error) = self.erase()
            {
                tracing::warn!(%error, "the log could not be cut before a deletion");
            }
            let (removed, bytes) = self.write(Urgency::Now, move |session| {
                let (mut removed, mut bytes) = (0, 0);
                for sample in &page.samples {
                    // It may have gone or changed since it was read. By its key, under which it was
                    // listed: what finds it by its id may be damaged.
                    let found = query::sound(query::by_key(session.connection, sample.key))?;
                    if let Some(sample) = found.flatten().filter(|now| now.id == sample.id) {
                        remove(session, &sample)?;
                        removed += 1;
                        bytes += sample.bytes;
                    }
                }
                Ok((removed, bytes))
            })?;
            unmoved = (removed == 0).then_some(first);
            total.removed += removed;
            total.bytes += bytes;
        }
    }

    /// Deletes the damaged rows with these ids, without ids all of the dataset; returns how many. Of
    /// what such a row says, nothing but its id can be asked for.
    fn delete_damaged(&self, dataset: &Name, ids: &[String], at_once: usize) -> Result<u64> {
        let number = self.dataset(dataset)?.number;
        // By a reader: the writer has better to do than to read a whole dataset.
        let keys = self.read(|connection| {
            if ids.is_empty() {
                return query::damaged_in(connection, number);
            }
            let ledger = self.ledger();
            let mut keys = Vec::new();
            for id in ids {
                keys.extend(query::damaged_under(connection, &ledger, number, id)?);
            }
            keys.sort_unstable();
            keys.dedup();
            Ok(keys)
        })?;
        let mut removed = 0;
        for keys in keys.chunks(at_once) {
            let keys = keys.to_vec();
            removed += self.write(Urgency::Now, move |session| {
                // One may have been sent again since.
                let mut damaged = Vec::new();
                for key in keys {
                    if query::is_damaged(session.connection, key)? {
                        damaged.push(key);
                    }
                }
                remove_damaged_rows(session, &damaged)
            })?;
        }
        Ok(removed)
    }
}

/// Writes what [`Store::update_sample`] can change, and the size.
pub(super) fn rewrite(session: &Session<'_>, old: &Sample, new: &Sample) -> Result<()> {
    session
        .connection
        .prepare_cached(
            "UPDATE samples SET labels = ?2, held_out = ?3, weight = ?4, note = ?5, pinned = ?6,
             bytes = ?7, checksum = ?8 WHERE key = ?1",
        )?
        .execute(params![
            new.key.0,
            sample::labels_to_json(&new.labels),
            new.split == Split::HeldOut,
            new.weight,
            new.note,
            new.pinned,
            new.bytes as i64,
            new.checksum(),
        ])?;
    let id_hash = sample::id_hash(new.key.dataset(), &new.id);
    session.ledger().replace(old, new, id_hash)
}

/// Removes a sample with its image and embeddings.
pub(super) fn remove(session: &mut Session<'_>, sample: &Sample) -> Result<()> {
    remove_rows(session, sample.key)?;
    session.ledger().remove(sample, sample::id_hash(sample.key.dataset(), &sample.id))
}

/// Removes the damaged rows in which this id should be found; returns how many there were.
pub(super) fn remove_damaged_id(
    session: &mut Session<'_>,
    dataset: DatasetNumber,
    id: &str,
) -> Result<u64> {
    let keys = query::damaged_under(session.connection, &session.ledger(), dataset, id)?;
    remove_damaged_rows(session, &keys)
}

/// Removes damaged rows and all that belongs to them. Some of them are in the sums and some are not,
/// so the sums are read again.
fn remove_damaged_rows(session: &mut Session<'_>, keys: &[SampleKey]) -> Result<u64> {
    for key in keys {
        remove_rows(session, *key)?;
    }
    if !keys.is_empty() {
        session.ledger().reload(session.connection)?;
    }
    Ok(keys.len() as u64)
}

fn remove_rows(session: &mut Session<'_>, key: SampleKey) -> Result<()> {
    let connection = session.connection;
    if session.ledger().is_newest(key) {
        counter::remember(connection, key)?;
    }
    let file: Option<Option<String>> = connection
        .prepare_cached("DELETE FROM images WHERE key = ?1 RETURNING file")?
        .query_row([key.0], |row| row.get(0))
        .optional()?;
    let backbones: Vec<_> = session.ledger().backbones().iter().map(|b| b.number).collect();
    for backbone in backbones {
        connection
            .prepare_cached("DELETE FROM embeddings WHERE key = ?1")?
            .execute([key.embedding(backbone)])?;
    }
    connection.prepare_cached("DELETE FROM samples WHERE key = ?1")?.execute([key.0])?;
    session.effects.unlinked.extend(file.flatten());
    session.effects.erase = true;
    Ok(())
}

/// Removes every row of a dataset whose samples have all been removed but for those that cannot be
/// read.
pub(super) fn remove_damaged(session: &mut Session<'_>, dataset: DatasetNumber) -> Result<()> {
    let (first, last) = (SampleKey::before(dataset).0 + 1, SampleKey::last(dataset).0);
    let connection = session.connection;
    let mut images = connection
        .prepare_cached("DELETE FROM images WHERE key BETWEEN ?1 AND ?2 RETURNING file")?;
    let mut rows = images.query([first, last])?;
    while let Some(row) = rows.next()? {
        session.effects.unlinked.extend(row.get::<_, Option<String>>(0)?);
    }
    let backbones: Vec<_> = session.ledger().backbones().iter().map(|b| b.number).collect();
    for backbone in backbones {
        let offset = SampleKey::embedding_offset(backbone);
        connection
            .prepare_cached("DELETE FROM embeddings WHERE key BETWEEN ?1 AND ?2")?
            .execute([first + offset, last + offset])?;
    }
    let removed = connection
        .prepare_cached("DELETE FROM samples WHERE key BETWEEN ?1 AND ?2")?
        .execute([first, last])?;
    session.effects.erase |= removed > 0;
    Ok(())
}
