//! The store's behaviour, seen through its public face.

mod deletion;
mod exchange;
mod faults;
mod heads;
mod intake;
mod records;
mod training;

use std::path::Path;

use super::{NewEmbedding, NewSample, Store};
use crate::base::digest::Digest;
use crate::base::name::Name;

const WIDTH: usize = 16;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn backbone() -> Digest {
    Digest::of(b"a backbone")
}

/// A store in a fresh folder with the dataset `parts`.
fn fresh() -> (tempfile::TempDir, Store, Name) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let parts = name("parts");
    store.create_dataset(&parts, super::DatasetSettings::default()).unwrap();
    (folder, store, parts)
}

/// A sample whose bytes follow from its number.
fn sample(number: u32) -> NewSample {
    NewSample {
        id: format!("camera-1/{number:06}.jpg"),
        labels: vec![if number.is_multiple_of(2) { "nut" } else { "bolt" }.to_owned()],
        image: Some(format!("image {number}").into_bytes()),
        embeddings: vec![NewEmbedding {
            backbone: backbone(),
            values: (0..WIDTH).map(|i| number as f32 + i as f32 / 16.0).collect(),
        }],
        ..NewSample::default()
    }
}

/// Sends all and waits until all are durable; they share COMMITs.
fn add_all(store: &Store, parts: &Name, samples: impl IntoIterator<Item = NewSample>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    for sample in samples {
        let sender = sender.clone();
        store.add_sample(parts, sample, move |result| sender.send(result).unwrap());
    }
    drop(sender);
    for result in receiver {
        assert!(result.is_ok(), "{result:?}");
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

fn any_file_contains(folder: &Path, needle: &[u8]) -> bool {
    files(folder).iter().any(|path| {
        std::fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle)
    })
}

/// Makes all samples look as if they had come in the year 2100, by a clock that has jumped back since.
fn dated_in_2100(store: &Store) {
    let date = |session: &mut super::writer::Session<'_>| {
        for dataset in super::dataset::load(session.connection)? {
            let number = dataset?.number;
            let after = super::SampleKey::before(number);
            let all = super::Filter::default();
            for mut sample in super::query::list(session.connection, number, &all, after, 1_000)? {
                sample.added_at = crate::base::clock::Timestamp(4_102_444_800_000_000);
                session.connection.execute(
                    "UPDATE samples SET added_at = ?2, checksum = ?3 WHERE key = ?1",
                    [sample.key.0, sample.added_at.0, sample.checksum()],
                )?;
            }
        }
        Ok(())
    };
    store.write(super::writer::Urgency::Now, date).unwrap();
}
