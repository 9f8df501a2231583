//! A head that follows its dataset: streaming LDA over the service.

use graftd::base::cancel::Cancel;
use graftd::client::Client;
use graftd::client::messages::{
    DeleteSamplesRequest, Embedding, EvaluateHeadVersionRequest, GetSampleRequest, HeadFormat,
    HeadKind, JobState, Labels, ListSamplesRequest, NewSample, PredictResponse, Promotion,
    PromotionPolicy, SampleFilter, Split, StartTrainingRequest, TrainingOptions,
    UpdateSampleRequest, new_sample,
};
use graftd::heads::{Classifier, Head, Linear};
use graftd::train::{DenseRows, Samples, StreamingLda, balanced_weights, lda};

use crate::colours::{COLOURS, predict, push, push_colours, sample, start, train, training};
use crate::common::daemon::Daemon;

const WHITE: [u8; 3] = [230, 230, 230];

fn following(dataset: &str) -> StartTrainingRequest {
    let options = TrainingOptions {
        kind: HeadKind::Slda.into(),
        follow_dataset: true,
        balance_classes: Some(true),
        ..TrainingOptions::default()
    };
    StartTrainingRequest {
        dataset: dataset.into(),
        options: Some(options),
        ..training(PromotionPolicy::Always)
    }
}

/// A sample that training sees.
fn to_learn(label: &str, colour: [u8; 3], number: u32) -> NewSample {
    NewSample { split: Split::Train.into(), ..sample(label, colour, number) }
}

/// An embedding around a point of its class, in all directions.
fn point(daemon: &Daemon, class: usize, number: usize) -> NewSample {
    let width = daemon.engine.snapshot().backbones["logits"].network.embedding().width;
    let noise = |j: usize| ((number * 37 + j * j * 11 + number * j * 7) % 29) as f32 / 29.0;
    let values = (0..width).map(|j| noise(j) + f32::from(j % 3 == class)).collect();
    let embedding = Embedding { backbone: "logits".into(), values };
    NewSample {
        dataset: "points".into(),
        id: format!("{class}/{number}"),
        labels: vec![format!("class {class}")],
        content: Some(new_sample::Content::Embedding(embedding)),
        split: if number % 5 == 4 { Split::HeldOut } else { Split::Train }.into(),
        ..NewSample::default()
    }
}

/// Waits until a version after `version` is live, and returns its number.
async fn live_after(client: &Client, version: u32) -> u32 {
    let later = async {
        loop {
            let live = client.get_head("colour").await.unwrap().unwrap().active_version;
            if live > version {
                return live;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), later).await.unwrap()
}

/// The training samples of the dataset with their embeddings, read over the wire.
async fn stored(client: &Client) -> Vec<(String, Vec<f32>)> {
    let filter = SampleFilter {
        dataset: "points".into(),
        split: Split::Train.into(),
        ..SampleFilter::default()
    };
    let request =
        ListSamplesRequest { filter: Some(filter), page_size: Some(1000), ..Default::default() };
    let mut samples = Vec::new();
    for sample in client.list_samples(request).await.unwrap().samples {
        let request = GetSampleRequest {
            dataset: "points".into(),
            id: sample.id,
            include_embedding: "logits".into(),
            ..GetSampleRequest::default()
        };
        let embedding = client.get_sample(request).await.unwrap().embedding.unwrap();
        samples.push((sample.labels[0].clone(), embedding.values));
    }
    samples
}

/// Batch LDA of those samples.
fn batch(samples: &[(String, Vec<f32>)]) -> (Vec<String>, Linear) {
    let mut classes: Vec<String> = samples.iter().map(|(label, _)| label.clone()).collect();
    classes.sort();
    classes.dedup();
    let width = samples[0].1.len();
    let values: Vec<f32> = samples.iter().flat_map(|(_, values)| values.clone()).collect();
    let rows = DenseRows::new(&values, width).unwrap();
    let place = |label| classes.iter().position(|class| class == label).unwrap() as u32;
    let labels = samples.iter().map(|(label, _)| place(label)).collect();
    let mut samples = Samples::new(&rows, labels, classes.clone());
    samples.weights = balanced_weights(&samples);
    let shrinkage = lda::Shrinkage::OracleApproximating;
    let transform = StreamingLda::transform();
    (classes, lda::fit(&samples, &transform, shrinkage, &Cancel::default()).unwrap())
}

/// Asserts that the live version is the batch discriminant of what is stored, to 1e-5.
async fn equals_the_batch(client: &Client) {
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    let head = Head::from_bytes(&file).unwrap();
    let (classes, expected) = batch(&stored(client).await);
    assert_eq!(head.classes(), classes);
    let Classifier::Linear(found) = head.classifier() else { panic!("{:?}", head.kind()) };
    let scale = expected.weights().values().iter().fold(1.0_f32, |most, w| most.max(w.abs()));
    let pairs = expected.weights().values().iter().zip(found.weights().values());
    for (a, b) in pairs.chain(expected.bias().iter().zip(found.bias())) {
        assert!((a - b).abs() <= 1e-5 * scale, "{a} {b}");
    }
}

#[tokio::test]
async fn a_head_that_follows_equals_the_batch_after_every_sample_and_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let many = (0..2).flat_map(|class| (0..30).map(move |number| (class, number)));
    let many: Vec<_> = many.map(|(class, number)| point(&daemon, class, number)).collect();
    assert_eq!(push(&client, many).await, (60, vec![]));
    let job = train(&client, following("points")).await;
    assert_eq!((job.state(), job.promoted), (JobState::Succeeded, true), "{job:?}");
    let head = client.get_head("colour").await.unwrap().unwrap();
    assert_eq!((head.active_version, head.followed_dataset.as_str()), (1, "points"));
    equals_the_batch(&client).await;
    // One of a known class, the first two of a new one.
    let mut live = 1;
    for (class, number) in [(1, 100), (2, 0), (2, 1)] {
        client.add_sample(point(&daemon, class, number)).await.unwrap();
        live = live_after(&client, live).await;
        equals_the_batch(&client).await;
    }
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    drop(client);
    daemon.end().await;

    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let again = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    assert_eq!(again, file, "a restart alone makes no version");
    client.add_sample(point(&daemon, 2, 2)).await.unwrap();
    let live = live_after(&client, live).await;
    equals_the_batch(&client).await;
    // A corrected label is learnt anew.
    let change = UpdateSampleRequest {
        dataset: "points".into(),
        id: "2/2".into(),
        labels: Some(Labels { values: vec!["class 0".into()] }),
        ..UpdateSampleRequest::default()
    };
    client.update_sample(change).await.unwrap();
    live_after(&client, live).await;
    equals_the_batch(&client).await;
    // Old versions go after the new one is live.
    let thinned = async {
        while client.get_head("colour").await.unwrap().unwrap().versions.len() > 4 {
            tokio::task::yield_now().await;
        }
    };
    let patience = std::time::Duration::from_mins(1);
    tokio::time::timeout(patience, thinned).await.expect("one of a training and the latest three");
}

