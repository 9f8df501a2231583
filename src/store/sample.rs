//! Samples: what a client sends, what is stored, and the limits of both.

use rusqlite::Row;

use super::embedding::NewEmbedding;
use super::error::{Result, StoreError};
use super::key::SampleKey;
use crate::base::clock::Timestamp;
use crate::base::digest::{Digest, Hasher};
use crate::base::label::check_label;

/// Longest id and source, in bytes.
const MAX_ID_BYTES: usize = 200;
/// Most labels of one sample.
const MAX_LABELS: usize = 64;
/// Longest note, in bytes.
const MAX_NOTE_BYTES: usize = 2000;
/// Largest weight.
const MAX_WEIGHT: f32 = 1000.0;

/// Which side of the fence a sample stands on. Chosen once from its content, so that the same image
/// stands on the same side whatever its id, unless a client says another or the share is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training may learn from it.
    Train,
    /// Training never sees it: versions of a head are compared on it.
    HeldOut,
}

/// How a sample came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client sent it.
    #[default]
    Client,
    /// The daemon kept it from a prediction that was not sure.
    Capture,
    /// It was imported from a folder or an archive.
    Import,
}

impl Origin {
    pub(super) fn to_number(self) -> i64 {
        match self {
            Self::Client => 0,
            Self::Capture => 1,
            Self::Import => 2,
        }
    }

    pub(super) fn to_text(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Capture => "capture",
            Self::Import => "import",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        [Self::Client, Self::Capture, Self::Import].into_iter().find(|o| o.to_text() == text)
    }

    fn from_number(number: i64) -> Option<Self> {
        [Self::Client, Self::Capture, Self::Import].into_iter().find(|o| o.to_number() == number)
    }
}

/// A sample as it arrives.
#[derive(Clone, Debug, Default)]
pub struct NewSample {
    /// The client's id, unique within the dataset; 1 to 200 bytes without control characters.
    pub id: String,
    /// Up to 64 labels of 1 to 200 bytes; none for a sample that waits to be labelled.
    pub labels: Vec<String>,
    /// The side it stands on; `None` lets its content decide.
    pub split: Option<Split>,
    /// How much it counts in training, above 0 up to 1000. 0 here means the default, 1.
    pub weight: f32,
    /// Where it comes from, for people; up to 200 bytes.
    pub source: String,
    /// A remark, for people; up to 2,000 bytes.
    pub note: String,
    /// When the picture was taken, if the client knows.
    pub taken_at: Option<Timestamp>,
    /// When it first arrived on a device; `None` for now. Only an import knows better.
    pub added_at: Option<Timestamp>,
    /// A pinned sample is never dropped to make room.
    pub pinned: bool,
    /// How it comes in.
    pub origin: Origin,
    /// What was thought of it when it was captured, as JSON that the store does not look into.
    pub prediction: Option<String>,
    /// Columns of the upright photograph, in pixels; 0 where it came as an embedding.
    pub width: u32,
    /// Rows of the upright photograph, in pixels; 0 where it came as an embedding.
    pub height: u32,
    /// The encoded image.
    pub image: Option<Vec<u8>>,
    /// A small picture, encoded, for datasets that keep thumbnails only.
    pub thumbnail: Option<Vec<u8>>,
    /// SHA-256 of the image as it was once sent, where the image itself was not kept. Only an import
    /// knows it; the digest of an image that comes along is computed.
    pub content: Option<Digest>,
    /// What backbones made of the image.
    pub embeddings: Vec<NewEmbedding>,
}

