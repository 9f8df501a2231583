//! A device learns over a real connection: samples in, a head live, rolled back, restarted.

#![cfg(feature = "daemon")]

mod common;

use std::path::Path;

use common::daemon::Daemon;
use graftd::client::messages::{
    CaptureSettings, DatasetSettings, GetSampleRequest, HeadFormat, HeadKind, ImportedHead, Job,
    JobState, Labels, ListSamplesRequest, NewSample, PredictRequest, PredictResponse, Promotion,
    PromotionPolicy, SampleFilter, SampleOrigin, Split, StartTrainingRequest, StreamSamplesRequest,
    TrainingOptions, UpdateSampleRequest, new_sample,
};
use graftd::client::{Client, ErrorKind, Picture};
use graftd::engine::PoolOptions;
use graftd::rpc::ServerOptions;
use graftd::vision::{self, ImageFormat};
use tokio_stream::StreamExt;

const COLOURS: [(&str, [u8; 3]); 3] =
    [("red", [220, 30, 30]), ("green", [30, 220, 30]), ("blue", [30, 30, 220])];

/// A PNG of about this colour; each number gives another one.
fn picture(colour: [u8; 3], number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 % 60
    };
    let pixels = (0..24 * 24).flat_map(|_| colour.map(|channel| channel.saturating_sub(noise())));
    let picture = vision::Picture::new(24, 24, pixels.collect()).unwrap();
    vision::encode(&picture, ImageFormat::Png).unwrap()
}

fn image(bytes: Vec<u8>) -> graftd::client::messages::Image {
    PredictRequest::from(Picture::from_bytes(bytes)).image.unwrap()
}

fn sample(label: &str, colour: [u8; 3], number: u32) -> NewSample {
    NewSample {
        dataset: "colours".into(),
        id: format!("{label}/{number}"),
        labels: vec![label.into()],
        content: Some(new_sample::Content::Image(image(picture(colour, number)))),
        ..NewSample::default()
    }
}

async fn start(state: &Path) -> Daemon {
    let pool = PoolOptions { workers: 2, queue: 64 };
    Daemon::start_in(state, pool, ServerOptions::default()).await
}

/// Streams samples and gives the number of those stored, and the failures.
async fn push(client: &Client, samples: Vec<NewSample>) -> (usize, Vec<(String, ErrorKind)>) {
    let items = samples.into_iter().map(|sample| StreamSamplesRequest {
        correlation_id: sample.id.clone(),
        sample: Some(sample),
    });
    let items: Vec<_> = items.collect();
    let mut answers = client.stream_samples(tokio_stream::iter(items)).await.unwrap();
    let (mut stored, mut failed) = (0, Vec::new());
    while let Some((id, result)) = answers.next().await.unwrap() {
        match result {
            Ok(_) => stored += 1,
            Err(error) => failed.push((id, error.kind)),
        }
    }
    (stored, failed)
}

async fn push_colours(client: &Client, each: u32) {
    let samples = COLOURS.iter().flat_map(|(label, colour)| {
        (0..each).map(move |number| sample(label, *colour, number * 3 + 1000))
    });
    let samples: Vec<_> = samples.collect();
    let count = samples.len();
    assert_eq!(push(client, samples).await, (count, vec![]));
}

fn training(policy: PromotionPolicy) -> StartTrainingRequest {
    StartTrainingRequest {
        head: "colour".into(),
        dataset: "colours".into(),
        promotion: Some(Promotion { policy: policy.into(), ..Promotion::default() }),
        ..StartTrainingRequest::default()
    }
}

/// Starts a training and watches it to its end.
async fn train(client: &Client, request: StartTrainingRequest) -> Job {
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    let mut last = job;
    while let Some(job) = news.next().await {
        last = job.unwrap();
    }
    last
}

async fn predict(client: &Client, head: &str, colour: [u8; 3], number: u32) -> PredictResponse {
    let request = PredictRequest {
        image: Some(image(picture(colour, number))),
        head: head.into(),
        ..PredictRequest::default()
    };
    client.predict(request).await.unwrap()
}

fn probabilities(answer: &PredictResponse) -> Vec<(String, u32)> {
    let bits =
        |p: &graftd::client::messages::Prediction| (p.label.clone(), p.probability.to_bits());
    answer.predictions.iter().map(bits).collect()
}

