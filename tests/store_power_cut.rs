//! Power cuts. SQLite runs on a file system that writes down every write, flush and truncation. Then
//! the power is cut at a random moment: what was flushed is there; of what was not, each write is
//! kept, dropped or torn, in any order. What was acknowledged before the cut must be there.
//!
//! Images above 100 KB are files of their own: written, flushed, renamed, and the folder flushed. A name
//! that was not flushed with its folder is there or not, and a file that was not flushed itself is there
//! in part.
//!
//! The same with `synchronous = NORMAL`, and on a medium that flushes no image or no folder, must lose
//! something, or this test could not fail.

#![cfg(feature = "daemon")]
#![allow(unsafe_code, reason = "a virtual file system of SQLite is a table of C functions")]

mod medium;
#[path = "medium/images.rs"]
mod medium_images;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use graftd::base::digest::Digest;
use graftd::base::name::Name;
use graftd::store::{
    DatasetSettings, Filter, INLINE_LIMIT, NewEmbedding, NewSample, Options, Store, Synchronous,
};
use medium::{Change, Event};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Samples that are sent before the cuts.
const SAMPLES: u64 = 240;
/// Cuts that are tried.
const CUTS: u64 = 150;
/// What a disk writes at once: a write is torn between two of these.
const SECTOR: usize = 512;

fn dataset() -> Name {
    "parts".parse().unwrap()
}

/// One in eight is a file of its own.
fn image(number: u64) -> Vec<u8> {
    let length = if number % 8 == 5 { INLINE_LIMIT + 1 } else { 700 };
    let mut image = vec![number as u8; length];
    image[..8].copy_from_slice(&number.to_le_bytes());
    image
}

fn sample(number: u64) -> NewSample {
    NewSample {
        id: format!("sample-{number}"),
        labels: vec![format!("class-{}", number % 3)],
        image: Some(image(number)),
        embeddings: vec![NewEmbedding {
            backbone: Digest::of(b"backbone"),
            values: (0..320_u64).map(|i| ((i + number) % 13) as f32).collect(),
        }],
        ..NewSample::default()
    }
}

/// Stores and deletes on the recording file system; returns what happened, in order.
fn record(synchronous: Synchronous) -> Vec<Event> {
    let folder = tempfile::tempdir().unwrap();
    medium::begin(folder.path());
    let vfs = Some(medium::NAME.to_owned());
    let options = Options { synchronous, vfs, ..Options::default() };
    let store = Store::open_with(folder.path(), options).unwrap();
    store.create_dataset(&dataset(), DatasetSettings::default()).unwrap();
    let (sender, receipts) = mpsc::channel();
    let mut waiting = 0;
    for number in 0..SAMPLES {
        let sender = sender.clone();
        store.add_sample(&dataset(), sample(number), move |receipt| {
            receipt.unwrap();
            medium::note(Event::Stored(number));
            sender.send(()).unwrap();
        });
        waiting += 1;
        // Groups of many sizes, and now and then a deletion with its truncating checkpoint.
        if number % 7 == 0 || number % 60 == 59 {
            (0..std::mem::take(&mut waiting)).for_each(|_| receipts.recv().unwrap());
        }
        if number % 60 == 59 {
            let gone = number - 30;
            medium::note(Event::Deleting(gone));
            let filter = Filter { ids: vec![sample(gone).id], ..Filter::default() };
            store.delete_samples(&dataset(), &filter).unwrap();
            medium::note(Event::Deleted(gone));
        }
    }
    (0..waiting).for_each(|_| receipts.recv().unwrap());
    let events = medium::end();
    drop(store);
    events
}

/// Which flush of the images' files a broken medium forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgets {
    Nothing,
    Files,
    Folder,
}

