//! The way of a sample into the store.
//!
//! On the caller's thread: checks, rounding to 16 bits, digests, and the file of a large image. On
//! the writer's: is the id known, does it fit, three rows. The receipt leaves after COMMIT.

use rusqlite::{Connection, params};

use super::change;
use super::dataset::{self, Dataset, DatasetSettings, Keep, WhenFull};
use super::embedding::{self, Halves, NewEmbedding};
use super::error::{Result, StoreError};
use super::head::check_json;
use super::image::{Body, NewImage};
use super::key::{DatasetNumber, SampleKey};
use super::open::Store;
use super::query;
use super::sample::{self, NewSample, Origin, Sample, Split};
use super::writer::{Session, Urgency};
use crate::base::clock;
use crate::base::digest::Digest;
use crate::base::name::Name;

/// Most different labels within one dataset.
const MAX_DISTINCT_LABELS: usize = 10_000;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored now.
    Added,
    /// It was stored before, with the same content; labels and note stayed as they were, for they
    /// may have been corrected since.
    Duplicate,
}

/// A promise: the sample survives a power cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// Whether it was new.
    pub outcome: Outcome,
    /// As it is stored. A quota may drop it again before the receipt is read.
    pub sample: Sample,
    /// Older samples that were dropped to make room.
    pub dropped: u64,
}

/// How many pictures may be kept for review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureBudget {
    /// Most within one hour.
    pub hourly: u64,
    /// Most that wait for review at one time.
    pub waiting: u64,
}

/// A sample with everything done that needs no database.
struct Prepared {
    sample: Sample,
    split: Option<Split>,
    image: Option<(NewImage, bool)>,
    embeddings: Vec<Halves>,
}

impl Store {
    /// Stores a sample. `done` is called from the writer's thread once the sample is durable or
    /// has been refused, and must not block. Blocks while the writer has as many waiting as it
    /// takes, which is the back-pressure on a stream.
    pub fn add_sample<F>(&self, dataset: &Name, sample: NewSample, done: F)
    where
        F: FnOnce(Result<Receipt>) + Send + 'static,
    {
        let settings = self.dataset(dataset).map(|known| known.settings);
        match settings.and_then(|settings| self.prepare(&settings, sample)) {
            Ok(prepared) => {
                let dataset = dataset.clone();
                self.submit(
                    Urgency::Batch,
                    move |session| insert(session, &dataset, prepared),
                    done,
                );
            }
            Err(error) => done(Err(error)),
        }
    }

    /// As [`Store::add_sample`]. A dataset that does not exist is made together with its first sample,
    /// with default settings; a sample that is refused makes none.
    pub fn add_sample_making<F>(&self, dataset: &Name, sample: NewSample, done: F)
    where
        F: FnOnce(Result<Receipt>) + Send + 'static,
    {
        self.add_sample_making_with(dataset, &DatasetSettings::default(), sample, done);
    }