#[tokio::test]
async fn a_device_learns_rolls_back_and_says_the_same_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 40).await;
    let datasets = client.list_datasets().await.unwrap();
    assert_eq!((datasets[0].name.as_str(), datasets[0].sample_count), ("colours", 120));
    assert_eq!(datasets[0].labels.len(), 3);

    let first = train(&client, training(PromotionPolicy::IfBetter)).await;
    assert_eq!(first.state(), JobState::Succeeded, "{first:?}");
    assert_eq!((first.head_version, first.promoted), (1, true), "{}", first.promotion_message);
    let report = first.report.unwrap();
    assert!(report.held_out.unwrap().accuracy > 0.9 && report.train_count > 60);
    let version_one = predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(version_one.predictions[0].label, "green");
    assert_eq!(version_one.head.as_ref().unwrap().version, 1);

    let options = TrainingOptions { kind: HeadKind::Prototype.into(), ..Default::default() };
    let request =
        StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
    let second = train(&client, request).await;
    assert_eq!((second.head_version, second.promoted), (2, true), "{second:?}");
    let version_two = predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(version_two.head.as_ref().unwrap().version, 2);
    assert_ne!(probabilities(&version_two), probabilities(&version_one));
    let named = predict(&client, "colour@1", COLOURS[1].1, 7).await;
    assert_eq!(probabilities(&named), probabilities(&version_one));

    let head = client.rollback_head("colour").await.unwrap().unwrap();
    assert_eq!(head.active_version, 1);
    let back = predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(probabilities(&back), probabilities(&version_one));
    let refused = client.rollback_head("colour").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition, "{refused}");

    drop(client);
    daemon.end().await;
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let again = predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(again.head.as_ref().unwrap().version, 1);
    assert_eq!(probabilities(&again), probabilities(&version_one));
    let head = client.get_head("colour").await.unwrap().unwrap();
    assert_eq!(head.versions.len(), 2);
    assert_eq!(head.versions[1].classes, ["blue", "green", "red"]);
    assert_eq!(head.versions[1].dataset_snapshot.len(), 64);
    assert_eq!(client.get_job(&first.id).await.unwrap().unwrap().state(), JobState::Succeeded);
}

#[tokio::test]
async fn the_same_training_twice_gives_the_same_bytes() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    for _ in 0..2 {
        let job = train(&client, training(PromotionPolicy::Always)).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    }
    let export = |head| client.export_head_version(head, HeadFormat::Safetensors);
    assert_eq!(export("colour@1").await.unwrap(), export("colour@2").await.unwrap());
}

#[tokio::test]
async fn a_bad_sample_is_refused_with_its_reason_and_the_stream_lives_on() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let good = |number| sample("red", COLOURS[0].1, number);
    let broken = |id: &str| NewSample {
        id: id.into(),
        content: Some(new_sample::Content::Image(image(b"no picture".to_vec()))),
        ..good(0)
    };
    let other_content = NewSample { id: good(1).id, ..sample("red", COLOURS[0].1, 99) };
    let long_label = NewSample { labels: vec!["x".repeat(10_000)], ..good(5) };
    let samples = vec![
        good(1),
        broken("broken"),
        good(2),
        NewSample { dataset: "../x".into(), id: "elsewhere".into(), ..good(3) },
        NewSample { id: "labelled".into(), ..long_label },
        good(4),
    ];
    let (stored, mut failed) = push(&client, samples).await;
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(stored, 3);
    let names: Vec<_> = failed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, ["broken", "elsewhere", "labelled"]);
    assert!(failed.iter().all(|(_, kind)| *kind == ErrorKind::InvalidArgument), "{failed:?}");
    // The same again is acknowledged, the same id with another picture is not.
    assert!(client.add_sample(good(1)).await.unwrap().duplicate);
    let refused = client.add_sample(other_content).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::AlreadyExists, "{refused}");
}