/// A sample as stored, without image and embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The client's id.
    pub id: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// The side it stands on.
    pub split: Split,
    /// How much it counts in training.
    pub weight: f32,
    /// Where it comes from.
    pub source: String,
    /// A remark.
    pub note: String,
    /// When the picture was taken.
    pub taken_at: Option<Timestamp>,
    /// When it arrived here.
    pub added_at: Timestamp,
    /// Whether it is safe from the quota.
    pub pinned: bool,
    /// How it came in.
    pub origin: Origin,
    /// What was thought of it when it was captured, as JSON.
    pub prediction: Option<String>,
    /// Columns of the upright photograph, in pixels; 0 where it came as an embedding.
    pub width: u32,
    /// Rows of the upright photograph, in pixels; 0 where it came as an embedding.
    pub height: u32,
    /// SHA-256 of the image as sent, or of the embedding where no image was.
    pub content: Digest,
    /// Bytes that count against the quota.
    pub bytes: u64,
    pub(super) key: SampleKey,
}

/// The columns of [`Sample::from_row`], in its order.
pub(super) const COLUMNS: &str = "samples.key, samples.id, samples.labels, samples.held_out, \
     samples.weight, samples.source, samples.note, samples.taken_at, samples.added_at, \
     samples.pinned, samples.content, samples.bytes, samples.checksum, samples.origin, \
     samples.prediction, samples.width, samples.height";

/// How many [`COLUMNS`] are.
pub(super) const COLUMN_COUNT: usize = 17;

impl Sample {
    /// Its place in the order of arrival, which pages of a listing continue after.
    pub fn key(&self) -> SampleKey {
        self.key
    }

    /// Reads a row of [`COLUMNS`] and compares it with its checksum.
    pub(super) fn from_row(row: &Row<'_>) -> Result<Self> {
        let key = SampleKey(row.get(0)?);
        let damaged = || StoreError::Corrupt(format!("sample row {}", key.0));
        let sample = Self {
            key,
            id: row.get(1)?,
            labels: labels_from_json(row.get_ref(2)?.as_str().map_err(|_| damaged())?)
                .ok_or_else(damaged)?,
            split: if row.get(3)? { Split::HeldOut } else { Split::Train },
            weight: row.get(4)?,
            source: row.get(5)?,
            note: row.get(6)?,
            taken_at: row.get::<_, Option<i64>>(7)?.map(Timestamp),
            added_at: Timestamp(row.get(8)?),
            pinned: row.get(9)?,
            origin: Origin::from_number(row.get(13)?).ok_or_else(damaged)?,
            prediction: row.get(14)?,
            width: row.get(15)?,
            height: row.get(16)?,
            content: Digest(row.get(10)?),
            bytes: row.get::<_, i64>(11)?.unsigned_abs(),
        };
        if row.get::<_, i64>(12)? == sample.checksum() { Ok(sample) } else { Err(damaged()) }
    }

    /// The first eight bytes of SHA-256 over everything that the row says.
    pub(super) fn checksum(&self) -> i64 {
        let mut hasher = Hasher::default();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(&self.id);
        text(&self.source);
        text(&self.note);
        text(self.prediction.as_deref().unwrap_or_default());
        self.labels.iter().for_each(|label| text(label));
        let flags = u8::from(self.split == Split::HeldOut)
            | u8::from(self.pinned) << 1
            | u8::from(self.taken_at.is_some()) << 2;
        hasher.update(&[flags, self.origin.to_number() as u8]);
        hasher.update(&self.width.to_le_bytes());
        hasher.update(&self.height.to_le_bytes());
        hasher.update(&self.weight.to_le_bytes());
        hasher.update(&self.taken_at.unwrap_or_default().0.to_le_bytes());
        hasher.update(&self.added_at.0.to_le_bytes());
        hasher.update(&self.content.0);
        hasher.update(&self.bytes.to_le_bytes());
        first_eight(hasher.finish())
    }
}

/// The first eight bytes of a digest as SQLite's integer.
pub(super) fn first_eight(digest: Digest) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The hash under which an id is found. The same id in two datasets has two hashes.
pub(super) fn id_hash(dataset: super::key::DatasetNumber, id: &str) -> i64 {
    let mut hasher = Hasher::default();
    hasher.update(&dataset.to_le_bytes());
    hasher.update(id.as_bytes());
    first_eight(hasher.finish())
}

