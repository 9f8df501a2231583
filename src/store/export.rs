//! Writing a dataset out, as a folder or a tar that any tool can read:
//!
//! ```text
//! dataset.json                what is kept, the share held out and the quota
//! samples.jsonl               one sample a line: id, labels, split, file, ...
//! images/<label>/<id>.<type>  a folder per class; `_unlabelled` for samples without label; long
//!                             names are cut
//! embeddings/<sha256>.npy     float16, one row for each sample that names a row in it
//! ```

#![allow(clippy::disallowed_methods)] // an export is made afresh, there is nothing to tear

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::embedding;
use super::error::{Result, StoreError};
use super::image::StoredImage;
use super::key::{DatasetNumber, SampleKey};
use super::ledger::Backbone;
use super::open::Store;
use super::sample::{COLUMNS, Sample, Split, first_eight};
use super::verify::Fault;
use crate::base::digest::Digest;
use crate::base::name::Name;

/// The file of the dataset's settings.
pub(super) const SETTINGS: &str = "dataset.json";
/// Longest text within a path's component, in bytes; file systems take 255, some less.
const MAX_COMPONENT: usize = 120;

/// Where an export goes.
pub enum ExportTarget<'a> {
    /// A folder that does not exist yet or is empty.
    Folder(PathBuf),
    /// A tar archive.
    Tar(&'a mut dyn Write),
}

/// What an export wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Lines of `samples.jsonl`.
    pub samples: u64,
    /// Image files.
    pub images: u64,
    /// Rows of all `.npy` files.
    pub embeddings: u64,
    /// What was left out, because it is not as it was written.
    pub left_out: Vec<Fault>,
}

impl Store {
    /// Writes a dataset out as it is at this moment. What is damaged is left out and told.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`], [`StoreError::Io`] of the target, [`StoreError::Corrupt`] where
    /// the database's structure is damaged.
    pub fn export(&self, dataset: &Name, target: ExportTarget<'_>) -> Result<ExportReport> {
        self.read(|connection| self.export_at(connection, dataset, target))
    }

    /// As [`Store::export`], of the moment that `connection` sees.
    pub(super) fn export_at(
        &self,
        connection: &Connection,
        dataset: &Name,
        target: ExportTarget<'_>,
    ) -> Result<ExportReport> {
        let dataset = self.dataset(dataset)?;
        let backbones = self.ledger().backbones().to_vec();
        let mut sink = Sink::open(target)?;
        let mut report = ExportReport::default();
        let settings = dataset.settings.to_json().to_string();
        sink.put(SETTINGS, settings.len() as u64, &mut settings.as_bytes())?;
        let mut rows: Vec<_> = backbones.iter().map(|&b| EmbeddingRows::of(b)).collect();
        let lines =
            self.export_samples(connection, dataset.number, &mut rows, &mut sink, &mut report)?;
        let length = lines.metadata().map_err(|e| sink.error(e))?.len();
        sink.put("samples.jsonl", length, &mut BufReader::new(lines))?;
        for rows in rows.into_iter().filter(|rows| !rows.keys.is_empty()) {
            report.embeddings += rows.keys.len() as u64;
            rows.export(connection, &mut sink)?;
        }
        sink.finish()?;
        Ok(report)
    }

