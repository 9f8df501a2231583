use super::super::*;
use super::*;

const SECRET: &[u8] = b"a face that must be forgotten";

fn secret(number: u32, padding: usize) -> NewSample {
    let mut image = vec![b'.'; padding];
    image.extend(SECRET);
    NewSample {
        id: format!("secret-id-{number}"),
        note: "secret-note".to_owned(),
        image: Some(image),
        ..sample(number)
    }
}

#[test]
fn deleted_bytes_are_found_in_no_file_of_the_state_folder() {
    let (folder, store, parts) = fresh();
    let secrets = (0..20).map(|number| {
        // Inline, inline with overflow pages, and as a file.
        secret(1_000 + number, [0, 50_000, INLINE_LIMIT][number as usize % 3])
    });
    let others = (0..200).map(sample).collect::<Vec<_>>();
    let mixed = others
        .chunks(10)
        .zip(secrets)
        .flat_map(|(others, secret)| others.iter().cloned().chain([secret]));
    add_all(&store, &parts, mixed);
    for needle in [SECRET, b"secret-id-", b"secret-note"] {
        assert!(any_file_contains(folder.path(), needle), "the test must be able to fail");
    }
    let page = store.samples(&parts, &Filter::default(), None, 1_000).unwrap();
    let ids: Vec<_> = page
        .samples
        .into_iter()
        .map(|sample| sample.id)
        .filter(|id| id.starts_with("secret"))
        .collect();
    assert_eq!(ids.len(), 20);
    let filter = Filter { ids, ..Filter::default() };
    let deletion = store.delete_samples(&parts, &filter).unwrap();
    assert_eq!((deletion.removed, deletion.erased), (20, true));
    assert!(deletion.bytes > 7 * INLINE_LIMIT as u64);
    for needle in [SECRET, b"secret-id-", b"secret-note"] {
        assert!(!any_file_contains(folder.path(), needle), "{}", needle.escape_ascii());
    }
    assert!(store.verify().unwrap().is_sound());
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 200);
}

#[test]
fn a_sample_is_found_by_its_key_until_it_is_deleted_and_never_another_in_its_place() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    let stored = store.sample(&parts, &sample(1).id).unwrap();
    assert_eq!(store.sample_with_key(stored.key).unwrap().as_ref(), Some(&stored));
    store.delete_samples(&parts, &Filter::default()).unwrap();
    store.add_sample_and_wait(&parts, sample(2)).unwrap();
    assert_eq!(store.sample_with_key(stored.key).unwrap(), None);
}

#[test]
fn a_deleted_sample_can_be_sent_again() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    store.delete_samples(&parts, &Filter::default()).unwrap();
    assert!(matches!(
        store.sample(&parts, &sample(1).id).unwrap_err(),
        StoreError::UnknownSample { .. }
    ));
    let receipt = store.add_sample_and_wait(&parts, sample(1)).unwrap();
    assert_eq!(receipt.outcome, Outcome::Added);
}

#[test]
fn a_filter_selects_what_meets_all_its_conditions() {
    let (_folder, store, parts) = fresh();
    for number in 0..20 {
        let mut sent = sample(number);
        sent.pinned = number < 4;
        sent.source = format!("camera {}", number % 3);
        if number == 19 {
            sent.labels.clear();
        }
        store.add_sample_and_wait(&parts, sent).unwrap();
    }
    let count = |filter: Filter| store.samples(&parts, &filter, None, 100).unwrap().samples.len();
    assert_eq!(count(Filter { labels: vec!["nut".into()], ..Filter::default() }), 10);
    assert_eq!(count(Filter { unlabelled: Some(true), ..Filter::default() }), 1);
    assert_eq!(count(Filter { pinned: Some(true), ..Filter::default() }), 4);
    let both =
        Filter { labels: vec!["nut".into()], source: Some("camera 0".into()), ..Filter::default() };
    assert_eq!(count(both), 4); // 0, 6, 12, 18
    let by_id = Filter { ids: vec![sample(3).id, "missing".into()], ..Filter::default() };
    assert_eq!(count(by_id), 1);
    let train = count(Filter { split: Some(Split::Train), ..Filter::default() });
    let held_out = count(Filter { split: Some(Split::HeldOut), ..Filter::default() });
    assert_eq!(train + held_out, 20);
    let nuts = Filter { labels: vec!["nut".into(), "gear".into()], ..Filter::default() };
    assert_eq!(store.totals(&parts, &nuts).unwrap().samples, 10);
    let deletion = store
        .delete_samples(&parts, &Filter { labels: vec!["nut".into()], ..Filter::default() })
        .unwrap();
    assert_eq!(deletion.removed, 10);
    assert_eq!(count(Filter::default()), 10);
}

#[test]
fn pages_of_a_listing_join_without_gap_or_overlap() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..25).map(sample));
    let mut ids = Vec::new();
    let mut after = None;
    loop {
        let page = store.samples(&parts, &Filter::default(), after, 10).unwrap();
        ids.extend(page.samples.into_iter().map(|sample| sample.id));
        let Some(next) = page.next else { break };
        after = Some(SampleKey::from_token(next.to_token()));
    }
    assert_eq!(ids, (0..25).map(|number| sample(number).id).collect::<Vec<_>>());
}

