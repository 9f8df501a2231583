//! What comes from outside and is wrong: refused with its reason, and nothing else changes.

use graftd::client::ErrorKind;
use graftd::client::messages::{
    DatasetSettings, DeleteSamplesRequest, Embedding, EvaluateHeadVersionRequest, HeadFormat,
    HeadKind, ImportedHead, JobState, Labels, NewSample, PredictRequest, PromotionPolicy,
    SampleFilter, Split, StartTrainingRequest, TrainingOptions, UpdateSampleRequest, new_sample,
};
use graftd::heads::{Head, Provenance};
use graftd::vision::Preset;
use tokio_stream::StreamExt as _;

use crate::colours::{
    COLOURS, image, picture, predict, push, push_colours, sample, train, training,
};
use crate::common::daemon::{Daemon, tiny_with};

#[tokio::test]
async fn labels_that_are_empty_too_long_or_too_many_are_refused_by_field() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    // What heads cannot learn is not stored either.
    let around = ["paper ", " paper", "a\nb"].map(|label| vec![label.to_owned()]);
    let empty_or_long = [vec![String::new()], vec!["x".repeat(10_000)]];
    let many = [vec!["x".to_owned(); 100_000]];
    client.add_sample(sample("red", COLOURS[0].1, 2)).await.unwrap();
    for labels in around.into_iter().chain(empty_or_long).chain(many) {
        let change = UpdateSampleRequest {
            dataset: "colours".into(),
            id: "red/2".into(),
            labels: Some(Labels { values: labels.clone() }),
            ..UpdateSampleRequest::default()
        };
        let error = client.update_sample(change).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        let dataset = "ghost".into();
        let bad = NewSample { dataset, labels, ..sample("red", COLOURS[0].1, 1) };
        let error = client.add_sample(bad).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        assert!(error.field.starts_with("sample.labels"), "{}", error.field);
    }
    let datasets = client.list_datasets().await.unwrap();
    assert_eq!(datasets.len(), 1, "made by a refused sample: {datasets:?}");
    client.add_sample(sample("red", COLOURS[0].1, 1)).await.unwrap();
    let change = UpdateSampleRequest {
        dataset: "colours".into(),
        id: "red/1".into(),
        labels: Some(Labels { values: vec!["x".into(), "x".into()] }),
        ..UpdateSampleRequest::default()
    };
    let error = client.update_sample(change).await.unwrap_err();
    assert_eq!(error.field, "labels.values[1]", "{error}");
}

#[tokio::test]
async fn an_embedding_with_a_nan_or_of_another_width_is_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let width = daemon.engine.snapshot().backbones["logits"].network.embedding().width;
    let bad = |values: Vec<f32>| {
        let embedding = Embedding { backbone: "logits".into(), values };
        let content = Some(new_sample::Content::Embedding(embedding));
        NewSample { content, ..sample("red", COLOURS[0].1, 1) }
    };
    let mut nan = vec![0.5; width];
    nan[width - 1] = f32::NAN;
    for values in [nan, vec![0.5; width + 1], vec![]] {
        let error = client.add_sample(bad(values)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        assert!(error.field.starts_with("sample.embedding"), "{}: {error}", error.field);
    }
    assert!(!client.add_sample(bad(vec![0.5; width])).await.unwrap().duplicate);
}

#[tokio::test]
async fn one_sample_a_class_is_learnt_as_well_as_it_can_be() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let one = |(label, colour): &(&str, [u8; 3])| NewSample {
        split: Split::Train.into(),
        ..sample(label, *colour, 3)
    };
    push(&client, COLOURS.iter().map(one).collect()).await;
    for kind in [HeadKind::Unspecified, HeadKind::Prototype, HeadKind::Slda, HeadKind::Mlp] {
        let options = TrainingOptions { kind: kind.into(), ..TrainingOptions::default() };
        let request =
            StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
        let job = train(&client, request).await;
        assert_eq!(job.state(), JobState::Succeeded, "{kind:?}: {:?}", job.failure);
        let answer = predict(&client, "colour", COLOURS[1].1, 4).await;
        assert!(answer.predictions.iter().all(|p| p.probability.is_finite()), "{kind:?}");
    }
    let report = client.get_dataset_report("colours", "").await.unwrap();
    assert_eq!((report.small_classes.len(), report.accuracy), (3, None));
}