#[tokio::test]
async fn a_head_learns_a_dataset_that_was_deleted_and_made_anew() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let points = |from: usize| {
        let both = (0..2).flat_map(move |class| (from..from + 20).map(move |n| (class, n)));
        both.map(|(class, number)| point(&daemon, class, number)).collect::<Vec<_>>()
    };
    assert_eq!(push(&client, points(0)).await, (40, vec![]));
    assert!(train(&client, following("points")).await.promoted);
    // Its statistics are in memory from the first new sample on.
    client.add_sample(point(&daemon, 1, 100)).await.unwrap();
    let live = live_after(&client, 1).await;
    let filter = SampleFilter { dataset: "points".into(), ..SampleFilter::default() };
    let delete = DeleteSamplesRequest { filter: Some(filter), whole_dataset: true, dry_run: false };
    assert_eq!(client.delete_samples(delete).await.unwrap().deleted_count, 41);
    assert_eq!(push(&client, points(200)).await, (40, vec![]));
    let equal = async {
        let mut live = live_after(&client, live).await;
        while learnt(&client).await != 32 {
            live = live_after(&client, live).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), equal).await.unwrap();
    equals_the_batch(&client).await;
}

#[tokio::test]
async fn a_correction_that_a_restart_overtook_is_learnt_after_it_and_a_note_makes_no_version() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let many = (0..2).flat_map(|class| (0..30).map(move |number| (class, number)));
    let many: Vec<_> = many.map(|(class, number)| point(&daemon, class, number)).collect();
    assert_eq!(push(&client, many).await, (60, vec![]));
    assert!(train(&client, following("points")).await.promoted);
    drop(client);
    daemon.end().await;

    // As if the daemon had ended between the correction and its version.
    let store = graftd::store::Store::open(state.path()).unwrap();
    let labels = Some(vec!["class 1".to_owned()]);
    let change = graftd::store::SampleChange { labels, ..Default::default() };
    store.update_sample(&"points".parse().unwrap(), "0/3", change).unwrap();
    drop(store);
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let live = live_after(&client, 1).await;
    equals_the_batch(&client).await;

    // Heads are served in the order of their names: once the later one has learnt, this one would have.
    push_colours(&client, 10).await;
    let other = StartTrainingRequest { head: "other".into(), ..following("colours") };
    train(&client, other).await;
    let change = UpdateSampleRequest {
        dataset: "points".into(),
        id: "0/4".into(),
        note: Some("checked".into()),
        pinned: Some(true),
        ..UpdateSampleRequest::default()
    };
    client.update_sample(change).await.unwrap();
    push(&client, vec![to_learn("red", COLOURS[0].1, 5001)]).await;
    while client.get_head("other").await.unwrap().unwrap().active_version == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.get_head("colour").await.unwrap().unwrap().active_version, live);
}

/// Samples that the live version has learnt.
async fn learnt(client: &Client) -> u64 {
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    Head::from_bytes(&file).unwrap().provenance().samples
}