/// The side that content with this digest stands on.
pub(super) fn split_of(content: Digest, held_out_share: f64) -> Split {
    // 53 bits, so that the division is exact and a share of 1 takes everything.
    let uniform = (first_eight(content) as u64 >> 11) as f64 / (1_u64 << 53) as f64;
    if uniform < held_out_share { Split::HeldOut } else { Split::Train }
}

/// Refuses an id that is empty, too long or unprintable.
pub(super) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(StoreError::invalid("id", "must not be empty"));
    }
    check_text("id", id, MAX_ID_BYTES)
}

/// Refuses labels that cannot name a class, are repeated or too many.
pub(super) fn check_labels(labels: &[String]) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(StoreError::invalid("labels", format!("at most {MAX_LABELS} are allowed")));
    }
    for (index, label) in labels.iter().enumerate() {
        let field = format!("labels[{index}]");
        if let Err(reason) = check_label(label) {
            return Err(StoreError::invalid(field, reason));
        }
        if labels.iter().take(index).any(|other| other == label) {
            return Err(StoreError::invalid(field, "occurs twice"));
        }
    }
    Ok(())
}

/// Refuses a note that is too long.
pub(super) fn check_note(note: &str) -> Result<()> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(StoreError::invalid("note", format!("at most {MAX_NOTE_BYTES} bytes")));
    }
    Ok(())
}

/// Refuses a source that is too long or unprintable.
pub(super) fn check_source(source: &str) -> Result<()> {
    check_text("source", source, MAX_ID_BYTES)
}

/// The weight to store: 0 stands for the default.
pub(super) fn check_weight(weight: f32) -> Result<f32> {
    if weight == 0.0 {
        Ok(1.0)
    } else if weight > 0.0 && weight <= MAX_WEIGHT {
        Ok(weight)
    } else {
        Err(StoreError::invalid("weight", "must be above 0 and at most 1000"))
    }
}

fn check_text(field: &str, text: &str, max_bytes: usize) -> Result<()> {
    if text.len() > max_bytes {
        return Err(StoreError::invalid(
            field,
            format!("has {} bytes, at most {max_bytes} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(StoreError::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

pub(super) fn labels_to_json(labels: &[String]) -> String {
    serde_json::Value::from(labels).to_string()
}

pub(super) fn labels_from_json(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_depends_on_the_content_alone_and_takes_the_asked_share() {
        let held_out = (0..10_000_u32)
            .filter(|n| split_of(Digest::of(&n.to_le_bytes()), 0.2) == Split::HeldOut)
            .count();
        assert!((1_900..2_100).contains(&held_out), "{held_out}");
        let content = Digest::of(b"one image");
        assert_eq!(split_of(content, 0.0), Split::Train);
        assert_eq!(split_of(content, 1.0), Split::HeldOut);
        assert_eq!(split_of(content, 0.5), split_of(content, 0.5));
    }

    #[test]
    fn texts_beyond_their_limits_are_refused_by_field() {
        let long = "x".repeat(10_000);
        for labels in [
            vec![String::new()],
            vec!["a".into(), "a".into()],
            vec![long.clone()],
            vec!["paper ".into()],
        ] {
            let refused = check_labels(&labels).unwrap_err().to_string();
            assert!(refused.starts_with("labels["), "{refused}");
        }
        assert!(check_labels(&(0..65).map(|n| n.to_string()).collect::<Vec<_>>()).is_err());
        assert!(check_id("").is_err() && check_id(&long).is_err() && check_id("a\nb").is_err());
        assert!(check_id("camera 3/Straße/0001.jpg").is_ok());
        for weight in [f32::NAN, f32::INFINITY, -1.0] {
            assert!(check_weight(weight).is_err());
        }
    }
}
