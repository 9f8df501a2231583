//! Damage, full disks and locked folders.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use super::super::*;
use super::*;

/// Overwrites one byte of the first place in a file where `needle` stands.
fn flip(path: &std::path::Path, needle: &[u8]) {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[bytes[at] ^ 0x20]).unwrap();
}

#[test]
fn a_flipped_byte_is_found_wherever_it_lies() {
    let embedding = halves();
    for needle in
        [b"camera-1/000007".as_slice(), b"note seven", b"image 7", &embedding, b"head seven"]
    {
        let (folder, store, parts) = fresh();
        let noted = |number| {
            let note = if number == 7 { "note seven" } else { "" };
            NewSample { note: note.to_owned(), ..sample(number) }
        };
        add_all(&store, &parts, (0..10).map(noted));
        let head = NewHeadVersion { metadata: "{}".into(), bytes: b"head seven".to_vec() };
        store.add_head_version(&name("trash"), head).unwrap();
        assert!(store.verify().unwrap().is_sound());
        drop(store);
        flip(&folder.path().join("graftd.sqlite"), needle);
        let store = Store::open(folder.path()).unwrap();
        let found = store.verify().unwrap();
        assert!(!found.is_sound(), "{}", needle.escape_ascii());
        let other = store.sample(&parts, &sample(3).id);
        assert!(other.is_ok(), "what is sound stays readable: {other:?}");
    }
}

#[test]
fn a_flipped_byte_in_an_image_file_is_found_and_never_handed_out() {
    let (folder, store, parts) = fresh();
    let sent = NewSample { image: Some(vec![b'x'; INLINE_LIMIT + 1]), ..sample(1) };
    store.add_sample_and_wait(&parts, sent).unwrap();
    flip(&files(&folder.path().join("images"))[0], b"x");
    let refused = store.image(&parts, &sample(1).id).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused}");
    // Work on many samples goes on without it.
    let found = store.sample(&parts, &sample(1).id).unwrap();
    assert_eq!(store.sound_image_of(&found).unwrap(), None);
    assert_eq!(store.verify().unwrap().fault_count, 1);
}

/// The halves of sample 7 as they lie in the database.
fn halves() -> Vec<u8> {
    let values = &sample(7).embeddings[0].values;
    values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()
}

/// Ten samples, of which the seventh has a label of its own, and a byte of them flipped.
fn damaged(needle: &[u8]) -> (tempfile::TempDir, Store, Name) {
    let (folder, store, parts) = fresh();
    for number in 0..10 {
        let mut sent = sample(number);
        if number == 7 {
            sent.labels = vec!["gear wheel".to_owned()];
        }
        store.add_sample_and_wait(&parts, sent).unwrap();
    }
    drop(store);
    flip(&folder.path().join("graftd.sqlite"), needle);
    let store = Store::open(folder.path()).unwrap();
    (folder, store, parts)
}

/// Needles whose flip leaves a sample that must not be learnt from: in a label, so that it is another
/// (`Gear wheel`) or no JSON any more, and in the embedding.
fn needles() -> [Vec<u8>; 3] {
    [b"gear wheel".to_vec(), b"\"gear wheel".to_vec(), halves()]
}

#[test]
fn what_a_flipped_byte_changed_is_left_out_of_training_and_counted() {
    for needle in needles() {
        let (_folder, store, parts) = damaged(&needle);
        let text = needle.escape_ascii();
        // Also where the damaged one is all that a block would have held.
        for rows in [1, 3, 10] {
            let mut blocks = store.embeddings(&parts, backbone(), None, rows).unwrap();
            let mut ids = Vec::new();
            for block in &mut blocks {
                let block = block.unwrap();
                assert_eq!(block.values.len(), block.samples.len() * WIDTH);
                ids.extend(block.samples.into_iter().map(|sample| sample.id));
            }
            assert_eq!(ids.len(), 9, "{text}");
            assert!(!ids.contains(&sample(7).id), "{text}");
            assert_eq!(blocks.damaged(), 1, "{text}");
        }
    }
}