    fn export_samples(
        &self,
        connection: &Connection,
        number: DatasetNumber,
        embeddings: &mut [EmbeddingRows],
        sink: &mut Sink<'_>,
        report: &mut ExportReport,
    ) -> Result<fs::File> {
        // A tar needs a file's length before its content, so the lines wait on the disk.
        let mut lines = BufWriter::new(tempfile::tempfile().map_err(|e| sink.error(e))?);
        let mut statement = connection.prepare(&format!(
            "SELECT {COLUMNS} FROM samples WHERE key > ?1 AND key <= ?2 ORDER BY key"
        ))?;
        let mut stored =
            statement.query([SampleKey::before(number).0, SampleKey::last(number).0])?;
        while let Some(row) = stored.next()? {
            let sample = match Sample::from_row(row) {
                Ok(sample) => sample,
                Err(error) => {
                    report.leave_out("samples".to_owned(), &error);
                    continue;
                }
            };
            let place = |what| format!("{what} of sample {:?}", sample.id);
            let image = self.load_image(connection, &sample);
            if image.is_err() && !self.has_image(sample.key.0)? {
                continue; // deleted since
            }
            let mut rows = serde_json::Map::new();
            for embedding in &mut *embeddings {
                match embedding.enter(connection, sample.key) {
                    Ok(None) => {}
                    Ok(Some(at)) => {
                        rows.insert(embedding.backbone.digest.to_string(), json!(at));
                    }
                    Err(error) => report.leave_out(place("embedding"), &error),
                }
            }
            let file = match image {
                Ok(None) => None,
                Ok(Some(bytes)) => Some(write_image(&sample, &bytes, sink)?),
                Err(error) => {
                    report.leave_out(place("image"), &error);
                    None
                }
            };
            if file.is_none() && rows.is_empty() {
                continue; // all that it consisted of is damaged and told
            }
            report.images += u64::from(file.is_some());
            report.samples += 1;
            let line = describe(&sample, file.as_deref(), &rows);
            writeln!(lines, "{line}").map_err(|e| sink.error(e))?;
        }
        let mut lines = lines.into_inner().map_err(|e| sink.error(e.into_error()))?;
        lines.rewind().map_err(|e| sink.error(e))?;
        Ok(lines)
    }

    fn load_image(&self, connection: &Connection, sample: &Sample) -> Result<Option<Vec<u8>>> {
        let stored = connection
            .prepare_cached("SELECT length, sha256, file, bytes FROM images WHERE key = ?1")?
            .query_row([sample.key.0], |row| Ok(StoredImage::from_row(row, 0)))
            .optional()?;
        stored.map(|stored| stored?.load(self.folder())).transpose()
    }
}

/// Writes a sample's image and returns its path.
fn write_image(sample: &Sample, mut bytes: &[u8], sink: &mut Sink<'_>) -> Result<String> {
    let folder = sample.labels.first().map_or_else(|| "_unlabelled".to_owned(), |l| plain(l));
    // The key keeps ids apart that are cut or look the same after escaping.
    let id = plain(&sample.id);
    let path = format!("images/{folder}/{:08}-{id}.{}", sample.key.sequence(), kind(bytes));
    sink.put(&path, bytes.len() as u64, &mut bytes)?;
    Ok(path)
}

impl ExportReport {
    fn leave_out(&mut self, place: String, error: &StoreError) {
        self.left_out.push(Fault { place, what: error.to_string() });
    }
}

fn describe(
    sample: &Sample,
    file: Option<&str>,
    rows: &serde_json::Map<String, serde_json::Value>,
) -> serde_json::Value {
    json!({
        "id": sample.id,
        "labels": sample.labels,
        "split": match sample.split { Split::Train => "train", Split::HeldOut => "held_out" },
        "weight": sample.weight,
        "source": sample.source,
        "note": sample.note,
        "taken_at": sample.taken_at.map(|at| at.0),
        "added_at": sample.added_at.0,
        "pinned": sample.pinned,
        "origin": sample.origin.to_text(),
        "prediction": sample.prediction,
        "width": sample.width,
        "height": sample.height,
        "content": sample.content.to_string(),
        "file": file,
        "embeddings": rows,
    })
}

/// The embeddings of one backbone that become the rows of its `.npy` file.
struct EmbeddingRows {
    backbone: Backbone,
    keys: Vec<i64>,
}

impl EmbeddingRows {
    fn of(backbone: Backbone) -> Self {
        Self { backbone, keys: Vec::new() }
    }

    /// The row that the sample's embedding will be, if it has one.
    fn enter(&mut self, connection: &Connection, key: SampleKey) -> Result<Option<usize>> {
        let key = key.embedding(self.backbone.number);
        let mut statement =
            connection.prepare_cached("SELECT checksum, halves FROM embeddings WHERE key = ?1")?;
        let mut rows = statement.query([key])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let halves = row.get_ref(1)?.as_blob().unwrap_or_default();
        if !embedding::is_sound(halves, self.backbone.width, row.get(0)?) {
            return Err(StoreError::Corrupt("its checksum".to_owned()));
        }
        self.keys.push(key);
        Ok(Some(self.keys.len() - 1))
    }

