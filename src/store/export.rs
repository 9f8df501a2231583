//! Writing a dataset out, as a folder or a tar that any tool can read:
//!
//! ```text
//! samples.jsonl               one sample a line: id, labels, split, file, ...
//! images/<label>/<id>.<type>  a folder per class; `_unlabelled` for samples without label
//! embeddings/<sha256>.npy     float16, one row for each sample that names a row in it
//! ```

#![allow(clippy::disallowed_methods)] // an export is made afresh, there is nothing to tear

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Rows};
use serde_json::json;

use super::error::{Result, StoreError};
use super::image::StoredImage;
use super::key::{DatasetNumber, SampleKey};
use super::ledger::Backbone;
use super::open::Store;
use super::query::{self, Filter};
use super::sample::{Sample, Split};
use crate::base::name::Name;

/// Samples read from the database at once.
const PAGE: usize = 256;

/// Where an export goes.
pub enum ExportTarget<'a> {
    /// A folder that does not exist yet or is empty.
    Folder(PathBuf),
    /// A tar archive.
    Tar(&'a mut dyn Write),
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Lines of `samples.jsonl`.
    pub samples: u64,
    /// Image files.
    pub images: u64,
    /// Rows of all `.npy` files.
    pub embeddings: u64,
}

impl Store {
    /// Writes a dataset out as it is at this moment.
    ///
    /// # Errors
    /// [`StoreError::UnknownDataset`], [`StoreError::Io`] of the target, [`StoreError::Corrupt`].
    pub fn export(&self, dataset: &Name, target: ExportTarget<'_>) -> Result<ExportReport> {
        let number = self.dataset(dataset)?.number;
        let backbones = self.ledger().backbones().to_vec();
        let mut sink = Sink::open(target)?;
        let report = self.read(|connection| {
            let mut report = ExportReport::default();
            let lines =
                self.export_samples(connection, number, &backbones, &mut sink, &mut report)?;
            let length = lines.metadata().map_err(|e| sink.error(e))?.len();
            sink.put("samples.jsonl", length, &mut BufReader::new(lines))?;
            for backbone in &backbones {
                report.embeddings += export_embeddings(connection, number, backbone, &mut sink)?;
            }
            Ok(report)
        })?;
        sink.finish()?;
        Ok(report)
    }

    fn export_samples(
        &self,
        connection: &Connection,
        number: DatasetNumber,
        backbones: &[Backbone],
        sink: &mut Sink<'_>,
        report: &mut ExportReport,
    ) -> Result<fs::File> {
        // A tar needs a file's length before its content, so the lines wait on the disk.
        let mut lines = BufWriter::new(tempfile::tempfile().map_err(|e| sink.error(e))?);
        let mut next_rows = vec![0_u64; backbones.len()];
        let mut after = SampleKey::before(number);
        loop {
            let page = query::list(connection, number, &Filter::default(), after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.key;
            for sample in &page {
                let mut rows = serde_json::Map::new();
                for (backbone, next) in backbones.iter().zip(&mut next_rows) {
                    if has_embedding(connection, sample.key, backbone)? {
                        rows.insert(backbone.digest.to_string(), json!(*next));
                        *next += 1;
                    }
                }
                let file = self.export_image(connection, sample, sink)?;
                report.images += u64::from(file.is_some());
                report.samples += 1;
                let line = describe(sample, file.as_deref(), &rows);
                writeln!(lines, "{line}").map_err(|e| sink.error(e))?;
            }
        }
        let mut lines = lines.into_inner().map_err(|e| sink.error(e.into_error()))?;
        lines.rewind().map_err(|e| sink.error(e))?;
        Ok(lines)
    }

    fn export_image(
        &self,
        connection: &Connection,
        sample: &Sample,
        sink: &mut Sink<'_>,
    ) -> Result<Option<String>> {
        let stored = connection
            .prepare_cached("SELECT length, sha256, file, bytes FROM images WHERE key = ?1")?
            .query_row([sample.key.0], |row| Ok(StoredImage::from_row(row, 0)))
            .optional()?;
        let Some(stored) = stored else { return Ok(None) };
        let bytes = stored?.load(self.folder())?;
        let folder = sample.labels.first().map_or_else(|| "_unlabelled".to_owned(), |l| plain(l));
        // The key keeps ids apart that are cut or look the same after escaping.
        let id: String = plain(&sample.id).chars().take(120).collect();
        let path = format!("images/{folder}/{:08}-{id}.{}", sample.key.sequence(), kind(&bytes));
        sink.put(&path, bytes.len() as u64, &mut bytes.as_slice())?;
        Ok(Some(path))
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
        "width": sample.width,
        "height": sample.height,
        "content": sample.content.to_string(),
        "file": file,
        "embeddings": rows,
    })
}

fn has_embedding(connection: &Connection, key: SampleKey, backbone: &Backbone) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM embeddings WHERE key = ?1)")?
        .query_row([key.embedding(backbone.number)], |row| row.get(0))?)
}

/// Writes one backbone's embeddings in NumPy's format, version 1.0.
fn export_embeddings(
    connection: &Connection,
    number: DatasetNumber,
    backbone: &Backbone,
    sink: &mut Sink<'_>,
) -> Result<u64> {
    let first = SampleKey::before(number).0 + 1 + SampleKey::embedding_offset(backbone.number);
    let last = SampleKey::last(number).embedding(backbone.number);
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM embeddings WHERE key BETWEEN ?1 AND ?2",
        [first, last],
        |row| row.get(0),
    )?;
    let count = count.unsigned_abs();
    if count == 0 {
        return Ok(0);
    }
    let header = npy_header(count, backbone.width);
    let length = header.len() as u64 + count * backbone.width as u64 * 2;
    let mut statement = connection
        .prepare("SELECT halves FROM embeddings WHERE key BETWEEN ?1 AND ?2 ORDER BY key")?;
    let rows = statement.query([first, last])?;
    let path = format!("embeddings/{}.npy", backbone.digest);
    sink.put(&path, length, &mut header.as_slice().chain(BlobReader { rows, rest: Vec::new() }))?;
    Ok(count)
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

/// The blobs of a query, one after the other.
struct BlobReader<'a> {
    rows: Rows<'a>,
    rest: Vec<u8>,
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let Some(row) = self.rows.next().map_err(io::Error::other)? else { return Ok(0) };
            self.rest = row.get(0).map_err(io::Error::other)?;
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

/// Text as one component of a path: what is not plain becomes `%` and its hexadecimal digits.
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