#[tokio::test]
async fn samples_are_listed_corrected_shown_and_deleted() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    push_colours(&client, 4).await;
    let filter = |labels: &[&str]| SampleFilter {
        dataset: "colours".into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..SampleFilter::default()
    };
    let list = |filter| ListSamplesRequest {
        filter: Some(filter),
        page_size: Some(3),
        ..ListSamplesRequest::default()
    };
    let page = client.list_samples(list(filter(&["red", "blue"]))).await.unwrap();
    assert_eq!((page.samples.len(), page.total_count), (3, 8));
    let next =
        ListSamplesRequest { page_token: page.next_page_token, ..list(filter(&["red", "blue"])) };
    let second = client.list_samples(next).await.unwrap();
    assert!(second.samples.iter().all(|s| page.samples.iter().all(|p| p.id != s.id)));
    let one = &page.samples[0];
    assert_eq!((one.width, one.height), (24, 24));
    assert_eq!(one.embedded_backbones, ["logits"], "the default backbone embeds");

    let correct = UpdateSampleRequest {
        dataset: "colours".into(),
        id: one.id.clone(),
        labels: Some(Labels { values: vec!["crimson".into()] }),
        split: Split::HeldOut.into(),
        ..UpdateSampleRequest::default()
    };
    let corrected = client.update_sample(correct).await.unwrap().unwrap();
    assert_eq!(
        (corrected.labels.as_slice(), corrected.split()),
        (&["crimson".to_owned()][..], Split::HeldOut)
    );
    let get = GetSampleRequest {
        dataset: "colours".into(),
        id: one.id.clone(),
        include_image: true,
        include_embedding: "logits".into(),
    };
    let shown = client.get_sample(get).await.unwrap();
    assert!(shown.image.is_some() && !shown.embedding.unwrap().values.is_empty());

    let delete = |filter, whole_dataset| graftd::client::messages::DeleteSamplesRequest {
        filter: Some(filter),
        whole_dataset,
        dry_run: false,
    };
    let refused = client.delete_samples(delete(filter(&[]), false)).await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.field.as_str()),
        (ErrorKind::InvalidArgument, "whole_dataset")
    );
    assert_eq!(
        client.delete_samples(delete(filter(&["red"]), false)).await.unwrap().deleted_count,
        3
    );
    assert_eq!(client.delete_samples(delete(filter(&[]), true)).await.unwrap().deleted_count, 9);
    assert!(client.list_datasets().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_head_moves_to_another_device_with_the_same_backbone() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    let other = Daemon::start().await;
    let there = other.client().await;
    let import = ImportedHead { name: "paint".into(), activate: true, ..ImportedHead::default() };
    let imported = there.import_head_version(import, file).await.unwrap();
    assert_eq!((imported.version, imported.head.unwrap().active_version), (1, 1));
    let here = predict(&client, "colour", COLOURS[2].1, 5).await;
    let moved = predict(&there, "paint", COLOURS[2].1, 5).await;
    assert_eq!(probabilities(&here), probabilities(&moved));
    let refused = there.import_head_version(ImportedHead::default(), b"no head".to_vec()).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn what_cannot_be_learnt_fails_with_a_reason_and_changes_nothing() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    let unknown = client.start_training(training(PromotionPolicy::Always)).await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound, "{unknown}");
    push(&client, (0..10).map(|n| sample("red", COLOURS[0].1, n)).collect()).await;
    let job = train(&client, training(PromotionPolicy::Always)).await;
    assert_eq!(job.state(), JobState::Failed);
    let failure = job.failure.unwrap();
    assert!(failure.message.contains("one class"), "{}", failure.message);
    assert!(client.list_heads("").await.unwrap().is_empty());
}