#[test]
fn a_damaged_row_hides_no_other_and_stops_nothing() {
    for needle in &needles()[..2] {
        let (folder, store, parts) = damaged(needle);
        let text = needle.escape_ascii();
        assert_eq!(store.snapshot(&parts).unwrap().samples, 9, "{text}");
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = store.samples(&parts, &Filter::default(), after, 4).unwrap();
            ids.extend(page.samples.into_iter().map(|sample| sample.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(ids.len(), 9, "{text}");
        let labelled = Filter { labels: vec!["bolt".into()], ..Filter::default() };
        assert_eq!(store.samples(&parts, &labelled, None, 10).unwrap().samples.len(), 4);
        let other = Digest::of(b"another backbone");
        assert_eq!(store.samples_without_embedding(&parts, other, None, 100).unwrap().len(), 9);
        assert!(matches!(store.sample(&parts, &sample(7).id), Err(StoreError::Corrupt(_))));
        // New ones come in, and what is read beside the daemon works as well.
        store.add_sample_and_wait(&parts, sample(10)).unwrap();
        let reader = Store::open_read_only(folder.path()).unwrap();
        assert!(reader.stats().is_ok());
        assert_eq!(reader.verify().unwrap().fault_count, 1, "{text}");
    }
    let (_folder, store, parts) = damaged(b"\"gear wheel");
    assert_eq!(store.stats().unwrap().damaged, 1);
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 9);
}

#[test]
fn an_export_leaves_out_what_is_damaged_and_names_it() {
    let target = tempfile::tempdir().unwrap();
    for (at, needle) in needles().into_iter().chain([b"image 7".to_vec()]).enumerate() {
        let (_folder, store, parts) = damaged(&needle);
        let path = target.path().join(at.to_string());
        let report = store.export(&parts, ExportTarget::Folder(path.clone())).unwrap();
        let text = needle.escape_ascii();
        assert_eq!(report.left_out.len(), 1, "{text}: {report:?}");
        let imported: Vec<_> = Import::open(&path).unwrap().map(Result::unwrap).collect();
        // Of a damaged row nothing is taken; of a damaged part the rest is.
        let (whole_row, of_image) = (at < 2, at == 3);
        assert_eq!(imported.len(), if whole_row { 9 } else { 10 }, "{text}");
        assert_eq!(report.images, if whole_row || of_image { 9 } else { 10 }, "{text}");
        for found in imported.iter().filter(|found| !found.embeddings.is_empty()) {
            let number: u32 = found.id[9..15].parse().unwrap();
            assert_eq!(found.embeddings, sample(number).embeddings, "{text}: rows moved");
        }
    }
}

#[test]
fn a_dataset_with_damaged_rows_can_be_deleted_and_leaves_nothing() {
    for needle in &needles()[..2] {
        let (folder, store, parts) = damaged(needle);
        store.delete_dataset(&parts).unwrap();
        assert!(store.verify().unwrap().is_sound());
        assert!(!any_file_contains(folder.path(), b"ear wheel"));
        assert!(!any_file_contains(folder.path(), b"image 7"));
    }
}

#[test]
fn a_file_that_is_no_database_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graftd.sqlite");
    crate::base::atomic::write(&path, &vec![b'x'; 20_000]).unwrap();
    let refused = Store::open(folder.path()).err().unwrap();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused}");
}

#[test]
fn a_full_disk_refuses_the_sample_keeps_the_rest_and_recovers() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..5).map(sample));
    let before = store.dataset_stats(&parts).unwrap();
    // SQLite answers SQLITE_FULL when the database may not grow, as it does for ENOSPC.
    let limit = |pages: i64| {
        store
            .write(super::super::writer::Urgency::Now, move |session| {
                session.connection.pragma_update_and_check(
                    None,
                    "max_page_count",
                    pages,
                    |_| Ok(()),
                )?;
                Ok(())
            })
            .unwrap();
    };
    limit(1);
    let large = NewSample { image: Some(vec![1; 90_000]), ..sample(100) };
    let refused = store.add_sample_and_wait(&parts, large.clone()).unwrap_err();
    assert!(matches!(refused, StoreError::DiskFull), "{refused}");
    assert_eq!(store.dataset_stats(&parts).unwrap(), before);
    assert!(store.sample(&parts, &sample(4).id).is_ok());
    limit(1_000_000);
    assert_eq!(store.add_sample_and_wait(&parts, large).unwrap().outcome, Outcome::Added);
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn a_second_daemon_is_refused_and_a_reader_is_not() {
    let (folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    assert!(matches!(Store::open(folder.path()).err(), Some(StoreError::Locked { .. })));
    let reader = Store::open_read_only(folder.path()).unwrap();
    assert_eq!(reader.dataset_stats(&parts).unwrap().samples, 1);
    assert!(reader.verify().unwrap().is_sound());
    let refused = reader.add_sample_and_wait(&parts, sample(2)).unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused}");
}

