//! Embeddings: 16-bit floats by backbone and sample, read back in blocks of bounded size.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rusqlite::{Connection, OptionalExtension, params};

use super::change;
use super::error::{Result, StoreError};
use super::key::{BackboneNumber, SampleKey};
use super::ledger::Backbone;
use super::open::Store;
use super::query::sound;
use super::sample::{COLUMN_COUNT, COLUMNS, Sample, Split, first_eight};
use super::writer::{Session, Urgency};
use crate::base::digest::Digest;
use crate::base::name::Name;

/// Widest embedding that is accepted, in values.
const MAX_WIDTH: usize = 65_536;

/// An embedding on its way in.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEmbedding {
    /// Names the backbone (and its preprocessing) that made it.
    pub backbone: Digest,
    /// The values; finite and within the range of a 16-bit float, which they are rounded to.
    pub values: Vec<f32>,
}

/// An embedding ready for its row.
#[derive(Clone, Debug)]
pub(super) struct Halves {
    pub(super) backbone: Digest,
    pub(super) width: usize,
    pub(super) bytes: Vec<u8>,
}

impl NewEmbedding {
    /// Rounds the values to 16 bits; on the caller's thread.
    pub(super) fn to_halves(&self) -> Result<Halves> {
        let width = self.values.len();
        if width == 0 || width > MAX_WIDTH {
            return Err(StoreError::invalid(
                "embedding",
                format!("has {width} values, 1 to {MAX_WIDTH} are allowed"),
            ));
        }
        let mut halves = vec![f16::ZERO; width];
        halves.convert_from_f32_slice(&self.values);
        if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
            return Err(StoreError::invalid(
                format!("embedding[{at}]"),
                format!("{} is not a finite number up to {}", self.values[at], f16::MAX),
            ));
        }
        let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        Ok(Halves { backbone: self.backbone, width, bytes })
    }
}

pub(super) fn checksum(bytes: &[u8]) -> i64 {
    first_eight(Digest::of(bytes))
}

/// Whether the halves are those that were written.
pub(super) fn is_sound(bytes: &[u8], width: usize, expected: i64) -> bool {
    bytes.len() == width * 2 && checksum(bytes) == expected
}

/// The backbone's number, given on its first embedding. All its embeddings have one width.
pub(super) fn backbone(session: &Session<'_>, digest: Digest, width: usize) -> Result<Backbone> {
    if let Some(known) = session.ledger().backbone(digest) {
        if known.width == width {
            return Ok(known);
        }
        return Err(StoreError::invalid(
            "embedding",
            format!("has {width} values, this backbone's have {}", known.width),
        ));
    }
    let newest: Option<i64> =
        session.connection.query_row("SELECT max(number) FROM backbones", [], |row| row.get(0))?;
    let number = BackboneNumber::try_from(newest.unwrap_or(0) + 1)
        .ok()
        .filter(|number| *number <= 32_767)
        .ok_or_else(|| StoreError::invalid("backbone", "a store knows at most 32,767 backbones"))?;
    session.connection.execute(
        "INSERT INTO backbones (number, sha256, width) VALUES (?1, ?2, ?3)",
        params![number, digest.0, width as i64],
    )?;
    let backbone = Backbone { number, digest, width };
    session.ledger().insert_backbone(backbone);
    Ok(backbone)
}

/// Writes the row; one that is there is replaced.
pub(super) fn put(session: &Session<'_>, key: SampleKey, halves: &Halves) -> Result<()> {
    let backbone = backbone(session, halves.backbone, halves.width)?;
    session
        .connection
        .prepare_cached(
            "INSERT OR REPLACE INTO embeddings (key, checksum, halves) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![key.embedding(backbone.number), checksum(&halves.bytes), halves.bytes])?;
    Ok(())
}

/// As [`put`] for a sample that is stored already, whose size it changes.
fn put_later(session: &Session<'_>, sample: &Sample, halves: &Halves) -> Result<()> {
    let backbone = backbone(session, halves.backbone, halves.width)?;
    let replaced: bool = session
        .connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM embeddings WHERE key = ?1)")?
        .query_row([sample.key.embedding(backbone.number)], |row| row.get(0))?;
    if !replaced {
        check_room(session, sample, halves.bytes.len() as u64)?;
    }
    put(session, sample.key, halves)?;
    if !replaced {
        let mut larger = sample.clone();
        larger.bytes += halves.bytes.len() as u64;
        change::rewrite(session, sample, &larger)?;
    }
    Ok(())
}

