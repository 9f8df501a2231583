use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::writer::Urgency;
use super::super::*;
use super::*;

#[test]
fn a_sample_comes_back_as_it_was_sent_also_after_a_restart() {
    let (folder, store, parts) = fresh();
    let sent = NewSample {
        weight: 2.5,
        source: "camera 1".to_owned(),
        note: "a remark\nin two lines".to_owned(),
        taken_at: Some(crate::base::clock::Timestamp(-5)),
        pinned: true,
        split: Some(Split::HeldOut),
        ..sample(1)
    };
    let receipt = store.add_sample_and_wait(&parts, sent.clone()).unwrap();
    let before = store.sample(&parts, &sent.id).unwrap();
    assert_eq!(before.split, Split::HeldOut);
    let expected = Receipt { outcome: Outcome::Added, sample: before.clone(), dropped: 0 };
    assert_eq!(receipt, expected);
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let stored = store.sample(&parts, &sent.id).unwrap();
    assert_eq!(stored, before);
    assert_eq!((stored.labels, stored.weight, stored.pinned), (sent.labels, 2.5, true));
    assert_eq!(
        (stored.source, stored.note, stored.taken_at),
        (sent.source, sent.note, sent.taken_at)
    );
    let image = store.image(&parts, &sent.id).unwrap().unwrap();
    assert_eq!((Some(image.bytes), image.thumbnail), (sent.image, false));
}

#[test]
fn the_same_sample_twice_is_one_sample_and_two_receipts() {
    let (_folder, store, parts) = fresh();
    assert_eq!(store.add_sample_and_wait(&parts, sample(1)).unwrap().outcome, Outcome::Added);
    let again = store.add_sample_and_wait(&parts, sample(1)).unwrap();
    assert_eq!(again.outcome, Outcome::Duplicate);
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 1);
}

#[test]
fn resending_does_not_undo_a_corrected_label() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    let id = sample(1).id;
    let corrected = SampleChange { labels: Some(vec!["gear".into()]), ..SampleChange::default() };
    store.update_sample(&parts, &id, corrected).unwrap();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    assert_eq!(store.sample(&parts, &id).unwrap().labels, ["gear"]);
    let labels = store.dataset_stats(&parts).unwrap().labels;
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["gear"]);
}

#[test]
fn the_same_id_with_another_image_is_refused() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    let other = NewSample { image: Some(b"another image".to_vec()), ..sample(1) };
    let refused = store.add_sample_and_wait(&parts, other).unwrap_err();
    assert!(matches!(refused, StoreError::SampleConflict { .. }), "{refused}");
    let stored = store.image(&parts, &sample(1).id).unwrap().unwrap();
    assert_eq!(Some(stored.bytes), sample(1).image);
}

#[test]
fn ids_are_found_among_the_recent_in_the_index_and_after_a_restart() {
    let (folder, store, parts) = fresh();
    let (sender, receiver) = mpsc::channel();
    // More than the ledger keeps in memory, so that some are in the index and some are not.
    let count = 5_000;
    for number in 0..count {
        let sender = sender.clone();
        store.add_sample(&parts, sample(number), move |result| sender.send(result).unwrap());
    }
    for _ in 0..count {
        assert_eq!(receiver.recv().unwrap().unwrap().outcome, Outcome::Added);
    }
    let check = |store: &Store| {
        for number in [0, 1, 4_000, 4_095, 4_096, 4_097, count - 1] {
            let sent = sample(number);
            assert_eq!(store.sample(&parts, &sent.id).unwrap().labels, sent.labels, "{number}");
            let again = store.add_sample_and_wait(&parts, sent).unwrap();
            assert_eq!(again.outcome, Outcome::Duplicate, "{number}");
        }
        let missing = store.sample(&parts, "never sent").unwrap_err();
        assert!(matches!(missing, StoreError::UnknownSample { .. }));
        assert_eq!(store.dataset_stats(&parts).unwrap().samples, u64::from(count));
    };
    check(&store);
    drop(store);
    check(&Store::open(folder.path()).unwrap());
}

#[test]
fn the_same_id_in_two_datasets_is_two_samples() {
    let (_folder, store, parts) = fresh();
    let others = name("others");
    store.create_dataset(&others, DatasetSettings::default()).unwrap();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    let other = NewSample { image: Some(b"another".to_vec()), ..sample(1) };
    assert_eq!(store.add_sample_and_wait(&others, other).unwrap().outcome, Outcome::Added);
}

