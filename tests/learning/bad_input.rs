//! What comes from outside and is wrong: refused with its reason, and nothing else changes.

use graftd::client::ErrorKind;
use graftd::client::messages::{
    DatasetSettings, DeleteSamplesRequest, Embedding, HeadFormat, HeadKind, ImportedHead, JobState,
    NewSample, PromotionPolicy, SampleFilter, Split, StartTrainingRequest, TrainingOptions,
    new_sample,
};
use graftd::heads::{Head, Provenance};

use crate::colours::{COLOURS, predict, push, push_colours, sample, train, training};
use crate::common::daemon::Daemon;

#[tokio::test]
async fn labels_that_are_empty_too_long_or_too_many_are_refused_by_field() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for labels in [vec![String::new()], vec!["x".repeat(10_000)], vec!["x".to_owned(); 100_000]] {
        let bad = NewSample { labels, ..sample("red", COLOURS[0].1, 1) };
        let error = client.add_sample(bad).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        assert!(error.field.starts_with("sample.labels"), "{}", error.field);
    }
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