/// Refuses an embedding that does not fit into the quota, whatever that says on samples: none that a
/// person labelled makes room for what can be computed again.
fn check_room(session: &Session<'_>, sample: &Sample, bytes: u64) -> Result<()> {
    let ledger = session.ledger();
    let Some(state) = ledger.datasets().find(|s| s.dataset.number == sample.key.dataset()) else {
        return Ok(());
    };
    match state.dataset.settings.quota.max_bytes {
        Some(most) if state.bytes.saturating_add(bytes) > most => Err(StoreError::QuotaExceeded {
            dataset: state.dataset.name.clone(),
            limit: format!("{most} bytes"),
        }),
        _ => Ok(()),
    }
}

/// A sample that takes part in training.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedSample {
    /// The client's id.
    pub id: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The side it stands on.
    pub split: Split,
    /// How much it counts.
    pub weight: f32,
}

/// Some samples in order of arrival with their embeddings.
#[derive(Clone, Debug)]
pub struct EmbeddingBlock {
    /// One for each row of `values`.
    pub samples: Vec<EmbeddedSample>,
    /// Row-major, `samples.len()` rows of the backbone's width.
    pub values: Vec<f16>,
}

/// Reads a dataset's embeddings block by block. Each block is a read of its own, so that a slow
/// training run keeps neither the log from being cut nor a deletion from being final; samples that
/// arrive meanwhile are seen at the end, deleted ones no more.
pub struct EmbeddingBlocks<'a> {
    store: &'a Store,
    backbone: Option<Backbone>,
    split: Option<Split>,
    after: SampleKey,
    last: SampleKey,
    rows: usize,
    damaged: u64,
}

impl EmbeddingBlocks<'_> {
    /// Values in an embedding; 0 as long as the store has none of this backbone.
    pub fn width(&self) -> usize {
        self.backbone.map_or(0, |backbone| backbone.width)
    }

    fn next_block(&mut self, backbone: Backbone) -> Result<EmbeddingBlock> {
        let mut block = EmbeddingBlock {
            samples: Vec::with_capacity(self.rows),
            values: Vec::with_capacity(self.rows.saturating_mul(backbone.width)),
        };
        let held_out = self.split.map(|split| split == Split::HeldOut);
        self.store.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS}, embeddings.checksum, embeddings.halves
                 FROM samples CROSS JOIN embeddings ON embeddings.key = samples.key + ?1
                 WHERE samples.key > ?2 AND samples.key <= ?3
                 AND (?4 IS NULL OR samples.held_out = ?4) ORDER BY samples.key"
            ))?;
            let offset = SampleKey::embedding_offset(backbone.number);
            let mut rows = statement.query(params![offset, self.after.0, self.last.0, held_out])?;
            while block.samples.len() < self.rows
                && let Some(row) = rows.next()?
            {
                self.after = SampleKey(row.get(0)?);
                // The same checks as everywhere: a label that was not written is not learnt.
                let Some(sample) = sound(Sample::from_row(row))? else {
                    self.damaged += 1;
                    continue;
                };
                let bytes = row.get_ref(COLUMN_COUNT + 1)?.as_blob().unwrap_or_default();
                if !is_sound(bytes, backbone.width, row.get(COLUMN_COUNT)?) {
                    self.damaged += 1;
                    continue;
                }
                block.values.extend(
                    bytes.as_chunks().0.iter().map(|half: &[u8; 2]| f16::from_le_bytes(*half)),
                );
                let Sample { id, labels, split, weight, .. } = sample;
                block.samples.push(EmbeddedSample { id, labels, split, weight });
            }
            Ok(())
        })?;
        Ok(block)
    }

    /// Samples so far that were left out, because row or embedding are not as they were written.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