#[test]
fn a_refused_sample_takes_no_other_of_its_group_with_it() {
    let (_folder, store, parts) = fresh();
    let (sender, receiver) = mpsc::channel();
    let narrow = NewEmbedding { backbone: backbone(), values: vec![1.0; WIDTH - 1] };
    for number in 0..50 {
        let mut sent = sample(number);
        if number == 25 {
            sent.embeddings = vec![narrow.clone()];
        }
        let sender = sender.clone();
        store.add_sample(&parts, sent, move |result| sender.send((number, result)).unwrap());
    }
    for _ in 0..50 {
        let (number, result) = receiver.recv().unwrap();
        assert_eq!(result.is_err(), number == 25, "{number}: {result:?}");
    }
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 49);
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn a_full_dataset_refuses_and_says_which_limit_stands_against_it() {
    let (_folder, store, parts) = fresh();
    let quota = Quota { max_samples: Some(2), ..Quota::default() };
    store.update_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    for number in 0..2 {
        store.add_sample_and_wait(&parts, sample(number)).unwrap();
    }
    let refused = store.add_sample_and_wait(&parts, sample(2)).unwrap_err();
    assert!(refused.to_string().contains("quota of 2 samples"), "{refused}");
    // What is stored already is acknowledged all the same.
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
}

#[test]
fn a_full_dataset_drops_the_oldest_that_is_not_pinned() {
    let (_folder, store, parts) = fresh();
    let quota = Quota { max_samples: Some(3), when_full: WhenFull::DropOldest, ..Quota::default() };
    store.update_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    store.add_sample_and_wait(&parts, NewSample { pinned: true, ..sample(0) }).unwrap();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    store.add_sample_and_wait(&parts, sample(2)).unwrap();
    assert_eq!(store.add_sample_and_wait(&parts, sample(3)).unwrap().dropped, 1);
    let page = store.samples(&parts, &Filter::default(), None, 10).unwrap();
    let ids: Vec<_> = page.samples.into_iter().map(|sample| sample.id).collect();
    assert_eq!(ids, [sample(0).id, sample(2).id, sample(3).id]);
}

#[test]
fn a_sample_larger_than_the_whole_quota_drops_nothing() {
    let (_folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(0)).unwrap();
    let quota =
        Quota { max_bytes: Some(1000), when_full: WhenFull::DropOldest, ..Quota::default() };
    store.update_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    let large = NewSample { image: Some(vec![7; 2000]), ..sample(1) };
    assert!(store.add_sample_and_wait(&parts, large).is_err());
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 1);
}

#[test]
fn as_many_of_the_oldest_are_dropped_as_the_bytes_of_a_new_sample_need() {
    let (_folder, store, parts) = fresh();
    let sized = |number, length| NewSample {
        labels: vec!["nut".to_owned()],
        image: Some(vec![b'x'; length]),
        ..sample(number)
    };
    let one = store.add_sample_and_wait(&parts, sized(0, 1_000)).unwrap().sample.bytes;
    let quota =
        Quota { max_bytes: Some(4 * one), when_full: WhenFull::DropOldest, ..Quota::default() };
    store.update_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    let pinned = NewSample { pinned: true, ..sized(1, 1_000) };
    for sent in [pinned, sized(2, 1_000), sized(3, 1_000)] {
        assert_eq!(store.add_sample_and_wait(&parts, sent).unwrap().dropped, 0);
    }
    // Twice as large as one: the oldest two go that are not pinned.
    let large = sized(4, 1_000 + one as usize);
    let receipt = store.add_sample_and_wait(&parts, large).unwrap();
    assert_eq!((receipt.sample.bytes, receipt.dropped), (2 * one, 2));
    let left = store.samples(&parts, &Filter::default(), None, 10).unwrap().samples;
    let left: Vec<_> = left.into_iter().map(|sample| sample.id).collect();
    assert_eq!(left, [1, 3, 4].map(|number| sample(number).id));
    assert_eq!(store.dataset_stats(&parts).unwrap().bytes, 4 * one);
    // What the pinned one leaves no room for is refused, and drops none.
    let refused = store.add_sample_and_wait(&parts, sized(5, 4 * one as usize - 500)).unwrap_err();
    assert!(matches!(refused, StoreError::QuotaExceeded { .. }), "{refused}");
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 3);
}