    /// As [`Store::add_sample_making`] with the settings of a dataset that is made.
    pub fn add_sample_making_with<F>(
        &self,
        dataset: &Name,
        settings: &DatasetSettings,
        sample: NewSample,
        done: F,
    ) where
        F: FnOnce(Result<Receipt>) + Send + 'static,
    {
        let known = self.dataset(dataset).map(|known| known.settings);
        if !matches!(known, Err(StoreError::UnknownDataset(_))) {
            return self.add_sample(dataset, sample, done);
        }
        match dataset::check(settings).and_then(|()| self.prepare(settings, sample)) {
            Ok(prepared) => {
                let (dataset, settings) = (dataset.clone(), settings.clone());
                let apply = move |session: &mut Session<'_>| {
                    let missing = session.ledger().dataset(&dataset).is_err();
                    if missing {
                        dataset::create(session, &dataset, settings)?;
                    }
                    insert(session, &dataset, prepared)
                };
                self.submit(Urgency::Batch, apply, done);
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Stores a sample and waits until it is durable.
    ///
    /// # Errors
    /// [`StoreError::SampleConflict`], [`StoreError::QuotaExceeded`], [`StoreError::Invalid`] or a
    /// failure of the medium; nothing was stored then.
    pub fn add_sample_and_wait(&self, dataset: &Name, sample: NewSample) -> Result<Receipt> {
        let prepared = self.prepare(&self.dataset(dataset)?.settings, sample)?;
        let dataset = dataset.clone();
        self.write(Urgency::Batch, move |session| insert(session, &dataset, prepared))
    }

    /// Keeps a picture for review, unlabelled, unless the budget stands against it; tells whether it
    /// was kept.
    ///
    /// # Errors
    /// As [`Store::add_sample_and_wait`].
    pub fn capture_sample(
        &self,
        dataset: &Name,
        sample: NewSample,
        budget: CaptureBudget,
    ) -> Result<bool> {
        let captured = NewSample { origin: Origin::Capture, labels: Vec::new(), ..sample };
        let prepared = self.prepare(&self.dataset(dataset)?.settings, captured)?;
        let dataset = dataset.clone();
        self.write(Urgency::Batch, move |session| {
            let number = session.ledger().dataset(&dataset)?.dataset.number;
            if !has_budget(session.connection, number, budget)? {
                return Ok(false);
            }
            insert(session, &dataset, prepared).map(|receipt| receipt.outcome == Outcome::Added)
        })
    }

    /// Whether the budget leaves room for one more captured picture. One that is captured meanwhile may
    /// take it: [`Store::capture_sample`] has the last word.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`].
    pub fn may_capture(&self, dataset: &Name, budget: CaptureBudget) -> Result<bool> {
        let number = self.dataset(dataset)?.number;
        self.read(|connection| has_budget(connection, number, budget))
    }

    fn prepare(&self, settings: &DatasetSettings, new: NewSample) -> Result<Prepared> {
        if self.reserve().is_some_and(|reserve| !reserve.is_there()) {
            return Err(StoreError::DiskFull);
        }
        sample::check_id(&new.id)?;
        sample::check_labels(&new.labels)?;
        sample::check_note(&new.note)?;
        sample::check_source(&new.source)?;
        let weight = sample::check_weight(new.weight)?;
        if let Some(prediction) = &new.prediction {
            check_json("prediction", prediction)?;
        }
        let embeddings =
            new.embeddings.iter().map(NewEmbedding::to_halves).collect::<Result<Vec<_>>>()?;
        let content = match (&new.image, new.content, embeddings.first()) {
            (Some(image), _, _) => Digest::of(image),
            (None, Some(content), _) => content,
            (None, None, Some(halves)) => Digest::of(&halves.bytes),
            (None, None, None) => {
                return Err(StoreError::invalid(
                    "image",
                    "a sample needs an image or an embedding",
                ));
            }
        };
        let kept = match settings.keep {
            // Of what came in while the dataset kept less, the thumbnail is all there is.
            Keep::Images => new
                .image
                .map(|bytes| (bytes, false))
                .or_else(|| new.thumbnail.map(|bytes| (bytes, true))),
            Keep::Thumbnails => new.thumbnail.map(|bytes| (bytes, true)),
            Keep::Embeddings => None,
        };
        if kept.is_none() && embeddings.is_empty() {
            return Err(StoreError::invalid(
                "embedding",
                format!(
                    "the dataset keeps {} only and the sample came without: send it through a \
                     daemon with a backbone",
                    settings.keep.to_text()
                ),
            ));
        }
        let image = kept
            .map(|(bytes, thumbnail)| {
                NewImage::stage(self.folder(), bytes).map(|image| (image, thumbnail))
            })
            .transpose()?;
        let texts = new.id.len()
            + new.source.len()
            + new.note.len()
            + new.labels.iter().map(String::len).sum::<usize>();
        let bytes = texts
            + embeddings.iter().map(|halves| halves.bytes.len()).sum::<usize>()
            + image.as_ref().map_or(0, |(image, _)| image.length);
        let sample = Sample {
            id: new.id,
            labels: new.labels,
            split: new.split.unwrap_or(Split::Train),
            weight,
            source: new.source,
            note: new.note,
            taken_at: new.taken_at,
            added_at: new.added_at.unwrap_or_else(clock::now),
            pinned: new.pinned,
            origin: new.origin,
            prediction: new.prediction,
            width: new.width,
            height: new.height,
            content,
            bytes: bytes as u64,
            key: SampleKey::before(0),
        };
        Ok(Prepared { sample, split: new.split, image, embeddings })
    }
}

fn insert(session: &mut Session<'_>, dataset: &Name, prepared: Prepared) -> Result<Receipt> {
    let Prepared { mut sample, split, image, embeddings } = prepared;
    let (dataset, next) = {
        let ledger = session.ledger();
        let state = ledger.dataset(dataset)?;
        let new_labels = sample.labels.iter().filter(|l| !state.labels.contains_key(*l)).count();
        if state.labels.len() + new_labels > MAX_DISTINCT_LABELS {
            return Err(StoreError::invalid(
                "labels",
                format!("a dataset has at most {MAX_DISTINCT_LABELS} different labels"),
            ));
        }
        (state.dataset.clone(), state.next)
    };
    let find = |session: &Session<'_>| {
        query::find(session.connection, &session.ledger(), dataset.number, &sample.id)
    };
    let known = match find(session) {
        Err(StoreError::Corrupt(_))
            if change::remove_damaged_id(session, dataset.number, &sample.id)? > 0 =>
        {
            tracing::warn!(sample = %sample.id, "its row was damaged and is replaced");
            find(session)
        }
        found => found,
    }?;
    if let Some(known) = known {
        if known.content != sample.content {
            return Err(StoreError::SampleConflict { id: sample.id });
        }
        return Ok(Receipt { outcome: Outcome::Duplicate, sample: known, dropped: 0 });
    }
    if next == u32::MAX {
        return Err(StoreError::invalid("dataset", "has no sequence numbers left: export it"));
    }
    sample.split =
        split.unwrap_or_else(|| sample::split_of(sample.content, dataset.settings.held_out_share));
    sample.key = SampleKey::new(dataset.number, next);
    let dropped = make_room(session, &dataset, sample.bytes)?;
    write_rows(session, &sample, image, &embeddings)?;
    Ok(Receipt { outcome: Outcome::Added, sample, dropped })
}

fn has_budget(
    connection: &Connection,
    number: DatasetNumber,
    budget: CaptureBudget,
) -> Result<bool> {
    const HOUR_MICROSECONDS: i64 = 3_600_000_000;
    let now = clock::now().0;
    // An hour to both sides: a clock that jumps gives one more budget, and pictures that a clock set
    // years ahead left behind do not use it up for years.
    let (first, last) = (SampleKey::before(number).0, SampleKey::last(number).0);
    let recent: i64 = connection
        .prepare_cached(CAPTURED_BETWEEN)?
        .query_row([first, last, now - HOUR_MICROSECONDS, now + HOUR_MICROSECONDS], |row| {
            row.get(0)
        })?;
    let waiting: i64 =
        connection.prepare_cached(CAPTURED_WAITING)?.query_row([first, last], |row| row.get(0))?;
    Ok(recent.unsigned_abs() < budget.hourly && waiting.unsigned_abs() < budget.waiting)
}

/// Both name their index: on the writer's thread nothing may read a whole dataset.
pub(super) const CAPTURED_BETWEEN: &str = "SELECT count(*) FROM samples \
     INDEXED BY samples_captured_at \
     WHERE origin = 1 AND added_at > ?3 AND added_at < ?4 AND key > ?1 AND key <= ?2";
pub(super) const CAPTURED_WAITING: &str = "SELECT count(*) FROM samples \
     INDEXED BY samples_captured_waiting \
     WHERE origin = 1 AND labels = '[]' AND key > ?1 AND key <= ?2";

fn write_rows(
    session: &mut Session<'_>,
    sample: &Sample,
    image: Option<(NewImage, bool)>,
    embeddings: &[Halves],
) -> Result<()> {
    let id_hash = sample::id_hash(sample.key.dataset(), &sample.id);
    session
        .connection
        .prepare_cached(
            "INSERT INTO samples (key, id, id_hash, indexed, labels, held_out, weight, source,
             note, taken_at, added_at, pinned, content, bytes, checksum, origin, prediction,
             width, height) VALUES
             (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            sample.key.0,
            sample.id,
            id_hash,
            sample::labels_to_json(&sample.labels),
            sample.split == Split::HeldOut,
            sample.weight,
            sample.source,
            sample.note,
            sample.taken_at.map(|at| at.0),
            sample.added_at.0,
            sample.pinned,
            sample.content.0,
            sample.bytes as i64,
            sample.checksum(),
            sample.origin.to_number(),
            sample.prediction,
            sample.width,
            sample.height,
        ])?;
    for halves in embeddings {
        embedding::put(session, sample.key, halves)?;
    }
    if let Some((image, thumbnail)) = &image {
        let (file, bytes) = image.columns();
        session
            .connection
            .prepare_cached(
                "INSERT INTO images (key, thumbnail, length, sha256, file, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                sample.key.0,
                thumbnail,
                image.length as i64,
                image.digest.0,
                file,
                bytes
            ])?;
    }
    // Nothing can fail from here on, so ledger and file agree with the rows.
    session.ledger().add(sample, id_hash)?;
    if let Some((NewImage { body: Body::File(file), .. }, _)) = image {
        session.effects.staged.push(file);
    }
    Ok(())
}

