//! What the writer knows without asking the database: datasets with their sums, backbones, and the
//! ids that the index does not have yet. Made anew from the database at every start, and after
//! every failed COMMIT.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, Row};

use super::counter;
use super::dataset::{self, Dataset};
use super::error::{Result, StoreError};
use super::key::{BackboneNumber, DatasetNumber, SampleKey};
use super::sample::{self, Sample, Split};
use super::stats::LabelCount;
use crate::base::digest::Digest;
use crate::base::name::Name;

/// Ids that may wait in memory before they are entered into the index together.
const RECENT_IDS: usize = 4096;
/// Damaged rows that are told one by one in the log.
const LOGGED: u64 = 20;

/// A dataset and the sums over its samples.
#[derive(Clone, Debug)]
pub(super) struct DatasetState {
    pub(super) dataset: Dataset,
    pub(super) samples: u64,
    pub(super) held_out: u64,
    pub(super) unlabelled: u64,
    pub(super) bytes: u64,
    pub(super) labels: BTreeMap<String, LabelCount>,
    /// Sequence number of the next sample.
    pub(super) next: u32,
}

/// A backbone whose embeddings are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backbone {
    pub(super) number: BackboneNumber,
    pub(super) digest: Digest,
    pub(super) width: usize,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    states: HashMap<DatasetNumber, DatasetState>,
    numbers: HashMap<Name, DatasetNumber>,
    backbones: Vec<Backbone>,
    /// (hash of the id, key) of the samples that have `indexed = 0`.
    recent: BTreeSet<(i64, SampleKey)>,
    /// Rows that cannot be made sense of. They are in none of the sums.
    damaged: u64,
    changes: u64,
}