#[test]
fn pinned_samples_that_fill_the_dataset_are_not_dropped() {
    let (_folder, store, parts) = fresh();
    let quota = Quota { max_samples: Some(2), when_full: WhenFull::DropOldest, ..Quota::default() };
    store.update_dataset(&parts, DatasetSettings { quota, ..DatasetSettings::default() }).unwrap();
    for number in 0..2 {
        let pinned = NewSample { pinned: true, ..sample(number) };
        store.add_sample_and_wait(&parts, pinned).unwrap();
    }
    let refused = store.add_sample_and_wait(&parts, sample(2)).unwrap_err();
    assert!(matches!(refused, StoreError::QuotaExceeded { .. }), "{refused}");
}

#[test]
fn what_is_kept_of_a_picture_follows_the_dataset() {
    let (_folder, store, parts) = fresh();
    let sent = || NewSample { thumbnail: Some(b"small".to_vec()), ..sample(1) };
    for (keep, kept) in [
        (Keep::Images, Some((sample(1).image.unwrap(), false))),
        (Keep::Thumbnails, Some((b"small".to_vec(), true))),
        (Keep::Embeddings, None),
    ] {
        store
            .update_dataset(&parts, DatasetSettings { keep, ..DatasetSettings::default() })
            .unwrap();
        store.add_sample_and_wait(&parts, sent()).unwrap();
        let image = store.image(&parts, &sent().id).unwrap();
        assert_eq!(image.map(|image| (image.bytes, image.thumbnail)), kept, "{keep:?}");
        store.delete_samples(&parts, &Filter::default()).unwrap();
    }
}

#[test]
fn a_large_image_becomes_a_file_and_a_small_one_does_not() {
    let (folder, store, parts) = fresh();
    let large: Vec<u8> = (0..=INLINE_LIMIT).map(|i| (i % 251) as u8).collect();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    assert_eq!(files(&folder.path().join("images")).len(), 0);
    let sent = NewSample { image: Some(large.clone()), ..sample(2) };
    store.add_sample_and_wait(&parts, sent).unwrap();
    assert_eq!(files(&folder.path().join("images")).len(), 1);
    assert_eq!(store.image(&parts, &sample(2).id).unwrap().unwrap().bytes, large);
}

#[test]
fn the_file_of_a_refused_sample_does_not_stay() {
    let (folder, store, parts) = fresh();
    store.add_sample_and_wait(&parts, sample(1)).unwrap();
    let conflicting = NewSample { image: Some(vec![1; INLINE_LIMIT + 1]), ..sample(1) };
    assert!(store.add_sample_and_wait(&parts, conflicting).is_err());
    drop(store);
    assert_eq!(files(&folder.path().join("images")).len(), 0);
}

#[test]
fn a_file_that_a_crash_left_without_a_row_is_swept_at_the_next_start() {
    let (folder, store, parts) = fresh();
    let sent = NewSample { image: Some(vec![1; INLINE_LIMIT + 1]), ..sample(1) };
    store.add_sample_and_wait(&parts, sent).unwrap();
    drop(store);
    let left = folder.path().join("images/00000000000000000000000000000000");
    crate::base::atomic::write(&left, b"left by a crash").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(!left.exists());
    assert!(store.image(&parts, &sample(1).id).unwrap().is_some());
}

#[test]
fn limits_are_kept_by_every_field() {
    let (_folder, store, parts) = fresh();
    let bad = [
        NewSample { id: String::new(), ..sample(1) },
        NewSample { labels: vec!["x".repeat(10_000)], ..sample(1) },
        NewSample { labels: vec![String::new()], ..sample(1) },
        NewSample { weight: f32::NAN, ..sample(1) },
        NewSample { note: "x".repeat(5_000), ..sample(1) },
        NewSample { image: None, embeddings: vec![], ..sample(1) },
        NewSample {
            embeddings: vec![NewEmbedding { backbone: backbone(), values: vec![f32::NAN; WIDTH] }],
            ..sample(1)
        },
    ];
    for sent in bad {
        let refused = store.add_sample_and_wait(&parts, sent.clone()).unwrap_err();
        assert!(matches!(refused, StoreError::Invalid { .. }), "{sent:?}: {refused}");
    }
    assert_eq!(store.dataset_stats(&parts).unwrap().samples, 0);
}

#[test]
fn an_unknown_dataset_is_named_in_the_error() {
    let (_folder, store, _) = fresh();
    let refused = store.add_sample_and_wait(&name("missing"), sample(1)).unwrap_err();
    assert!(refused.to_string().contains("missing"), "{refused}");
}