/// The images folder as the medium holds it.
#[derive(Default)]
struct Images {
    /// What the names that are durable stand for.
    durable: BTreeMap<String, Vec<u8>>,
    /// Files whose content is durable, by their name then.
    flushed: BTreeSet<String>,
    /// Names that were given, with a content and whether that is durable, or taken away.
    pending: Vec<(String, Option<(Vec<u8>, bool)>)>,
}

impl Images {
    fn happened(&mut self, event: &Event, forgets: Forgets, random: &mut StdRng) {
        match event {
            Event::ImageFlushed { file } => {
                if forgets != Forgets::Files {
                    self.flushed.insert(file.clone());
                }
            }
            Event::ImageRenamed { from, to, content } => {
                let whole = self.flushed.remove(from);
                self.pending.push((to.clone(), Some((content.clone(), whole))));
            }
            Event::ImageRemoved { file } => self.pending.push((file.clone(), None)),
            Event::FolderFlushed => {
                if forgets != Forgets::Folder {
                    for (name, content) in std::mem::take(&mut self.pending) {
                        self.keep(name, content, random);
                    }
                }
            }
            Event::Changed { .. }
            | Event::Flushed { .. }
            | Event::Removed { .. }
            | Event::Stored(_)
            | Event::Deleting(_)
            | Event::Deleted(_) => {}
        }
    }

    fn keep(&mut self, name: String, content: Option<(Vec<u8>, bool)>, random: &mut StdRng) {
        match content {
            None => {
                self.durable.remove(&name);
            }
            Some((mut content, whole)) => {
                if !whole {
                    content.truncate(random.random_range(0..content.len()));
                }
                self.durable.insert(name, content);
            }
        }
    }

    /// What is there after the cut: of what was not flushed anything.
    fn left(mut self, random: &mut StdRng) -> BTreeMap<String, Vec<u8>> {
        for (name, content) in std::mem::take(&mut self.pending) {
            if random.random() {
                self.keep(name, content, random);
            }
        }
        self.durable
    }
}

/// A file as the medium holds it, with what it has not been told to keep yet.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
    exists: bool,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, data } => {
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[*offset..offset + data.len()].copy_from_slice(data);
        }
        Change::Truncate(length) => bytes.resize(*length, 0),
    }
}

/// What is on the medium when the power is cut after `cut` events.
fn left(
    events: &[Event],
    cut: usize,
    forgets: Forgets,
    random: &mut StdRng,
) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    let mut images = Images::default();
    for event in &events[..cut] {
        images.happened(event, forgets, random);
        match event {
            Event::Changed { file, change } => {
                files.entry(file.clone()).or_default().pending.push(change.clone());
            }
            Event::Flushed { file } => {
                let file = files.entry(file.clone()).or_default();
                for change in file.pending.drain(..) {
                    apply(&mut file.durable, &change);
                }
                file.exists = true;
            }
            Event::Removed { file } => {
                files.remove(file);
            }
            Event::Stored(_)
            | Event::Deleting(_)
            | Event::Deleted(_)
            | Event::ImageFlushed { .. }
            | Event::ImageRenamed { .. }
            | Event::ImageRemoved { .. }
            | Event::FolderFlushed => {}
        }
    }
    for file in files.values_mut() {
        let mut unflushed = std::mem::take(&mut file.pending);
        while !unflushed.is_empty() {
            // Any order, and any fate.
            let change = unflushed.swap_remove(random.random_range(0..unflushed.len()));
            match (random.random_range(0..3_u8), &change) {
                (0, _) => {}
                (1, Change::Write { offset, data }) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if random.random() {
                            let offset = offset + index * SECTOR;
                            apply(
                                &mut file.durable,
                                &Change::Write { offset, data: sector.to_vec() },
                            );
                        }
                    }
                    file.exists = true;
                }
                _ => {
                    apply(&mut file.durable, &change);
                    file.exists = true;
                }
            }
        }
    }
    let files = files.into_iter().filter(|(_, f)| f.exists).map(|(name, f)| (name, f.durable));
    files.chain(images.left(random)).collect()
}