impl Ledger {
    pub(super) fn load(connection: &Connection) -> Result<Self> {
        let mut ledger = Self::default();
        for dataset in dataset::load(connection)? {
            match dataset {
                Ok(dataset) => ledger.insert_dataset(dataset),
                Err(error) => ledger.leave_out(&error),
            }
        }
        let mut statement = connection.prepare("SELECT number, sha256, width FROM backbones")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            ledger.backbones.push(Backbone {
                number: row.get(0)?,
                digest: Digest(row.get(1)?),
                width: row.get::<_, u32>(2)? as usize,
            });
        }
        for key in counter::remembered(connection)? {
            ledger.take(key);
        }
        let mut statement = connection
            .prepare("SELECT key, id_hash, indexed, labels, held_out, bytes FROM samples")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Err(error) = ledger.enter(row) {
                ledger.leave_out(&error);
            }
        }
        Ok(ledger)
    }

    /// Reads everything again from the database, within a transaction that has changed what the sums
    /// do not tell apart, such as damaged rows. What was given as a sequence number is not given again.
    pub(super) fn reload(&mut self, connection: &Connection) -> Result<()> {
        let mut fresh = Self::load(connection)?;
        for (number, state) in &mut fresh.states {
            state.next = state.next.max(self.states.get(number).map_or(1, |known| known.next));
        }
        fresh.changes = self.changes + 1;
        *self = fresh;
        Ok(())
    }

    /// Counts a stored row.
    fn enter(&mut self, row: &Row<'_>) -> Result<()> {
        let key = SampleKey(row.get(0)?);
        let damaged = || StoreError::Corrupt(format!("sample row {}", key.0));
        // Whatever else the row says, its key and id are taken.
        if !self.take(key) {
            return Err(damaged());
        }
        if !row.get::<_, bool>(2)? {
            self.recent.insert((row.get(1)?, key));
        }
        let labels = row.get_ref(3)?.as_str().map_err(|_| damaged())?;
        let labels = sample::labels_from_json(labels).ok_or_else(damaged)?;
        let state = self.states.get_mut(&key.dataset()).ok_or_else(damaged)?;
        state.count(&labels, row.get(4)?, row.get::<_, i64>(5)?.unsigned_abs());
        Ok(())
    }

    /// Sees to it that this key is not given again; `false` where there is no such dataset.
    fn take(&mut self, key: SampleKey) -> bool {
        let Some(state) = self.states.get_mut(&key.dataset()) else { return false };
        state.next = state.next.max(key.sequence().saturating_add(1));
        true
    }

    /// Whether this is the key that was given last in its dataset.
    pub(super) fn is_newest(&self, key: SampleKey) -> bool {
        let state = self.states.get(&key.dataset());
        state.is_some_and(|state| state.next <= key.sequence().saturating_add(1))
    }

    fn leave_out(&mut self, error: &StoreError) {
        self.damaged += 1;
        if self.damaged <= LOGGED {
            tracing::warn!(%error, "left out; `graftd store verify` lists all damage");
        }
    }

    /// Rows that were left out when this was read.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Grows with every change: tells whether an operation that was undone had touched the sums.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn datasets(&self) -> impl Iterator<Item = &DatasetState> {
        self.states.values()
    }

    pub(super) fn dataset(&self, name: &Name) -> Result<&DatasetState> {
        self.numbers
            .get(name)
            .and_then(|number| self.states.get(number))
            .ok_or_else(|| StoreError::UnknownDataset(name.clone()))
    }

    pub(super) fn dataset_mut(&mut self, number: DatasetNumber) -> Result<&mut DatasetState> {
        self.changes += 1;
        self.states
            .get_mut(&number)
            .ok_or_else(|| StoreError::Corrupt(format!("dataset {number} is not in the ledger")))
    }

    pub(super) fn insert_dataset(&mut self, dataset: Dataset) {
        self.changes += 1;
        self.numbers.insert(dataset.name.clone(), dataset.number);
        self.states.insert(
            dataset.number,
            DatasetState {
                dataset,
                samples: 0,
                held_out: 0,
                unlabelled: 0,
                bytes: 0,
                labels: BTreeMap::new(),
                next: 1,
            },
        );
    }

    pub(super) fn remove_dataset(&mut self, number: DatasetNumber) {
        self.changes += 1;
        if let Some(state) = self.states.remove(&number) {
            self.numbers.remove(&state.dataset.name);
        }
    }

    pub(super) fn backbones(&self) -> &[Backbone] {
        &self.backbones
    }

    pub(super) fn backbone(&self, digest: Digest) -> Option<Backbone> {
        self.backbones.iter().copied().find(|backbone| backbone.digest == digest)
    }

    pub(super) fn insert_backbone(&mut self, backbone: Backbone) {
        self.changes += 1;
        self.backbones.push(backbone);
    }

    /// Enters a new sample, whose id the index does not have yet.
    pub(super) fn add(&mut self, sample: &Sample, id_hash: i64) -> Result<()> {
        let state = self.dataset_mut(sample.key.dataset())?;
        state.count(&sample.labels, sample.split == Split::HeldOut, sample.bytes);
        state.next = sample.key.sequence().saturating_add(1);
        self.recent.insert((id_hash, sample.key));
        Ok(())
    }

    pub(super) fn remove(&mut self, sample: &Sample, id_hash: i64) -> Result<()> {
        self.recent.remove(&(id_hash, sample.key));
        self.dataset_mut(sample.key.dataset())?.discount(sample);
        Ok(())
    }

    /// Counts a sample that stays where it is but says something else now.
    pub(super) fn replace(&mut self, old: &Sample, new: &Sample, id_hash: i64) -> Result<()> {
        let recent = self.recent.contains(&(id_hash, old.key));
        self.remove(old, id_hash)?;
        let state = self.dataset_mut(new.key.dataset())?;
        state.count(&new.labels, new.split == Split::HeldOut, new.bytes);
        if recent {
            self.recent.insert((id_hash, new.key));
        }
        Ok(())
    }

    /// Keys of samples outside the index whose id has this hash; nearly always none or one.
    pub(super) fn recent(&self, id_hash: i64) -> Vec<SampleKey> {
        let range = (id_hash, SampleKey(i64::MIN))..=(id_hash, SampleKey(i64::MAX));
        self.recent.range(range).map(|(_, key)| *key).collect()
    }

    /// The waiting ids once there are enough of them to be worth entering, else none. They stay
    /// here until the index has them durably, so that a reader finds them at every moment.
    pub(super) fn recent_if_many(&self) -> BTreeSet<(i64, SampleKey)> {
        if self.recent.len() < RECENT_IDS { BTreeSet::new() } else { self.recent.clone() }
    }

    /// Forgets ids that the index has.
    pub(super) fn forget_recent(&mut self, indexed: &BTreeSet<(i64, SampleKey)>) {
        self.recent.retain(|entry| !indexed.contains(entry));
    }
}

impl DatasetState {
    fn count(&mut self, labels: &[String], held_out: bool, bytes: u64) {
        self.samples += 1;
        self.held_out += u64::from(held_out);
        self.unlabelled += u64::from(labels.is_empty());
        self.bytes = self.bytes.saturating_add(bytes);
        for label in labels {
            if !self.labels.contains_key(label) {
                self.labels.insert(label.clone(), LabelCount::default());
            }
            if let Some(count) = self.labels.get_mut(label) {
                *count.side(held_out) += 1;
            }
        }
    }

    fn discount(&mut self, sample: &Sample) {
        let held_out = sample.split == Split::HeldOut;
        let less = |count: &mut u64, by: u64| *count = count.saturating_sub(by);
        less(&mut self.samples, 1);
        less(&mut self.held_out, u64::from(held_out));
        less(&mut self.unlabelled, u64::from(sample.labels.is_empty()));
        less(&mut self.bytes, sample.bytes);
        for label in &sample.labels {
            if let Some(count) = self.labels.get_mut(label) {
                less(count.side(held_out), 1);
                if *count == LabelCount::default() {
                    self.labels.remove(label);
                }
            }
        }
    }
}

impl LabelCount {
    fn side(&mut self, held_out: bool) -> &mut u64 {
        if held_out { &mut self.held_out } else { &mut self.train }
    }
}
