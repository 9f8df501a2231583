//! Samples come in, are shown, corrected, examined and deleted.

use graftd::client::ErrorKind;
use graftd::client::messages::{
    CaptureSettings, DatasetSettings, DeleteSamplesRequest, GetSampleRequest, Labels,
    ListSamplesRequest, NewSample, PromotionPolicy, QuotaPolicy, Retention, SampleFilter,
    SampleOrigin, Split, StartTrainingRequest, UpdateSampleRequest, image::Source, new_sample,
};
use graftd::vision::{self, ImageFormat};

use crate::colours::{COLOURS, image, predict, push, push_colours, sample, train, training};
use crate::common::daemon::Daemon;

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
async fn an_unsure_prediction_is_kept_for_review() {
    let daemon = Daemon::start_roomy().await;
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
    let daemon = Daemon::start_roomy().await;
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
    assert!(report.accuracy.unwrap() > 0.7, "{:?}", report.accuracy);
    let wrong = report.suspicions.iter().find(|found| found.id == "wrong");
    let wrong = wrong.unwrap_or_else(|| panic!("{:?}", report.suspicions));
    assert_eq!((wrong.label.as_str(), wrong.suggested_label.as_str()), ("red", "blue"));
    assert!(wrong.label_probability < 0.5);
    let copies = report.duplicates.iter().find(|group| group.ids.contains(&"copy".to_owned()));
    assert!(copies.unwrap().ids.contains(&"green/1000".to_owned()), "{copies:?}");
    let poor: Vec<_> = report.poor_images.iter().map(|found| found.id.as_str()).collect();
    assert!(poor.contains(&"grey"), "{poor:?}");
    assert!(!report.advice.is_empty());
}

#[tokio::test]
async fn a_dataset_that_keeps_thumbnails_or_embeddings_alone_can_be_learnt_and_shows_no_more() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let large = vision::Picture::new(640, 320, [200, 40, 40].repeat(640 * 320)).unwrap();
    let large = vision::encode(&large, ImageFormat::Png).unwrap();
    for retention in [Retention::Thumbnails, Retention::Embeddings] {
        let settings = DatasetSettings { retention: retention.into(), ..Default::default() };
        client.configure_dataset("colours", settings).await.unwrap();
        push_colours(&client, 10).await;
        let content = Some(new_sample::Content::Image(image(large.clone())));
        let sent = NewSample { id: "large".into(), content, ..sample("red", COLOURS[0].1, 0) };
        client.add_sample(sent).await.unwrap();
        let get = GetSampleRequest {
            dataset: "colours".into(),
            id: "large".into(),
            include_image: true,
            include_embedding: "logits".into(),
        };
        let shown = client.get_sample(get).await.unwrap();
        assert!(shown.embedding.is_some());
        let stored = shown.sample.unwrap();
        assert_eq!((stored.retention(), stored.width, stored.height), (retention, 640, 320));
        let kept = shown.image.and_then(|image| image.source);
        match (retention, kept) {
            (Retention::Thumbnails, Some(Source::Encoded(bytes))) => {
                let small = vision::decode(&bytes, &vision::Limits::default()).unwrap();
                assert_eq!((small.width, small.height), (160, 80));
            }
            (Retention::Embeddings, None) => {}
            (other, kept) => panic!("{other:?}: {}", kept.is_some()),
        }
        let job = train(&client, training(PromotionPolicy::Always)).await;
        assert!(job.promoted, "{job:?}");
        // Another backbone has nothing to look at, and says so.
        let elsewhere = StartTrainingRequest {
            backbone: "features".into(),
            ..training(PromotionPolicy::Always)
        };
        let failure = train(&client, elsewhere).await.failure.unwrap();
        assert!(failure.message.contains("embedding by features"), "{}", failure.message);
        let all = DeleteSamplesRequest {
            filter: Some(SampleFilter { dataset: "colours".into(), ..Default::default() }),
            whole_dataset: true,
            dry_run: false,
        };
        client.delete_samples(all).await.unwrap();
    }
}

