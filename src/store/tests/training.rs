//! Reading embeddings back.

use half::f16;

use super::super::*;
use super::*;

fn read(store: &Store, parts: &Name, split: Option<Split>, rows: usize) -> Vec<EmbeddingBlock> {
    store.embeddings(parts, backbone(), split, rows).unwrap().map(Result::unwrap).collect()
}

#[test]
fn blocks_have_the_asked_size_and_give_back_the_rounded_values_in_order() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..25).map(sample));
    let blocks = read(&store, &parts, None, 10);
    assert_eq!(blocks.iter().map(|b| b.samples.len()).collect::<Vec<_>>(), [10, 10, 5]);
    let values: Vec<f16> = blocks.iter().flat_map(|block| block.values.clone()).collect();
    let expected: Vec<f16> = (0..25)
        .flat_map(|number| sample(number).embeddings.remove(0).values)
        .map(f16::from_f32)
        .collect();
    assert_eq!(values, expected);
    assert_eq!(blocks[2].samples[4].id, sample(24).id);
}

#[test]
fn training_never_sees_what_is_held_out() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..100).map(sample));
    let ids = |split| -> Vec<String> {
        let blocks = read(&store, &parts, Some(split), 7);
        blocks.into_iter().flat_map(|block| block.samples).map(|sample| sample.id).collect()
    };
    let (train, held_out) = (ids(Split::Train), ids(Split::HeldOut));
    assert_eq!(train.len() + held_out.len(), 100);
    assert!(!held_out.is_empty() && held_out.iter().all(|id| !train.contains(id)));
    assert_eq!(held_out.len() as u64, store.dataset_stats(&parts).unwrap().held_out);
}

#[test]
fn two_backbones_keep_their_embeddings_apart() {
    let (_folder, store, parts) = fresh();
    let other = Digest::of(b"another backbone");
    add_all(&store, &parts, (0..3).map(sample));
    let missing = store.samples_without_embedding(&parts, other, None, 10).unwrap();
    assert_eq!(missing.len(), 3);
    let bytes = store.dataset_stats(&parts).unwrap().bytes;
    let wide = NewEmbedding { backbone: other, values: vec![1.0; 2 * WIDTH] };
    store.put_embedding(&parts, &missing[1].id, missing[1].content, &wide).unwrap();
    assert_eq!(store.samples_without_embedding(&parts, other, None, 10).unwrap().len(), 2);
    assert_eq!(store.samples_without_embedding(&parts, backbone(), None, 10).unwrap().len(), 0);
    assert_eq!(store.embedding_of(&missing[1], other).unwrap().unwrap(), wide.values);
    assert_eq!(store.backbones_of(&missing[1]).unwrap(), [backbone(), other]);
    assert_eq!(store.backbones_of(&missing[0]).unwrap(), [backbone()]);
    let mut blocks = store.embeddings(&parts, other, None, 10).unwrap();
    assert_eq!(blocks.width(), 2 * WIDTH);
    assert_eq!(blocks.next().unwrap().unwrap().samples[0].id, missing[1].id);
    assert_eq!(read(&store, &parts, None, 10)[0].samples.len(), 3);
    assert_eq!(store.dataset_stats(&parts).unwrap().bytes, bytes + 4 * WIDTH as u64);
    // Once more replaces it and counts nothing twice.
    store.put_embedding(&parts, &missing[1].id, missing[1].content, &wide).unwrap();
    assert_eq!(store.dataset_stats(&parts).unwrap().bytes, bytes + 4 * WIDTH as u64);
}

#[test]
fn a_snapshot_changes_with_a_label_and_with_nothing_else() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..3).map(sample));
    let before = store.snapshot(&parts).unwrap();
    assert_eq!(before.samples, 3);
    let remark = SampleChange { note: Some("checked".into()), ..SampleChange::default() };
    store.update_sample(&parts, &sample(1).id, remark).unwrap();
    assert_eq!(store.snapshot(&parts).unwrap(), before);
    let relabel = SampleChange { labels: Some(vec!["gear".into()]), ..SampleChange::default() };
    store.update_sample(&parts, &sample(1).id, relabel).unwrap();
    assert_ne!(store.snapshot(&parts).unwrap().digest, before.digest);
}

#[test]
fn an_embedding_by_a_further_backbone_keeps_to_the_quota_and_drops_no_sample() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest] {
        let (_folder, store, parts) = fresh();
        add_all(&store, &parts, (0..3).map(sample));
        let stored = store.dataset_stats(&parts).unwrap().bytes;
        let room = 2 * WIDTH as u64;
        let quota = Quota { max_bytes: Some(stored + room), when_full, ..Quota::default() };
        store.update_dataset(&parts, DatasetSettings { quota, ..Default::default() }).unwrap();
        let other =
            NewEmbedding { backbone: Digest::of(b"another backbone"), values: vec![1.0; WIDTH] };
        let samples = store.samples(&parts, &Filter::default(), None, 10).unwrap().samples;
        let put = |sample: &Sample| store.put_embedding(&parts, &sample.id, sample.content, &other);
        put(&samples[0]).unwrap();
        let refused = put(&samples[1]).unwrap_err();
        assert!(matches!(refused, StoreError::QuotaExceeded { .. }), "{refused}");
        put(&samples[0]).unwrap(); // one that is there is replaced
        let stats = store.dataset_stats(&parts).unwrap();
        assert_eq!((stats.samples, stats.bytes), (3, stored + room));
    }
}

#[test]
fn embeddings_that_nobody_waits_for_share_their_commits() {
    let (_folder, store, parts) = fresh();
    add_all(&store, &parts, (0..50).map(sample));
    let other = Digest::of(b"another backbone");
    let embedding = NewEmbedding { backbone: other, values: vec![1.0; WIDTH] };
    let before = store.stats().unwrap().commits;
    let (sender, receiver) = std::sync::mpsc::channel();
    for found in store.samples_without_embedding(&parts, other, None, 100).unwrap() {
        let sender = sender.clone();
        let done = move |outcome| sender.send(outcome).unwrap();
        store.put_embedding_then(&parts, &found.id, found.content, &embedding, done);
    }
    drop(sender);
    let outcomes: Vec<_> = receiver.into_iter().collect();
    assert!(outcomes.len() == 50 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(store.stats().unwrap().commits - before < 25);
    assert!(store.samples_without_embedding(&parts, other, None, 100).unwrap().is_empty());
}