#[tokio::test]
async fn shuffled_labels_do_not_go_live() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    push_colours(&client, 30).await;
    assert!(train(&client, training(PromotionPolicy::IfBetter)).await.promoted);
    // Every training sample gets the label of another class; those held out stay clean.
    let filter = SampleFilter {
        dataset: "colours".into(),
        split: Split::Train.into(),
        ..SampleFilter::default()
    };
    let request =
        ListSamplesRequest { filter: Some(filter), page_size: Some(1000), ..Default::default() };
    for (number, poisoned) in
        client.list_samples(request).await.unwrap().samples.into_iter().enumerate()
    {
        let label = COLOURS[(number * 7 + number / 3) % 3].0;
        let change = UpdateSampleRequest {
            dataset: "colours".into(),
            id: poisoned.id,
            labels: Some(Labels { values: vec![label.into()] }),
            ..UpdateSampleRequest::default()
        };
        client.update_sample(change).await.unwrap();
    }
    let job = train(&client, training(PromotionPolicy::IfBetter)).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    assert!(!job.promoted, "{}", job.promotion_message);
    assert_eq!(predict(&client, "colour", COLOURS[0].1, 3).await.head.unwrap().version, 1);
    // The version is there and can be activated by a person who knows better.
    let head = client.activate_head_version("colour@2").await.unwrap().unwrap();
    assert_eq!(head.active_version, 2);
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let running = client.start_training(training(PromotionPolicy::Always)).await.unwrap().unwrap();
    let waiting = client.start_training(training(PromotionPolicy::Always)).await.unwrap().unwrap();
    let cancelled = client.cancel_job(&waiting.id).await.unwrap().unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    client.cancel_job(&running.id).await.unwrap();
    let mut news = client.watch_job(&running.id).await.unwrap();
    let mut last = running;
    while let Some(job) = news.next().await {
        last = job.unwrap();
    }
    assert!(matches!(last.state(), JobState::Cancelled | JobState::Succeeded), "{last:?}");
    let unknown = client.get_job("4711").await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn an_unsure_prediction_is_kept_for_review() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let capture = CaptureSettings {
        head: "colour".into(),
        maximum_probability: Some(1.0),
        ..CaptureSettings::default()
    };
    let settings = DatasetSettings { capture: Some(capture), ..DatasetSettings::default() };
    client.configure_dataset("review", settings).await.unwrap();
    predict(&client, "colour", [120, 120, 120], 1).await;
    let filter = SampleFilter {
        dataset: "review".into(),
        origin: SampleOrigin::Capture.into(),
        unlabelled: true,
        ..SampleFilter::default()
    };
    let request = ListSamplesRequest { filter: Some(filter), ..ListSamplesRequest::default() };
    let kept = async {
        loop {
            let page = client.list_samples(request.clone()).await.unwrap();
            if let Some(sample) = page.samples.into_iter().next() {
                return sample;
            }
            tokio::task::yield_now().await;
        }
    };
    let kept = tokio::time::timeout(std::time::Duration::from_secs(20), kept).await.unwrap();
    let captured = kept.captured.unwrap();
    assert_eq!(captured.head, "colour@1");
    assert!(!captured.label.is_empty() && captured.probability > 0.0);
}

#[tokio::test]
async fn a_report_names_the_samples_that_are_to_be_put_right() {
    let daemon = start(tempfile::tempdir().unwrap().path()).await;
    let client = daemon.client().await;
    let unknown = client.get_dataset_report("colours", "").await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound, "{unknown}");
    push_colours(&client, 25).await;
    let grey = vision::Picture::new(24, 24, vec![128; 24 * 24 * 3]).unwrap();
    let grey = vision::encode(&grey, ImageFormat::Png).unwrap();
    let odd = vec![
        // A blue picture under a wrong label, the same picture twice, and one of a single colour.
        NewSample { id: "wrong".into(), ..sample("red", COLOURS[2].1, 77) },
        NewSample { id: "copy".into(), ..sample("green", COLOURS[1].1, 1000) },
        NewSample {
            id: "grey".into(),
            content: Some(new_sample::Content::Image(image(grey))),
            ..sample("green", COLOURS[1].1, 0)
        },
    ];
    assert_eq!(push(&client, odd).await.0, 3);
    let report = client.get_dataset_report("colours", "").await.unwrap();
    let dataset = report.dataset.unwrap();
    assert_eq!((dataset.sample_count, dataset.labels.len()), (78, 3));
    assert!((report.imbalance - 27.0 / 25.0).abs() < 1e-6, "{}", report.imbalance);
    assert!(report.accuracy.unwrap() > 0.9);
    let wrong = report.suspicions.iter().find(|found| found.id == "wrong").unwrap();
    assert_eq!((wrong.label.as_str(), wrong.suggested_label.as_str()), ("red", "blue"));
    assert!(wrong.label_probability < 0.5);
    let copies = report.duplicates.iter().find(|group| group.ids.contains(&"copy".to_owned()));
    assert!(copies.unwrap().ids.contains(&"green/0".to_owned()), "{copies:?}");
    let poor: Vec<_> = report.poor_images.iter().map(|found| found.id.as_str()).collect();
    assert!(poor.contains(&"grey"), "{poor:?}");
    assert!(!report.advice.is_empty());
}