#[tokio::test]
async fn samples_that_stream_in_change_the_answer_and_it_stays_so_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    train(&client, following("colours")).await;
    let label = |answer: &PredictResponse| answer.predictions[0].label.clone();
    assert_ne!(label(&predict(&client, "colour", WHITE, 5).await), "white");
    push(&client, (0..6).map(|number| to_learn("white", WHITE, number)).collect()).await;
    let changed = async {
        loop {
            let answer = predict(&client, "colour", WHITE, 5).await;
            if label(&answer) == "white" {
                return answer;
            }
        }
    };
    let minute = std::time::Duration::from_mins(1);
    let answer = tokio::time::timeout(minute, changed).await.unwrap();
    assert!(answer.head.as_ref().unwrap().version > 1);
    drop(client);
    daemon.end().await;
    let daemon = start(state.path()).await;
    let again = predict(&daemon.client().await, "colour", WHITE, 5).await;
    assert_eq!(label(&again), "white");
}

#[tokio::test]
async fn a_rollback_stops_the_following_and_activating_the_newest_lets_it_go_on() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, following("colours")).await;
    push(&client, vec![to_learn("red", COLOURS[0].1, 5001)]).await;
    let live = live_after(&client, 1).await;
    let back = client.rollback_head("colour").await.unwrap().unwrap();
    assert_eq!(back.followed_dataset, "");
    push(&client, vec![to_learn("red", COLOURS[0].1, 5002)]).await;
    // Another head that follows learns a later sample: by then the first would have, too.
    let other = StartTrainingRequest { head: "other".into(), ..following("colours") };
    train(&client, other).await;
    push(&client, vec![to_learn("red", COLOURS[0].1, 5003)]).await;
    while client.get_head("other").await.unwrap().unwrap().active_version == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.get_head("colour").await.unwrap().unwrap().active_version, 1);
    client.activate_head_version(&format!("colour@{live}")).await.unwrap();
    live_after(&client, live).await;
}

/// A point of one of two classes that overlap, under a label that may be another class's.
fn overlapping(
    width: usize,
    (class, label): (usize, usize),
    number: usize,
    split: Split,
) -> NewSample {
    let noise = |j: usize| {
        let mut hash = ((number * 2 + class) * 1000 + j + 1) as u64;
        hash = (hash ^ (hash << 7)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (hash >> 40) as f32 / (1 << 24) as f32
    };
    let values = (0..width).map(|j| noise(j) + 0.25 * f32::from(j % 2 == class)).collect();
    let embedding = Embedding { backbone: "logits".into(), values };
    NewSample {
        dataset: "points".into(),
        id: format!("{split:?}/{class}/{number}"),
        labels: vec![format!("class {label}")],
        content: Some(new_sample::Content::Embedding(embedding)),
        split: split.into(),
        ..NewSample::default()
    }
}

#[tokio::test]
async fn many_small_steps_down_do_not_add_up_to_more_than_the_tolerance() {
    const TOLERANCE: f32 = 0.04;
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let width = daemon.engine.snapshot().backbones["logits"].network.embedding().width;
    let point = |labelled, number, split| overlapping(width, labelled, number, split);
    let taught = (0..100).map(|n| point((n % 2, n % 2), n, Split::Train));
    let judging = (0..400).map(|n| point((n % 2, n % 2), 1000 + n, Split::HeldOut));
    push(&client, taught.chain(judging).collect()).await;
    let policy = |head: &str, policy: PromotionPolicy| StartTrainingRequest {
        head: head.into(),
        promotion: Some(Promotion {
            policy: policy.into(),
            tolerance: Some(TOLERANCE),
            class_tolerance: Some(1.0),
        }),
        ..following("points")
    };
    train(&client, policy("careful", PromotionPolicy::IfBetter)).await;
    // Heads are served in the order of their names: once this one has learnt, the other one has, too.
    train(&client, policy("eager", PromotionPolicy::Always)).await;
    let accuracy = async |head: &str| {
        let filter = SampleFilter {
            dataset: "points".into(),
            split: Split::HeldOut.into(),
            ..SampleFilter::default()
        };
        let request = EvaluateHeadVersionRequest { head: head.into(), filter: Some(filter) };
        client.evaluate_head_version(request).await.unwrap().evaluation.unwrap().accuracy
    };
    let first = accuracy("careful").await;
    let live = async |head| client.get_head(head).await.unwrap().unwrap().active_version;
    let mut lowest = first;
    for number in 2000..2050 {
        let before = live("eager").await;
        let wrong = (0..2).map(|class| point((class, 1 - class), number, Split::Train));
        push(&client, wrong.collect()).await;
        while live("eager").await == before {
            tokio::task::yield_now().await;
        }
        lowest = lowest.min(accuracy("careful").await);
    }
    let (careful, eager) = (live("careful").await, accuracy("eager").await);
    println!("{first} at first, {lowest} at least by version {careful}; {eager} without limit");
    assert!(careful > 1 && eager < first - 2.0 * TOLERANCE, "the poison works: {eager}");
    assert!(lowest >= first - TOLERANCE - 1e-6, "{lowest} of {first}");
}