#[test]
fn reading_where_there_is_no_store_says_so_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Store::open_read_only(folder.path()).err().unwrap();
    assert!(matches!(refused, StoreError::NoState { .. }), "{refused}");
    assert_eq!(files(folder.path()).len(), 0);
}

#[test]
fn a_clock_that_jumps_back_disturbs_neither_order_nor_intake() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    dated_in_2100(&store);
    store.add_sample_and_wait(&parts, sample(2)).unwrap();
    let blocks = store.embeddings(&parts, backbone(), None, 10).unwrap();
    let ids: Vec<_> = blocks.flat_map(|b| b.unwrap().samples).map(|sample| sample.id).collect();
    assert_eq!(ids, [sample(1).id, sample(2).id]);
}

/// A store whose reader began before one of its two samples was deleted with the file of its image.
fn deleted_beside_a_reader(look: impl FnOnce(&Store, &Name, &rusqlite::Connection)) {
    let (_folder, store, parts) = fresh();
    let large = NewSample { image: Some(vec![b'x'; INLINE_LIMIT + 1]), ..sample(1) };
    for sent in [large, sample(2)] {
        store.add_sample_and_wait(&parts, sent).unwrap();
    }
    let found = store.sample(&parts, &sample(1).id).unwrap();
    let moment = store.read(|connection| {
        let seen: i64 =
            connection.query_row("SELECT count(*) FROM samples", [], |row| row.get(0))?;
        assert_eq!(seen, 2);
        let remove = move |session: &mut super::super::writer::Session<'_>| {
            super::super::change::remove(session, &found)
        };
        store.write(super::super::writer::Urgency::Now, remove)?;
        look(&store, &parts, connection);
        Ok(())
    });
    moment.unwrap();
}

#[test]
fn an_image_that_was_deleted_beside_a_verification_is_no_damage() {
    deleted_beside_a_reader(|store, _, connection| {
        let found = store.verify_at(connection);
        assert!(found.is_sound() && found.images == 2, "{found:?}");
    });
    // With its row still there, it is.
    let (folder, store, parts) = fresh();
    let large = NewSample { image: Some(vec![b'x'; INLINE_LIMIT + 1]), ..sample(1) };
    store.add_sample_and_wait(&parts, large).unwrap();
    std::fs::remove_file(&files(&folder.path().join("images"))[0]).unwrap();
    assert_eq!(store.verify().unwrap().fault_count, 1);
}

#[test]
fn a_sample_that_was_deleted_beside_an_export_is_in_it_no_more_and_no_damage() {
    deleted_beside_a_reader(|store, parts, connection| {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().join("export");
        let target = ExportTarget::Folder(path.clone());
        let report = store.export_at(connection, parts, target).unwrap();
        assert!(report.left_out.is_empty(), "{report:?}");
        let ids: Vec<_> = Import::open(&path).unwrap().map(|found| found.unwrap().id).collect();
        assert_eq!(ids, [sample(2).id]);
    });
}

/// Runs with each sort of damaged row of sample 7, its id in the index or not yet.
fn with_each_damaged_row(check: impl Fn(&tempfile::TempDir, Store, &Name, &str)) {
    let id = b"camera-1/000007".to_vec();
    for needle in needles().into_iter().take(2).chain([id]) {
        for indexed in [false, true] {
            let (folder, store, parts) = damaged(&needle);
            let index = move |session: &mut super::super::writer::Session<'_>| {
                if indexed {
                    session.connection.execute("UPDATE samples SET indexed = 1", [])?;
                }
                session.ledger().reload(session.connection)
            };
            store.write(super::super::writer::Urgency::Now, index).unwrap();
            let found = store.sample(&parts, &sample(7).id);
            assert!(matches!(found, Err(StoreError::Corrupt(_))), "{found:?}");
            let case = format!("{}, indexed: {indexed}", needle.escape_ascii());
            check(&folder, store, &parts, &case);
        }
    }
}