    /// Writes NumPy's format, version 1.0.
    fn export(self, connection: &Connection, sink: &mut Sink<'_>) -> Result<()> {
        let count = self.keys.len() as u64;
        let header = npy_header(count, self.backbone.width);
        let length = header.len() as u64 + count * self.backbone.width as u64 * 2;
        let path = format!("embeddings/{}.npy", self.backbone.digest);
        let blobs = BlobReader { connection, keys: self.keys.into_iter(), rest: Vec::new() };
        sink.put(&path, length, &mut header.as_slice().chain(blobs))
    }
}

pub(super) fn npy_header(rows: u64, width: usize) -> Vec<u8> {
    let mut text =
        format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic, version and length are ten bytes; the whole is a multiple of 64 and ends in a newline.
    let padding = 64 - (10 + text.len() + 1) % 64;
    text.extend(std::iter::repeat_n(' ', padding % 64));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.bytes());
    header
}

/// The embeddings with these keys, one after the other.
struct BlobReader<'a> {
    connection: &'a Connection,
    keys: std::vec::IntoIter<i64>,
    rest: Vec<u8>,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let Some(key) = self.keys.next() else { return Ok(0) };
            let halves = self
                .connection
                .prepare_cached("SELECT halves FROM embeddings WHERE key = ?1")
                .and_then(|mut statement| statement.query_row([key], |row| row.get(0)));
            self.rest = halves.map_err(io::Error::other)?;
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

/// Text as one component of a path: what is not plain becomes `%` and its hexadecimal digits. What is
/// then longer than file systems take is cut, and `~` with a digest of the whole keeps it apart from
/// all others; `samples.jsonl` has the text itself.
fn plain(text: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for (at, byte) in text.bytes().enumerate() {
        let hidden = at == 0 && byte == b'.';
        if !hidden && (byte.is_ascii_alphanumeric() || b"._- ".contains(&byte)) {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    if name.len() > MAX_COMPONENT {
        name.truncate(MAX_COMPONENT - 17);
        let _ = write!(name, "~{:016x}", first_eight(Digest::of(text.as_bytes())));
    }
    name
}

/// The usual ending of the file, told from its first bytes.
fn kind(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "jpg",
        [0x89, b'P', b'N', b'G', ..] => "png",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "webp",
        [b'B', b'M', ..] => "bmp",
        [b'G', b'I', b'F', ..] => "gif",
        _ => "bin",
    }
}

/// A folder or a tar, seen as a place to put files.
enum Sink<'a> {
    Folder(PathBuf),
    Tar(tar::Builder<&'a mut dyn Write>),
}

impl<'a> Sink<'a> {
    fn open(target: ExportTarget<'a>) -> Result<Self> {
        match target {
            ExportTarget::Tar(writer) => Ok(Self::Tar(tar::Builder::new(writer))),
            ExportTarget::Folder(path) => {
                fs::create_dir_all(&path).map_err(|error| StoreError::io(&path, error))?;
                let mut entries =
                    fs::read_dir(&path).map_err(|error| StoreError::io(&path, error))?;
                if entries.next().is_some() {
                    let error = io::Error::new(io::ErrorKind::AlreadyExists, "is not empty");
                    return Err(StoreError::io(&path, error));
                }
                Ok(Self::Folder(path))
            }
        }
    }

    fn put(&mut self, name: &str, length: u64, content: &mut dyn Read) -> Result<()> {
        match self {
            Self::Folder(root) => {
                let path = root.join(name);
                let mut write = || -> io::Result<()> {
                    if let Some(parent) = path.parent() {
                        fs::create_dir_all(parent)?;
                    }
                    io::copy(content, &mut fs::File::create(&path)?)?;
                    Ok(())
                };
                write().map_err(|error| StoreError::io(&path, error))
            }
            Self::Tar(builder) => {
                let mut header = tar::Header::new_gnu();
                header.set_size(length);
                header.set_mode(0o644);
                let written = builder.append_data(&mut header, name, content);
                written.map_err(|error| self.error(error))
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Tar(mut builder) => {
                builder.finish().map_err(|error| Self::Folder("the archive".into()).error(error))
            }
        }
    }

    fn error(&self, error: io::Error) -> StoreError {
        match self {
            Self::Folder(root) => StoreError::io(root, error),
            Self::Tar(_) => StoreError::io("the archive".as_ref(), error),
        }
    }
}
