//! Reading samples from a folder per class, from an export, or from a tar of either.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::Value;
use walkdir::WalkDir;

use super::dataset::{self, DatasetSettings};
use super::embedding::NewEmbedding;
use super::error::{Result, StoreError};
use super::export::SETTINGS;
use super::sample::{NewSample, Origin, Split};
use crate::base::clock::Timestamp;
use crate::base::digest::Digest;

/// Largest image that is read, in bytes.
const MAX_IMAGE_BYTES: u64 = 32 << 20;
/// Longest line of `samples.jsonl`, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Folders that may lie around what is to be imported.
const MAX_LEADING: usize = 3;
/// Endings that make a file of a class folder an image.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];

/// The samples of a folder or archive, one after the other. The image is read when its turn comes;
/// one that cannot be read is an error of its own and the next follows.
pub struct Import {
    root: PathBuf,
    items: Items,
    settings: DatasetSettings,
    // Holds what a tar was unpacked into until the import is done.
    _unpacked: Option<tempfile::TempDir>,
}

enum Items {
    /// Pictures in the order of their paths.
    Classes(std::vec::IntoIter<Picture>),
    Lines(BufReader<fs::File>),
}

/// A picture of a class folder.
struct Picture {
    class: String,
    /// Below the folder, with `/` between its parts.
    relative: String,
    path: PathBuf,
}

impl Import {
    /// Opens a folder with a folder per class in it (pictures may lie deeper; the first folder is the
    /// class), a folder that [`super::Store::export`] wrote, or a tar of either.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::Invalid`] where there is nothing to import.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path, None);
        }
        let io = |error| StoreError::io(path, error);
        let archive = fs::File::open(path).map_err(io)?;
        let unpacked = tempfile::tempdir().map_err(io)?;
        let mut archive = tar::Archive::new(BufReader::new(archive));
        archive.set_preserve_permissions(false);
        // Paths that would leave the folder are skipped by the tar crate.
        archive.unpack(unpacked.path()).map_err(io)?;
        let root = unpacked.path().to_owned();
        Self::open_folder(&root, Some(unpacked))
    }

    fn open_folder(root: &Path, unpacked: Option<tempfile::TempDir>) -> Result<Self> {
        let root = &descend(root)?;
        let lines = root.join("samples.jsonl");
        let mut settings = DatasetSettings::default();
        let items = if lines.is_file() {
            let file = fs::File::open(&lines).map_err(|error| StoreError::io(&lines, error))?;
            settings = read_settings(&root.join(SETTINGS))?.unwrap_or(settings);
            Items::Lines(BufReader::new(file))
        } else {
            Items::Classes(classes(root)?.into_iter())
        };
        Ok(Self { root: root.to_owned(), items, settings, _unpacked: unpacked })
    }

    /// The settings of the dataset that was exported, for one that is made for it; the default where
    /// it is none or an older export.
    pub fn settings(&self) -> &DatasetSettings {
        &self.settings
    }

    fn read_line(&self, line: &str) -> Result<NewSample> {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| StoreError::invalid("samples.jsonl", error.to_string()))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let number =
            |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let labels = value["labels"].as_array().into_iter().flatten();
        let mut sample = NewSample {
            id: text("id"),
            labels: labels.filter_map(|label| label.as_str().map(str::to_owned)).collect(),
            split: match value["split"].as_str() {
                Some("train") => Some(Split::Train),
                Some("held_out") => Some(Split::HeldOut),
                _ => None,
            },
            weight: value["weight"].as_f64().unwrap_or_default() as f32,
            source: text("source"),
            note: text("note"),
            taken_at: value["taken_at"].as_i64().map(Timestamp),
            pinned: value["pinned"].as_bool().unwrap_or_default(),
            added_at: value["added_at"].as_i64().map(Timestamp),
            // Lines of older exports do not say it.
            origin: value["origin"].as_str().and_then(Origin::from_text).unwrap_or(Origin::Import),
            prediction: value["prediction"].as_str().map(str::to_owned),
            width: number("width"),
            height: number("height"),
            content: value["content"].as_str().and_then(|digest| digest.parse().ok()),
            ..NewSample::default()
        };
        if let Some(file) = value["file"].as_str() {
            let bytes = read_image(&inside(&self.root, file)?)?;
            // A thumbnail is no image: its digest is not the one of what was sent.
            if sample.content.is_none_or(|content| content == Digest::of(&bytes)) {
                sample.image = Some(bytes);
            } else {
                sample.thumbnail = Some(bytes);
            }
        }
        for (digest, row) in value["embeddings"].as_object().into_iter().flatten() {
            let backbone =
                digest.parse().map_err(|error: crate::base::digest::ParseDigestError| {
                    StoreError::invalid("samples.jsonl", error.to_string())
                })?;
            let path = self.root.join("embeddings").join(format!("{backbone}.npy"));
            let values = read_npy_row(&path, row.as_u64().unwrap_or(u64::MAX))?;
            sample.embeddings.push(NewEmbedding { backbone, values });
        }
        Ok(sample)
    }
}