/// Asserts that the sums are those that a restart finds.
fn assert_sums_are_right(folder: &tempfile::TempDir, store: Store, parts: &Name, case: &str) {
    let stats = store.stats().unwrap();
    assert_eq!(stats.damaged, 0, "{case}");
    assert!(store.verify().unwrap().is_sound(), "{case}");
    drop(store);
    let again = Store::open(folder.path()).unwrap();
    assert_eq!(again.stats().unwrap().datasets, stats.datasets, "{case}");
    assert_eq!(again.dataset_stats(parts).unwrap(), stats.datasets[0], "{case}");
}

#[test]
fn a_sample_whose_row_is_damaged_can_be_sent_again() {
    with_each_damaged_row(|folder, store, parts, case| {
        let sent = NewSample { labels: vec!["gear wheel".to_owned()], ..sample(7) };
        let receipt = store.add_sample_and_wait(parts, sent.clone()).unwrap();
        assert_eq!(receipt.outcome, Outcome::Added, "{case}");
        assert_eq!(store.sample(parts, &sent.id).unwrap(), receipt.sample, "{case}");
        assert_eq!(store.image(parts, &sent.id).unwrap().map(|i| i.bytes), sent.image, "{case}");
        let stats = store.dataset_stats(parts).unwrap();
        let labels: Vec<_> = stats.labels.keys().map(String::as_str).collect();
        assert_eq!((stats.samples, labels), (10, vec!["bolt", "gear wheel", "nut"]), "{case}");
        let again = store.add_sample_and_wait(parts, sent).unwrap();
        assert_eq!(again.outcome, Outcome::Duplicate, "{case}");
        assert_sums_are_right(folder, store, parts, case);
    });
}

#[test]
fn a_sample_whose_row_is_damaged_can_be_deleted_by_its_id_and_leaves_nothing() {
    with_each_damaged_row(|folder, store, parts, case| {
        let ids = vec![sample(3).id, sample(7).id];
        // What else the damaged row says cannot be known.
        let labelled = Filter {
            ids: ids.clone(),
            labels: vec!["gear wheel".to_owned(), "Gear wheel".to_owned()],
            ..Filter::default()
        };
        assert_eq!(store.delete_samples(parts, &labelled).unwrap().removed, 0, "{case}");
        let filter = Filter { ids, ..Filter::default() };
        let deletion = store.delete_samples(parts, &filter).unwrap();
        assert_eq!((deletion.removed, deletion.erased), (2, true), "{case}");
        assert!(!any_file_contains(folder.path(), b"image 7"), "{case}");
        assert_eq!(store.dataset_stats(parts).unwrap().samples, 8, "{case}");
        assert_sums_are_right(folder, store, parts, case);
    });
}

#[test]
fn deleting_all_samples_deletes_those_whose_row_is_damaged() {
    with_each_damaged_row(|folder, store, parts, case| {
        let deletion = store.delete_samples(parts, &Filter::default()).unwrap();
        assert_eq!((deletion.removed, deletion.erased), (10, true), "{case}");
        assert!(!any_file_contains(folder.path(), b"image 7"), "{case}");
        let stats = store.dataset_stats(parts).unwrap();
        assert_eq!((stats.samples, stats.bytes, stats.labels.len()), (0, 0, 0), "{case}");
        assert_sums_are_right(folder, store, parts, case);
    });
}

#[test]
fn a_sample_whose_hash_of_the_id_is_damaged_is_deleted_with_all_others() {
    let hash = super::super::sample::id_hash(1, &sample(7).id).to_be_bytes();
    for whole in [false, true] {
        let (folder, store, parts) = damaged(&hash);
        let unknown = store.sample(&parts, &sample(7).id);
        assert!(matches!(unknown, Err(StoreError::UnknownSample { .. })), "{unknown:?}");
        assert_eq!(store.samples(&parts, &Filter::default(), None, 100).unwrap().samples.len(), 10);
        if whole {
            assert_eq!(store.delete_dataset(&parts).unwrap().removed, 10);
        } else {
            let labelled = Filter { labels: vec!["gear wheel".into()], ..Filter::default() };
            assert_eq!(store.delete_samples(&parts, &labelled).unwrap().removed, 1);
            assert_sums_are_right(&folder, store, &parts, "hash of its id");
        }
        assert!(!any_file_contains(folder.path(), b"image 7"));
    }
}