#[tokio::test]
async fn the_share_of_samples_that_is_held_out_is_what_the_dataset_is_set_to() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let red = |number| sample("red", COLOURS[0].1, number);
    for (share, held_out) in [(Some(1.0), 10), (Some(0.0), 10), (None, 10)] {
        let settings = DatasetSettings { held_out_share: share, ..DatasetSettings::default() };
        let set = client.configure_dataset("colours", settings).await.unwrap();
        let told = set.and_then(|dataset| dataset.settings).unwrap().held_out_share;
        assert_eq!(told, Some(share.unwrap_or(0.2)));
        if let Some(share) = share {
            for number in 0..10 {
                let number = number + 10 * u32::from(share == 0.0);
                client.add_sample(red(number)).await.unwrap();
            }
        }
        let datasets = client.list_datasets().await.unwrap();
        let found: u64 = datasets[0].labels.iter().map(|label| label.held_out_count).sum();
        assert_eq!(found, held_out, "those stored before keep their part");
    }
}

#[tokio::test]
async fn a_quota_refuses_with_its_limit_or_drops_the_oldest_that_is_not_pinned() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let configure = async |policy: QuotaPolicy| {
        let settings = DatasetSettings {
            maximum_samples: 3,
            quota_policy: policy.into(),
            ..DatasetSettings::default()
        };
        client.configure_dataset("colours", settings).await.unwrap();
    };
    configure(QuotaPolicy::Refuse).await;
    let red = |number| sample("red", COLOURS[0].1, number);
    client.add_sample(NewSample { pinned: true, ..red(0) }).await.unwrap();
    for number in 1..3 {
        client.add_sample(red(number)).await.unwrap();
    }
    let error = client.add_sample(red(3)).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::ResourceExhausted, "QUOTA"));
    assert!(error.message.contains("3 samples") && error.retry_after.is_some(), "{error}");
    configure(QuotaPolicy::DropOldest).await;
    client.add_sample(red(3)).await.unwrap();
    let filter = SampleFilter { dataset: "colours".into(), ..SampleFilter::default() };
    let request = ListSamplesRequest { filter: Some(filter), ..ListSamplesRequest::default() };
    let left = client.list_samples(request).await.unwrap().samples;
    let left: Vec<_> = left.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(left, ["red/0", "red/2", "red/3"]);
}

#[tokio::test]
async fn a_photograph_whose_size_was_not_noted_is_measured_before_it_is_called_tiny() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 5).await;
    for (id, side) in [("large", 100), ("small", 20)] {
        let squares = (0..side * side).map(|i| (i % side / 4 + i / side / 4) % 2 * 200);
        let pixels = squares.flat_map(|grey| [grey as u8; 3]).collect();
        let picture = vision::Picture::new(side, side, pixels).unwrap();
        let stored = graftd::store::NewSample {
            id: id.into(),
            labels: vec!["red".into()],
            image: Some(vision::encode(&picture, ImageFormat::Png).unwrap()),
            ..Default::default()
        };
        let store = daemon.learning.store();
        store.add_sample_and_wait(&"colours".parse().unwrap(), stored).unwrap();
    }
    let report = client.get_dataset_report("colours", "").await.unwrap();
    let poor: Vec<_> = report.poor_images.iter().map(|found| found.id.as_str()).collect();
    assert!(poor.contains(&"small") && !poor.contains(&"large"), "{poor:?}");
}

#[tokio::test]
async fn one_photograph_that_does_not_decode_keeps_no_head_from_learning_and_no_report_from_coming()
{
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    let stored = graftd::store::NewSample {
        id: "broken".into(),
        labels: vec!["red".into()],
        image: Some(b"no picture".to_vec()),
        ..Default::default()
    };
    let store = daemon.learning.store();
    store.add_sample_and_wait(&"colours".parse().unwrap(), stored).unwrap();
    for backbone in ["logits", "features"] {
        let request = StartTrainingRequest {
            head: backbone.into(),
            backbone: backbone.into(),
            ..training(PromotionPolicy::Always)
        };
        let job = train(&client, request).await;
        assert!(job.promoted, "{job:?}");
    }
    let report = client.get_dataset_report("colours", "").await.unwrap();
    assert_eq!(report.dataset.unwrap().sample_count, 31);
}