impl Iterator for Import {
    type Item = Result<NewSample>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.items {
            Items::Classes(files) => {
                let Picture { class, relative, path } = files.next()?;
                Some(read_image(&path).map(|image| NewSample {
                    id: relative,
                    labels: vec![class],
                    image: Some(image),
                    origin: Origin::Import,
                    ..NewSample::default()
                }))
            }
            Items::Lines(lines) => {
                let mut line = String::new();
                match lines.take(MAX_LINE_BYTES).read_line(&mut line) {
                    Ok(0) => None,
                    Ok(_) => Some(self.read_line(&line)),
                    Err(error) => Some(Err(StoreError::io(&self.root, error))),
                }
            }
        }
    }
}

/// The folder that holds what is to be imported: `root`, or what lies in it as its only folder, as
/// after `tar cf trash.tar trash`. A folder with pictures right in it is a class.
fn descend(root: &Path) -> Result<PathBuf> {
    let mut root = root.to_owned();
    for _ in 0..MAX_LEADING {
        if root.join("samples.jsonl").is_file() || find_classes(&root, 2).next().is_some() {
            break;
        }
        let io = |error| StoreError::io(&root, error);
        let entries =
            fs::read_dir(&root).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
        let mut folders = entries
            .iter()
            .filter(|entry| entry.path().is_dir() && !is_hidden(&entry.file_name()))
            .map(fs::DirEntry::path);
        match (folders.next(), folders.next()) {
            (Some(only), None) => root = only,
            _ => break,
        }
    }
    Ok(root)
}

fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// The images of a folder per class, in the order of their paths.
fn classes(root: &Path) -> Result<Vec<Picture>> {
    let files = find_classes(root, usize::MAX).collect::<Result<Vec<_>>>()?;
    if files.is_empty() {
        return Err(StoreError::invalid(
            root.display().to_string(),
            "has no images in folders named after their class (FOLDER/CLASS/IMAGE.jpg)",
        ));
    }
    Ok(files)
}

fn find_classes(root: &Path, max_depth: usize) -> impl Iterator<Item = Result<Picture>> {
    let entries =
        WalkDir::new(root).min_depth(1).max_depth(max_depth).sort_by_file_name().into_iter();
    let entries = entries.filter_entry(|entry| !is_hidden(entry.file_name()));
    let failed = root.to_owned();
    entries.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(StoreError::io(&failed, error.into()))),
        };
        let ending = entry.path().extension().and_then(|e| e.to_str()).unwrap_or_default();
        let is_image = entry.depth() >= 2
            && entry.file_type().is_file()
            && ENDINGS.contains(&ending.to_ascii_lowercase().as_str());
        is_image.then(|| {
            let below = entry.path().strip_prefix(&failed).unwrap_or(entry.path());
            let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            let class = parts.first().map(|part| part.clone().into_owned()).unwrap_or_default();
            Ok(Picture { class, relative: parts.join("/"), path: entry.path().to_owned() })
        })
    })
}

/// The settings that an export wrote; `None` where there are none.
fn read_settings(path: &Path) -> Result<Option<DatasetSettings>> {
    let io = |error| StoreError::io(path, error);
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    fs::File::open(path).map_err(io)?.take(MAX_LINE_BYTES).read_to_string(&mut text).map_err(io)?;
    let settings = serde_json::from_str(&text).ok().as_ref().and_then(DatasetSettings::from_json);
    match settings {
        Some(settings) => dataset::check(&settings).map(|()| Some(settings)),
        None => Err(StoreError::invalid(SETTINGS, "is not what an export writes")),
    }
}

fn read_image(path: &Path) -> Result<Vec<u8>> {
    let io = |error| StoreError::io(path, error);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        return Err(StoreError::invalid(path.display().to_string(), "is larger than 32 MiB"));
    }
    Ok(bytes)
}

/// The path of a file that a line names; it may not lead out of the folder.
fn inside(root: &Path, file: &str) -> Result<PathBuf> {
    let path = Path::new(file);
    if path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        Ok(root.join(path))
    } else {
        Err(StoreError::invalid("samples.jsonl", format!("{file:?} leads out of the folder")))
    }
}

/// One row of a file that [`super::export`] wrote.
fn read_npy_row(path: &Path, row: u64) -> Result<Vec<f32>> {
    let io = |error| StoreError::io(path, error);
    let damaged = || StoreError::invalid(path.display().to_string(), "is not an export's .npy");
    let mut file = fs::File::open(path).map_err(io)?;
    let mut start = [0; 10];
    file.read_exact(&mut start).map_err(io)?;
    let header_length = u16::from_le_bytes([start[8], start[9]]);
    let mut header = vec![0; usize::from(header_length)];
    file.read_exact(&mut header).map_err(io)?;
    let header = String::from_utf8(header).map_err(|_| damaged())?;
    let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let (rows, width) = shape
        .and_then(|(shape, _)| shape.split_once(','))
        .and_then(|(rows, width)| {
            Some((rows.trim().parse::<u64>().ok()?, width.trim().parse::<usize>().ok()?))
        })
        .ok_or_else(damaged)?;
    if !start.starts_with(b"\x93NUMPY\x01\x00")
        || !header.contains("'<f2'")
        || row >= rows
        || width > 65_536
    {
        return Err(damaged());
    }
    let offset = row.checked_mul(width as u64 * 2).ok_or_else(damaged)?;
    file.seek(SeekFrom::Start(10 + u64::from(header_length) + offset)).map_err(io)?;
    let mut bytes = vec![0; width * 2];
    file.read_exact(&mut bytes).map_err(io)?;
    Ok(bytes.as_chunks().0.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect())
}