#[tokio::test]
async fn training_on_nothing_or_on_what_was_deleted_meanwhile_fails_with_a_reason() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    client.configure_dataset("colours", DatasetSettings::default()).await.unwrap();
    let empty = train(&client, training(PromotionPolicy::Always)).await;
    assert_eq!(empty.state(), JobState::Failed);
    assert!(empty.failure.unwrap().message.contains("no labelled samples"));

    push_colours(&client, 10).await;
    // The second waits behind the first, and its dataset goes before its turn.
    let first = client.start_training(training(PromotionPolicy::Always)).await.unwrap().unwrap();
    let second = client.start_training(training(PromotionPolicy::Always)).await.unwrap().unwrap();
    let filter = SampleFilter { dataset: "colours".into(), ..SampleFilter::default() };
    let delete = DeleteSamplesRequest { filter: Some(filter), whole_dataset: true, dry_run: false };
    client.delete_samples(delete).await.unwrap();
    for job in [first, second] {
        let ended = crate::jobs::end_of(&client, &job).await;
        let failed = ended.state() == JobState::Failed && ended.failure.is_some();
        assert!(failed || ended.state() == JobState::Succeeded, "{ended:?}");
    }
    let late = client.start_training(training(PromotionPolicy::Always)).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::NotFound, "{late}");
}

#[tokio::test]
async fn a_dataset_that_goes_while_it_is_embedded_ends_the_training_and_the_next_one_succeeds() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    let busy = crate::jobs::occupy(&daemon);
    // On a backbone that has seen none of the samples: it waits for a worker.
    let request =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    while news.next().await.unwrap().unwrap().phase != "embedding" {}
    let filter = SampleFilter { dataset: "colours".into(), ..SampleFilter::default() };
    let delete = DeleteSamplesRequest { filter: Some(filter), whole_dataset: true, dry_run: false };
    assert_eq!(client.delete_samples(delete).await.unwrap().deleted_count, 30);
    drop(busy);
    let ended = crate::jobs::end_of(&client, &job).await;
    assert_eq!(ended.state(), JobState::Failed, "{ended:?}");
    let message = ended.failure.unwrap().message;
    assert!(message.contains("no dataset colours"), "{message}");
    assert!(client.list_heads("").await.unwrap().is_empty());
    push_colours(&client, 10).await;
    let again = train(&client, training(PromotionPolicy::Always)).await;
    assert_eq!(again.state(), JobState::Succeeded, "{again:?}");
}

#[tokio::test]
async fn more_labels_than_can_be_learnt_fail_with_their_number_and_are_reported() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let width = daemon.engine.snapshot().backbones["logits"].network.embedding().width;
    let labelled = |number: u32| {
        let values = (0..width as u32).map(|i| ((i * 31 + number * 17) % 101) as f32 / 101.0);
        let embedding = Embedding { backbone: "logits".into(), values: values.collect() };
        NewSample {
            dataset: "many".into(),
            id: number.to_string(),
            labels: vec![format!("label {number}")],
            content: Some(new_sample::Content::Embedding(embedding)),
            split: Split::Train.into(),
            ..NewSample::default()
        }
    };
    assert_eq!(push(&client, (0..1001).map(labelled).collect()).await, (1001, vec![]));
    let many = StartTrainingRequest { dataset: "many".into(), ..training(PromotionPolicy::Always) };
    let job = train(&client, many).await;
    assert_eq!(job.state(), JobState::Failed, "{job:?}");
    let message = job.failure.unwrap().message;
    assert!(message.contains("1001 different labels") && message.contains("at most 1000"));
    let report = client.get_dataset_report("many", "").await.unwrap();
    assert!(report.advice[0].contains("at most 1000"), "{:?}", report.advice);
    assert_eq!(report.dataset.unwrap().labels.len(), 1001);
    // A head that knows none of these labels is judged on them all the same.
    let filter = SampleFilter {
        dataset: "many".into(),
        split: Split::Train.into(),
        ..SampleFilter::default()
    };
    let request = EvaluateHeadVersionRequest { head: "colour".into(), filter: Some(filter) };
    let judged = client.evaluate_head_version(request).await.unwrap().evaluation.unwrap();
    assert_eq!((judged.sample_count, judged.accuracy), (1001, 0.0));
}

#[tokio::test]
async fn a_head_of_another_backbone_is_not_taken() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    let head = Head::from_bytes(&file).unwrap();
    let provenance = Provenance { backbone_sha256: "0".repeat(64), ..head.provenance().clone() };
    let foreign = head.with_provenance(provenance).to_bytes().unwrap();
    let error = client.import_head_version(ImportedHead::default(), foreign).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    assert!(error.message.contains(&"0".repeat(64)), "{error}");
}

#[tokio::test]
async fn a_head_of_another_preprocessing_is_neither_taken_nor_answers() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    client.import_head_version(ImportedHead::default(), file.clone()).await.unwrap();
    // The same network is added anew, and sees pixels from -1 to 1 from now on.
    let change = |snapshot: &mut graftd::engine::Snapshot| {
        let changed = tiny_with("logits", 2, Preset::Tf);
        snapshot.backbones.insert(changed.name.clone(), changed);
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(change).unwrap();
    let error = client.import_head_version(ImportedHead::default(), file).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    assert!(error.message.contains("preprocessing"), "{error}");
    let request = PredictRequest {
        image: Some(image(picture(COLOURS[0].1, 1))),
        head: "colour".into(),
        ..PredictRequest::default()
    };
    let error = client.predict(request).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    assert!(error.message.contains("train it again"), "{error}");
}