#[test]
fn a_commit_holds_at_most_64_operations() {
    let (_folder, store, _) = fresh();
    let (sender, receiver) = mpsc::channel();
    let (begun, running) = mpsc::channel();
    let (release, wait) = mpsc::channel::<()>();
    let done = sender.clone();
    store.submit(
        Urgency::Now,
        move |_| {
            begun.send(()).unwrap();
            let _ = wait.recv();
            Ok(())
        },
        move |result| done.send(result).unwrap(),
    );
    // The writer is held within its first operation; all others wait in the queue by then.
    running.recv().unwrap();
    let before = store.commits();
    for _ in 0..200 {
        let done = sender.clone();
        store.submit(Urgency::Batch, |_| Ok(()), move |result| done.send(result).unwrap());
    }
    release.send(()).unwrap();
    (0..201).for_each(|_| receiver.recv().unwrap().unwrap());
    // The held one alone, then 64, 64, 64 and 8.
    assert_eq!(store.commits() - before, 5);
}

#[test]
fn a_commit_follows_the_one_before_after_50_milliseconds_and_not_much_later() {
    let (_folder, store, parts) = fresh();
    for number in 0..5 {
        let began = Instant::now();
        store.add_sample_and_wait(&parts, sample(2 * number)).unwrap();
        let first = Instant::now();
        store.add_sample_and_wait(&parts, sample(2 * number + 1)).unwrap();
        // The COMMIT before was at `began` or later.
        assert!(began.elapsed() >= Duration::from_millis(50), "it did not wait for others");
        // Room for a machine that does ten other things.
        assert!(first.elapsed() < Duration::from_secs(2), "{:?}", first.elapsed());
    }
}

#[test]
fn an_idle_writer_commits_at_once_and_a_busy_one_gathers() {
    let (_folder, store, parts) = fresh();
    let (sender, receiver) = mpsc::channel();
    // The first comes alone; the others arrive within the time that the writer then waits, so they
    // are durable at the same moment, which the order of their receipts cannot tell but the log
    // can: its frames end in one commit record for all of them.
    for number in 0..40 {
        let sender = sender.clone();
        store.add_sample(&parts, sample(number), move |result| sender.send(result).unwrap());
    }
    for _ in 0..40 {
        receiver.recv().unwrap().unwrap();
    }
    let commits = store.commits();
    // Three at most: the dataset was made before, then the first, then the rest.
    assert!(commits <= 4, "{commits} commits for 40 samples");
}

#[test]
fn of_100_000_different_labels_the_dataset_takes_10_000_and_refuses_the_rest_by_field() {
    let (_folder, store, parts) = fresh();
    let labelled = |number: u32| NewSample {
        id: format!("{number}"),
        labels: vec![format!("label {number}")],
        image: None,
        ..sample(number % 60_000)
    };
    let (sender, receiver) = mpsc::channel();
    for number in 0..100_000 {
        let sender = sender.clone();
        store.add_sample(&parts, labelled(number), move |result| sender.send(result).unwrap());
    }
    drop(sender);
    let (mut added, mut refused) = (0, 0);
    for result in receiver {
        match result {
            Ok(_) => added += 1,
            Err(StoreError::Invalid { field, reason }) => {
                assert!(field == "labels" && reason.contains("at most 10000"), "{field}: {reason}");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((added, refused), (10_000, 90_000));
    // A label that is there goes on taking samples.
    let more = NewSample { labels: vec!["label 7".into()], ..labelled(100_000) };
    assert_eq!(store.add_sample_and_wait(&parts, more).unwrap().outcome, Outcome::Added);
    assert_eq!(store.dataset_stats(&parts).unwrap().labels.len(), 10_000);
}

#[test]
fn a_dataset_is_made_with_its_first_sample_and_by_none_that_is_refused() {
    let (_folder, store, _) = fresh();
    let add = |sample| {
        let (sender, receiver) = mpsc::channel();
        store.add_sample_making(&name("new"), sample, move |r| sender.send(r).unwrap());
        receiver.recv().unwrap()
    };
    let long = NewSample { labels: vec!["x".repeat(10_000)], ..sample(1) };
    assert!(add(long).is_err());
    let narrow = NewEmbedding { backbone: backbone(), values: vec![1.0; WIDTH] };
    let wide = NewEmbedding { backbone: backbone(), values: vec![1.0; WIDTH + 1] };
    // Refused on the writer's thread, after the dataset was made there.
    assert!(add(NewSample { embeddings: vec![narrow, wide], ..sample(1) }).is_err());
    assert!(store.dataset(&name("new")).is_err());
    assert_eq!(add(sample(1)).unwrap().outcome, Outcome::Added);
    assert_eq!(store.dataset_stats(&name("new")).unwrap().samples, 1);
}