/// What a client was told before the cut.
fn promised(events: &[Event]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut stored, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        match event {
            Event::Stored(number) => {
                stored.insert(*number);
            }
            // From here on it may be there or not.
            Event::Deleting(number) => {
                stored.remove(number);
            }
            Event::Deleted(number) => {
                deleted.insert(*number);
            }
            Event::Changed { .. }
            | Event::Flushed { .. }
            | Event::Removed { .. }
            | Event::ImageFlushed { .. }
            | Event::ImageRenamed { .. }
            | Event::ImageRemoved { .. }
            | Event::FolderFlushed => {}
        }
    }
    (stored, deleted)
}

/// Opens what is left after a cut and counts the samples that were promised and are not there.
fn losses(files: &BTreeMap<String, Vec<u8>>, before: &[Event], cut: usize) -> usize {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    for (name, bytes) in files {
        graftd::base::atomic::write(&folder.path().join(name), bytes).unwrap();
    }
    let store = Store::open(folder.path()).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
    let verification = store.verify().unwrap();
    // An image that is gone is counted below; nothing else may be damaged.
    let but_images = verification.faults.iter().filter(|f| !f.place.starts_with("images row"));
    assert_eq!(but_images.count(), 0, "cut {cut}: {verification:?}");
    let (stored, deleted) = promised(before);
    if store.dataset(&dataset()).is_err() {
        return stored.len();
    }
    let page = store.samples(&dataset(), &Filter::default(), None, 10_000).unwrap();
    let there: BTreeSet<String> = page.samples.into_iter().map(|sample| sample.id).collect();
    let spoilt = stored.iter().filter(|number| {
        there.contains(&sample(**number).id)
            && !store
                .image(&dataset(), &sample(**number).id)
                .is_ok_and(|found| found.is_some_and(|found| found.bytes == image(**number)))
    });
    let spoilt = spoilt.count();
    let missing = stored.iter().filter(|number| !there.contains(&sample(**number).id)).count();
    let back = deleted.iter().filter(|number| there.contains(&sample(**number).id)).count();
    missing + back + spoilt
}

fn cuts(synchronous: Synchronous, forgets: Forgets, seed: u64) -> (u64, usize) {
    let events = record(synchronous);
    assert!(events.len() > SAMPLES as usize, "nothing was recorded");
    let renamed = events.iter().filter(|e| matches!(e, Event::ImageRenamed { .. })).count();
    assert_eq!(renamed as u64, SAMPLES / 8, "the images' files were not recorded");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cuts_with_losses, mut lost) = (0, 0);
    // A broken medium shows soon.
    let tried = if forgets == Forgets::Nothing { CUTS } else { CUTS / 3 };
    for _ in 0..tried {
        let cut = random.random_range(1..=events.len());
        let files = left(&events, cut, forgets, &mut random);
        let found = losses(&files, &events[..cut], cut);
        lost += found;
        cuts_with_losses += u64::from(found > 0);
    }
    (cuts_with_losses, lost)
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_and_with_normal_it_does() {
    let (cuts_with_losses, lost) = cuts(Synchronous::Full, Forgets::Nothing, 1);
    println!("FULL: {CUTS} cuts, {cuts_with_losses} with losses, {lost} samples lost");
    assert_eq!(lost, 0);
    let (cuts_with_losses, lost) = cuts(Synchronous::Normal, Forgets::Nothing, 1);
    println!("NORMAL: {CUTS} cuts, {cuts_with_losses} with losses, {lost} samples lost");
    assert!(lost > 0, "the replay could not tell NORMAL from FULL");
    for forgets in [Forgets::Files, Forgets::Folder] {
        let (cuts_with_losses, lost) = cuts(Synchronous::Full, forgets, 1);
        println!(
            "{forgets:?} not flushed: {cuts_with_losses} cuts with losses, {lost} samples lost"
        );
        assert!(lost > 0, "the replay does not see that {forgets:?} are not flushed");
    }
}
