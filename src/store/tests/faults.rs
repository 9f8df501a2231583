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
    let embedding: Vec<u8> = sample(7).embeddings[0]
        .values
        .iter()
        .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
        .collect();
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
    assert_eq!(store.verify().unwrap().fault_count, 1);
}

#[test]
fn training_stops_at_a_damaged_embedding() {
    let (folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(7)).unwrap();
    drop(store);
    let halves: Vec<u8> = sample(7).embeddings[0]
        .values
        .iter()
        .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
        .collect();
    flip(&folder.path().join("graftd.sqlite"), &halves);
    let store = Store::open(folder.path()).unwrap();
    let mut blocks = store.embeddings(&parts, backbone(), None, 10).unwrap();
    assert!(matches!(blocks.next().unwrap().unwrap_err(), StoreError::Corrupt(_)));
    assert!(blocks.next().is_none());
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