#[test]
fn a_deleted_dataset_leaves_nothing_and_its_name_is_free() {
    let (folder, store, parts) = fresh();
    for number in 0..5 {
        store.add_sample_and_wait(&parts, secret(number, INLINE_LIMIT)).unwrap();
    }
    assert_eq!(store.delete_dataset(&parts).unwrap().removed, 5);
    assert!(matches!(store.dataset(&parts).unwrap_err(), StoreError::UnknownDataset(_)));
    assert!(!any_file_contains(folder.path(), SECRET));
    assert_eq!(files(&folder.path().join("images")).len(), 0);
    store.create_dataset(&parts, DatasetSettings::default()).unwrap();
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 0);
}

#[test]
fn a_label_and_a_note_that_were_replaced_are_soon_found_in_no_file() {
    let (folder, store, parts) = fresh();
    let old = NewSample { labels: vec!["old-label".into()], note: "old-note".into(), ..sample(1) };
    store.add_sample_and_wait(&parts, old).unwrap();
    let change = SampleChange {
        labels: Some(vec!["new-label".into()]),
        note: Some("new-note".into()),
        ..SampleChange::default()
    };
    store.update_sample(&parts, &sample(1).id, change).unwrap();
    // Nothing tells when the writer was idle for long enough.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    for needle in [b"old-label".as_slice(), b"old-note"] {
        while any_file_contains(folder.path(), needle) {
            assert!(std::time::Instant::now() < patience, "{}", needle.escape_ascii());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    assert!(any_file_contains(folder.path(), b"new-label"));
}

#[test]
fn what_a_backbone_made_can_be_forgotten_and_is_then_in_no_file() {
    let (folder, store, parts) = fresh();
    let other = Digest::of(b"another backbone");
    let values = vec![1234.0; WIDTH];
    let bytes: Vec<u8> =
        values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    add_all(&store, &parts, (0..3).map(sample));
    let before = store.dataset_stats(&parts).unwrap();
    let embedding = NewEmbedding { backbone: other, values };
    for found in store.samples(&parts, &Filter::default(), None, 10).unwrap().samples {
        store.put_embedding(&parts, &found.id, found.content, &embedding).unwrap();
    }
    // One that is nothing but this embedding.
    let bare = NewSample { image: None, embeddings: vec![embedding], ..sample(3) };
    store.add_sample_and_wait(&parts, bare).unwrap();
    assert!(any_file_contains(folder.path(), &bytes));
    let deletion = store.delete_embeddings(other).unwrap();
    assert_eq!((deletion.removed, deletion.bytes, deletion.erased), (4, 8 * WIDTH as u64, true));
    assert!(!any_file_contains(folder.path(), &bytes));
    assert_eq!(store.dataset_stats(&parts).unwrap(), before);
    assert!(store.sample(&parts, &sample(3).id).is_err());
    assert_eq!(store.samples_without_embedding(&parts, other, None, 10).unwrap().len(), 3);
    assert!(store.verify().unwrap().is_sound());
    assert_eq!(store.delete_embeddings(other).unwrap().removed, 0);
}

#[test]
fn what_a_quota_drops_leaves_the_log_though_samples_come_in_without_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let erase_within = Some(std::time::Duration::ZERO);
    let options = Options { erase_within, ..Options::default() };
    let store = Store::open_with(folder.path(), options).unwrap();
    let parts = name("parts");
    let quota = Quota { max_samples: Some(1), when_full: WhenFull::DropOldest, ..Quota::default() };
    store.create_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    store.add_sample_and_wait(&parts, secret(1, 0)).unwrap();
    assert!(any_file_contains(folder.path(), SECRET), "the test must be able to fail");
    assert_eq!(store.add_sample_and_wait(&parts, sample(2)).unwrap().dropped, 1);
    // Before it takes the next operation the writer clears away.
    store.write(super::super::writer::Urgency::Now, |_| Ok(())).unwrap();
    for needle in [SECRET, b"secret-id-", b"secret-note"] {
        assert!(!any_file_contains(folder.path(), needle), "{}", needle.escape_ascii());
    }
}

#[test]
fn the_key_of_a_deleted_sample_is_never_given_again() {
    let (folder, store, parts) = fresh();
    let add = |store: &Store, number| {
        store.add_sample_and_wait(&parts, sample(number)).unwrap().sample.key()
    };
    let delete = |store: &Store, number| {
        let filter = Filter { ids: vec![sample(number).id], ..Filter::default() };
        assert_eq!(store.delete_samples(&parts, &filter).unwrap().removed, 1);
    };
    let keys = [1, 2, 3].map(|number| add(&store, number));
    delete(&store, 3);
    delete(&store, 2);
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let fourth = add(&store, 4);
    assert!(fourth > keys[2], "{fourth:?} after {keys:?}");
    delete(&store, 4);
    // An operation that is undone lets the sums be read again.
    let refused = store.write(super::super::writer::Urgency::Now, move |session| {
        session.ledger().dataset_mut(fourth.dataset())?;
        Err::<(), _>(StoreError::Closed)
    });
    assert!(refused.is_err());
    assert!(add(&store, 5) > fourth);
    // All of them at once.
    store.delete_samples(&parts, &Filter::default()).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert!(add(&store, 6).sequence() > fourth.sequence() + 1);
    // With the dataset goes what was written down of it: its number is not given again either.
    store.delete_samples(&parts, &Filter::default()).unwrap();
    store.delete_dataset(&parts).unwrap();
    let counters: i64 = store
        .read(|connection| {
            Ok(connection.query_row("SELECT count(*) FROM counters", [], |row| row.get(0))?)
        })
        .unwrap();
    assert_eq!(counters, 1);
}