impl Iterator for EmbeddingBlocks<'_> {
    type Item = Result<EmbeddingBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        let backbone = self.backbone?;
        match self.next_block(backbone) {
            Ok(block) if block.samples.is_empty() => {
                if self.damaged > 0 {
                    let samples = self.damaged;
                    tracing::warn!(samples, "left out as damaged; see `graftd store verify`");
                }
                self.backbone = None;
                None
            }
            Ok(block) => Some(Ok(block)),
            Err(error) => {
                self.backbone = None; // an iterator that failed has ended
                Some(Err(error))
            }
        }
    }
}

impl Store {
    /// The embeddings that `backbone` made of the samples of `dataset`, in order of arrival,
    /// `rows` a block (at least 1), of both splits or one.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`]; a block can fail with [`StoreError::Corrupt`] where the
    /// database's structure is damaged. Damaged samples are left out and counted.
    pub fn embeddings(
        &self,
        dataset: &Name,
        backbone: Digest,
        split: Option<Split>,
        rows: usize,
    ) -> Result<EmbeddingBlocks<'_>> {
        let ledger = self.ledger();
        let number = ledger.dataset(dataset)?.dataset.number;
        Ok(EmbeddingBlocks {
            store: self,
            backbone: ledger.backbone(backbone),
            split,
            after: SampleKey::before(number),
            last: SampleKey::last(number),
            rows: rows.max(1),
            damaged: 0,
        })
    }

    /// As [`Store::embeddings`] of the samples after `after` up to and with `through`.
    ///
    /// # Errors
    /// As [`Store::embeddings`].
    pub fn embeddings_between(
        &self,
        dataset: &Name,
        backbone: Digest,
        split: Option<Split>,
        after: Option<SampleKey>,
        through: SampleKey,
        rows: usize,
    ) -> Result<EmbeddingBlocks<'_>> {
        let all = self.embeddings(dataset, backbone, split, rows)?;
        let after = after.unwrap_or(all.after).max(all.after);
        Ok(EmbeddingBlocks { after, last: through.min(all.last), ..all })
    }

    /// The sample of the dataset that arrived last, if it has any.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn newest_sample(&self, dataset: &Name) -> Result<Option<SampleKey>> {
        let number = self.dataset(dataset)?.number;
        self.read(|connection| {
            let newest: Option<i64> = connection
                .prepare_cached("SELECT max(key) FROM samples WHERE key > ?1 AND key <= ?2")?
                .query_row([SampleKey::before(number).0, SampleKey::last(number).0], |row| {
                    row.get(0)
                })?;
            Ok(newest.map(SampleKey))
        })
    }

    /// Adds or replaces what one backbone made of a stored sample.
    ///
    /// # Errors
    /// [`StoreError::UnknownSample`], also when the sample's content is no longer `content`;
    /// [`StoreError::QuotaExceeded`] where one more embedding does not fit.
    pub fn put_embedding(
        &self,
        dataset: &Name,
        id: &str,
        content: Digest,
        embedding: &NewEmbedding,
    ) -> Result<()> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        self.put_embedding_then(dataset, id, content, embedding, move |outcome| {
            let _ = sender.send(outcome);
        });
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// As [`Store::put_embedding`] without waiting, so that many share a COMMIT. `done` is called as
    /// that of [`Store::add_sample`] is, and this blocks as that does.
    pub fn put_embedding_then<F>(
        &self,
        dataset: &Name,
        id: &str,
        content: Digest,
        embedding: &NewEmbedding,
        done: F,
    ) where
        F: FnOnce(Result<()>) + Send + 'static,
    {
        let halves = match embedding.to_halves() {
            Ok(halves) => halves,
            Err(error) => return done(Err(error)),
        };
        let (dataset, id) = (dataset.clone(), id.to_owned());
        let apply = move |session: &mut Session<'_>| {
            let number = session.ledger().dataset(&dataset)?.dataset.number;
            let found = super::query::find(session.connection, &session.ledger(), number, &id)?;
            match found {
                Some(sample) if sample.content == content => put_later(session, &sample, &halves),
                _ => Err(StoreError::UnknownSample { dataset, id }),
            }
        };
        self.submit(Urgency::Batch, apply, done);
    }

    /// What one backbone made of one sample, if that is stored.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn embedding_of(&self, sample: &Sample, backbone: Digest) -> Result<Option<Vec<f32>>> {
        let Some(backbone) = self.ledger().backbone(backbone) else { return Ok(None) };
        let row: Option<(i64, Vec<u8>)> = self.read(|connection| {
            Ok(connection
                .prepare_cached("SELECT checksum, halves FROM embeddings WHERE key = ?1")?
                .query_row([sample.key.embedding(backbone.number)], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?)
        })?;
        let Some((expected, bytes)) = row else { return Ok(None) };
        if checksum(&bytes) != expected {
            return Err(StoreError::Corrupt(format!("embedding of row {}", sample.key.0)));
        }
        let halves = bytes.as_chunks().0.iter();
        Ok(Some(halves.map(|half| f16::from_le_bytes(*half).to_f32()).collect()))
    }

    /// The backbones whose embeddings of the sample are stored.
    ///
    /// # Errors
    /// Only the store's own failures.
    pub fn backbones_of(&self, sample: &Sample) -> Result<Vec<Digest>> {
        let backbones = self.ledger().backbones().to_vec();
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM embeddings WHERE key = ?1)")?;
            let mut found = Vec::new();
            for backbone in backbones {
                let key = sample.key.embedding(backbone.number);
                if statement.query_row([key], |row| row.get(0))? {
                    found.push(backbone.digest);
                }
            }
            Ok(found)
        })
    }

    /// Up to `limit` samples after `after` that have an image but no embedding of this backbone:
    /// what is left to embed before training.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn samples_without_embedding(
        &self,
        dataset: &Name,
        backbone: Digest,
        after: Option<SampleKey>,
        limit: usize,
    ) -> Result<Vec<Sample>> {
        let (number, backbone) = {
            let ledger = self.ledger();
            (ledger.dataset(dataset)?.dataset.number, ledger.backbone(backbone))
        };
        // Number 0 is never given, so nothing has an embedding of a backbone that is unknown.
        let offset = SampleKey::embedding_offset(backbone.map_or(0, |backbone| backbone.number));
        let after = after.unwrap_or(SampleKey::before(number)).max(SampleKey::before(number));
        self.read(|connection| without_embedding(connection, offset, after, number, limit))
    }
}

fn without_embedding(
    connection: &Connection,
    offset: i64,
    after: SampleKey,
    number: u16,
    limit: usize,
) -> Result<Vec<Sample>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM samples
         JOIN images ON images.key = samples.key AND images.thumbnail = 0
         WHERE samples.key > ?1 AND samples.key <= ?2
         AND NOT EXISTS (SELECT 1 FROM embeddings WHERE embeddings.key = samples.key + ?3)
         ORDER BY samples.key"
    ))?;
    let mut rows = statement.query(params![after.0, SampleKey::last(number).0, offset])?;
    let mut samples = Vec::new();
    while samples.len() < limit
        && let Some(row) = rows.next()?
    {
        samples.extend(sound(Sample::from_row(row))?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_half_cannot_hold_are_refused_by_place() {
        for bad in [f32::NAN, f32::INFINITY, 1e6] {
            let embedding = NewEmbedding { backbone: Digest::of(b"b"), values: vec![0.5, bad] };
            let refused = embedding.to_halves().unwrap_err().to_string();
            assert!(refused.starts_with("embedding[1]"), "{refused}");
        }
        let empty = NewEmbedding { backbone: Digest::of(b"b"), values: vec![] };
        assert!(empty.to_halves().is_err());
    }
}