/// Applies the quota to a sample of `bytes` that is about to come; returns how many were dropped.
fn make_room(session: &mut Session<'_>, dataset: &Dataset, bytes: u64) -> Result<u64> {
    let quota = dataset.settings.quota;
    let refuse = |limit: String| StoreError::QuotaExceeded { dataset: dataset.name.clone(), limit };
    let over = |samples: u64, stored: u64| match quota {
        super::Quota { max_samples: Some(most), .. } if samples + 1 > most => {
            Some(format!("{most} samples"))
        }
        super::Quota { max_bytes: Some(most), .. } if stored.saturating_add(bytes) > most => {
            Some(format!("{most} bytes"))
        }
        super::Quota { .. } => None,
    };
    // What would not fit into an empty dataset must not empty it.
    if let Some(limit) = over(0, 0) {
        return Err(refuse(limit));
    }
    let (samples, stored) = {
        let ledger = session.ledger();
        let state = ledger.dataset(&dataset.name)?;
        (state.samples, state.bytes)
    };
    let Some(limit) = over(samples, stored) else { return Ok(0) };
    if quota.when_full == WhenFull::Refuse {
        return Err(refuse(limit));
    }
    // All are found before the first is dropped, so that a refusal drops none.
    let (mut left, mut left_bytes) = (samples, stored);
    let victims = query::oldest_unpinned(session.connection, dataset.number, |sample| {
        let needed = over(left, left_bytes).is_some();
        left -= u64::from(needed);
        left_bytes = left_bytes.saturating_sub(if needed { sample.bytes } else { 0 });
        needed
    })?;
    if over(left, left_bytes).is_some() {
        return Err(refuse(limit));
    }
    for victim in &victims {
        change::remove(session, victim)?;
    }
    Ok(victims.len() as u64)
}
