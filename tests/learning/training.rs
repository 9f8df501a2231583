//! Heads are trained, judged, made live, rolled back and moved.

use graftd::client::ErrorKind;
use graftd::client::messages::{
    EvaluateHeadVersionRequest, FeatureTransform, HeadFormat, HeadKind, ImportedHead, JobState,
    Labels, ListSamplesRequest, NewSample, PredictRequest, PromotionPolicy, SampleFilter, Split,
    StartTrainingRequest, TrainingOptions, UpdateSampleRequest,
};

use crate::colours::{
    COLOURS, image, picture, predict, probabilities, push, push_colours, sample, start, train,
    training,
};
use crate::common::daemon::Daemon;

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
    // Only the live version stays in memory; another is read when it is asked for.
    let in_memory = daemon.engine.snapshot().heads["colour"]
        .versions
        .values()
        .filter(|version| version.memory().is_some())
        .count();
    assert_eq!(in_memory, 1);
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
async fn a_running_request_ends_on_the_version_that_it_began_with_and_names_it() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    for _ in 0..2 {
        train(&client, training(PromotionPolicy::Always)).await;
    }
    let busy = crate::jobs::occupy(&daemon);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { predict(&client, "colour", COLOURS[1].1, 7).await })
    };
    daemon.queued(1).await;
    client.rollback_head("colour").await.unwrap();
    drop(busy);
    assert_eq!(waiting.await.unwrap().head.unwrap().version, 2);
    assert_eq!(predict(&client, "colour", COLOURS[1].1, 7).await.head.unwrap().version, 1);
}

#[tokio::test]
async fn the_same_training_twice_gives_the_same_bytes() {
    let daemon = Daemon::start_roomy().await;
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
async fn a_head_moves_to_another_device_with_the_same_backbone() {
    let daemon = Daemon::start_roomy().await;
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
    let daemon = Daemon::start_roomy().await;
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
    let daemon = Daemon::start_roomy().await;
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
async fn a_version_on_another_backbone_is_compared_on_the_same_photographs_or_not_at_all() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 30).await;
    assert!(train(&client, training(PromotionPolicy::IfBetter)).await.promoted);
    let elsewhere = || StartTrainingRequest {
        backbone: "features".into(),
        ..training(PromotionPolicy::IfBetter)
    };
    let second = train(&client, elsewhere()).await;
    let compared = second.promotion_message.contains("the live version's");
    assert!(compared && second.promoted, "{}", second.promotion_message);
    let report = second.report.unwrap();
    let judged = report.held_out.unwrap().sample_count;
    assert_eq!(report.live.unwrap().sample_count, judged);
    // What is live cannot be judged without its backbone: then nothing replaces it by itself.
    client.activate_head_version("colour@1").await.unwrap();
    let unload = |snapshot: &mut graftd::engine::Snapshot| {
        snapshot.backbones.remove("logits");
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(unload).unwrap();
    let third = train(&client, elsewhere()).await;
    assert_eq!(third.state(), JobState::Succeeded, "{third:?}");
    let message = third.promotion_message;
    assert!(!third.promoted && message.contains("cannot be judged"), "{message}");
}

#[tokio::test]
async fn every_option_of_a_training_is_kept_to_and_remembered() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let options = TrainingOptions {
        kind: HeadKind::Softmax.into(),
        folds: Some(4),
        balance_classes: Some(false),
        label_smoothing: 0.1,
        transform: FeatureTransform::Standardize.into(),
        regularization: Some(100.0),
        augmentations: 2,
        ..TrainingOptions::default()
    };
    let request = |options: &TrainingOptions| StartTrainingRequest {
        options: Some(*options),
        ..training(PromotionPolicy::Always)
    };
    let job = train(&client, request(&options)).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    let report = job.report.unwrap();
    // Copies are learnt and never counted or judged.
    let dataset = client.list_datasets().await.unwrap().remove(0);
    let trained: u64 = dataset.labels.iter().map(|label| label.train_count).sum();
    assert_eq!(report.train_count, trained);
    assert_eq!(report.folds.len(), 4);
    let mean = report.folds.iter().sum::<f32>() / 4.0;
    assert!((mean - report.cross_validation_accuracy).abs() < 0.05, "{:?}", report.folds);
    assert!(report.embedding_seconds > 0.0);
    let head = client.get_head("colour").await.unwrap().unwrap();
    let kept = head.versions[0].options.unwrap();
    assert_eq!(
        kept,
        TrainingOptions {
            neighbours: None,
            hidden_width: Some(128),
            false_alarm_rate: Some(0.05),
            learning_curve: Some(true),
            ..options
        }
    );

    // The same again gives the same bytes, without the copies others.
    train(&client, request(&options)).await;
    train(&client, request(&TrainingOptions { augmentations: 0, ..options })).await;
    let export = |head| client.export_head_version(head, HeadFormat::Safetensors);
    let first = export("colour@1").await.unwrap();
    assert_eq!(first, export("colour@2").await.unwrap());
    assert_ne!(first, export("colour@3").await.unwrap());
}

#[tokio::test]
async fn a_sample_may_carry_two_labels_and_a_multi_label_head_finds_both() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 30).await;
    let yellow = |number| NewSample {
        id: format!("yellow/{number}"),
        labels: vec!["red".into(), "green".into()],
        ..sample("red", [220, 220, 30], number)
    };
    assert_eq!(push(&client, (0..30).map(yellow).collect()).await.0, 30);
    // A head whose classes exclude each other cannot learn from such samples, and says so.
    let refused = train(&client, training(PromotionPolicy::Always)).await;
    let message = refused.failure.unwrap().message;
    assert!(message.contains("several labels") && message.contains("multi-label"), "{message}");

    let options = TrainingOptions { kind: HeadKind::MultiLabel.into(), ..Default::default() };
    let request =
        StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::IfBetter) };
    let job = train(&client, request).await;
    assert_eq!((job.state(), job.promoted), (JobState::Succeeded, true), "{job:?}");
    let report = job.report.unwrap();
    let counts: Vec<u64> = report.learning_curve.iter().map(|point| point.train_count).collect();
    assert!(counts.len() == 4 && counts.is_sorted(), "{:?}", report.learning_curve);
    let held_out = report.held_out.unwrap();
    assert!(held_out.accuracy > 0.5 && held_out.confusion_matrix.is_empty(), "{held_out:?}");
    let answer = predict(&client, "colour", [220, 220, 30], 99).await;
    let probability = |label: &str| {
        answer.predictions.iter().find(|found| found.label == label).unwrap().probability
    };
    assert!(probability("red") > 0.5 && probability("green") > 0.5, "{answer:?}");
    assert!(probability("blue") < 0.5, "{answer:?}");
}

#[tokio::test]
async fn a_training_without_learning_curve_measures_none_and_says_so_of_its_head() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    for (number, kind) in [HeadKind::Prototype, HeadKind::MultiLabel].into_iter().enumerate() {
        let options = TrainingOptions {
            kind: kind.into(),
            learning_curve: Some(false),
            ..TrainingOptions::default()
        };
        let request =
            StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
        let job = train(&client, request).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        let report = job.report.unwrap();
        assert!(report.learning_curve.is_empty() && report.learning_curve_message.is_empty());
        let head = client.get_head("colour").await.unwrap().unwrap();
        assert_eq!(head.versions[number].options.unwrap().learning_curve, Some(false));
    }
}

fn held_out(head: &str, dataset: &str) -> EvaluateHeadVersionRequest {
    let filter = SampleFilter { dataset: dataset.into(), ..SampleFilter::default() };
    EvaluateHeadVersionRequest { head: head.into(), filter: Some(filter) }
}

#[tokio::test]
async fn a_damaged_embedding_is_left_out_where_a_head_is_judged() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    train(&client, training(PromotionPolicy::Always)).await;
    let whole = client.evaluate_head_version(held_out("colour", "colours")).await.unwrap();
    let whole = whole.evaluation.unwrap().sample_count;
    drop(client);
    daemon.end().await;

    let database = rusqlite::Connection::open(state.path().join("graftd.sqlite")).unwrap();
    let damaged = database.execute(
        "UPDATE embeddings SET halves = zeroblob(length(halves)) WHERE (key & 0xffffffffffff) =
         (SELECT min(key) FROM samples WHERE held_out)",
        [],
    );
    assert_eq!(damaged.unwrap(), 1);
    drop(database);

    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let judged = client.evaluate_head_version(held_out("colour", "colours")).await.unwrap();
    let judged = judged.evaluation.unwrap();
    assert_eq!(judged.sample_count, whole - 1);
    assert!(judged.accuracy > 0.9, "{judged:?}");
}

#[tokio::test]
async fn samples_that_a_backbone_has_not_seen_yet_are_embedded_to_judge_its_head() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let request =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    assert_eq!(train(&client, request).await.state(), JobState::Succeeded);
    // As they come in, samples are embedded by the default backbone alone.
    let later = COLOURS.iter().flat_map(|(label, colour)| {
        (0..4).map(move |number| NewSample {
            dataset: "later".into(),
            split: Split::HeldOut.into(),
            ..sample(label, *colour, 7 + number)
        })
    });
    assert_eq!(push(&client, later.collect()).await, (12, vec![]));
    let judged = client.evaluate_head_version(held_out("colour", "later")).await.unwrap();
    assert_eq!(judged.evaluation.unwrap().sample_count, 12);
}

#[tokio::test]
async fn an_option_that_the_kind_cannot_keep_to_is_refused_by_its_path() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 5).await;
    let options = TrainingOptions {
        kind: HeadKind::Knn.into(),
        balance_classes: Some(true),
        ..TrainingOptions::default()
    };
    let request =
        StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
    let error = client.start_training(request).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    assert_eq!(error.field, "options.balance_classes", "{error}");
    assert!(error.message.contains("knn"), "{error}");
}

#[tokio::test]
async fn a_head_is_trained_on_its_own_backbone_or_not_at_all_and_a_new_one_on_the_default() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    let elsewhere =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    train(&client, elsewhere).await;
    let file = client.export_head_version("colour", HeadFormat::Safetensors).await.unwrap();
    let import = ImportedHead { name: "paint".into(), ..ImportedHead::default() };
    client.import_head_version(import, file).await.unwrap();
    let start = async |head: &str| {
        let asked = StartTrainingRequest { head: head.into(), ..training(PromotionPolicy::Always) };
        client.start_training(asked).await.map(|job| job.unwrap().backbone)
    };
    for (head, backbone) in [("colour", "features"), ("paint", "features"), ("new", "logits")] {
        assert_eq!(start(head).await.unwrap(), backbone, "{head}");
    }
    let unload = |snapshot: &mut graftd::engine::Snapshot| {
        snapshot.backbones.remove("features");
        snapshot.unloaded.insert("features".parse().unwrap());
        Ok::<_, std::convert::Infallible>(())
    };
    daemon.engine.registry().update(unload).unwrap();
    for head in ["colour", "paint"] {
        let refused = start(head).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{head}: {refused}");
    }
}

#[tokio::test]
async fn a_head_without_live_version_is_said_to_be_so_whatever_is_asked_of_it() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    train(&client, training(PromotionPolicy::Manual)).await;
    let ask = async |head: &str| {
        let image = Some(image(picture(COLOURS[0].1, 1)));
        let request = PredictRequest { image, head: head.into(), ..PredictRequest::default() };
        client.predict(request).await
    };
    let export = |format| client.export_head_version("colour", format);
    for refused in [
        ask("colour").await.unwrap_err(),
        export(HeadFormat::Safetensors).await.unwrap_err(),
        export(HeadFormat::Onnx).await.unwrap_err(),
    ] {
        let told = (refused.kind, refused.reason.as_str());
        assert_eq!(told, (ErrorKind::FailedPrecondition, "NO_LIVE_VERSION"), "{refused}");
        assert!(refused.message.contains("graftctl heads activate"), "{refused}");
    }
    assert_eq!(ask("colour@1").await.unwrap().head.unwrap().version, 1);
    assert_eq!(ask("colour@2").await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_live_version_that_is_damaged_answers_data_loss_and_another_takes_its_place() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    for _ in 0..2 {
        train(&client, training(PromotionPolicy::Always)).await;
    }
    drop(client);
    daemon.end().await;
    let database = rusqlite::Connection::open(state.path().join("graftd.sqlite")).unwrap();
    let damage = "UPDATE head_versions SET bytes = zeroblob(length(bytes)) WHERE version = 2";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    drop(database);

    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let image = Some(image(picture(COLOURS[0].1, 1)));
    let request = PredictRequest { image, head: "colour".into(), ..PredictRequest::default() };
    let error = client.predict(request).await.unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (ErrorKind::DataLoss, "CORRUPT"), "{error}");
    client.rollback_head("colour").await.unwrap();
    assert_eq!(predict(&client, "colour", COLOURS[0].1, 1).await.head.unwrap().version, 1);
}

/// Something in the database that lets no version of a head be deleted.
fn let_no_version_be_deleted(state: &std::path::Path) {
    let database = rusqlite::Connection::open(state.join("graftd.sqlite")).unwrap();
    let trigger = "CREATE TRIGGER no_room BEFORE DELETE ON head_versions
                   BEGIN SELECT RAISE(ABORT, 'no room'); END";
    database.execute_batch(trigger).unwrap();
}

fn quick(kind: HeadKind, policy: PromotionPolicy) -> StartTrainingRequest {
    let options = TrainingOptions {
        kind: kind.into(),
        learning_curve: Some(false),
        ..TrainingOptions::default()
    };
    StartTrainingRequest { options: Some(options), ..training(policy) }
}

#[tokio::test]
async fn a_version_that_was_made_live_answers_though_older_ones_cannot_be_deleted() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 10).await;
    let_no_version_be_deleted(&daemon.state);
    for version in 1..=11 {
        let job = train(&client, quick(HeadKind::Prototype, PromotionPolicy::Always)).await;
        assert_eq!((job.state(), job.head_version), (JobState::Succeeded, version), "{job:?}");
    }
    let answer = predict(&client, "colour", COLOURS[1].1, 7).await;
    assert_eq!(answer.head.unwrap().version, 11);
    assert_eq!(client.get_head("colour").await.unwrap().unwrap().versions.len(), 11);
}

#[tokio::test]
async fn a_training_is_kept_where_the_live_version_cannot_be_judged_for_want_of_room() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let elsewhere = StartTrainingRequest {
        backbone: "features".into(),
        ..quick(HeadKind::Prototype, PromotionPolicy::Always)
    };
    assert!(train(&client, elsewhere).await.promoted);
    // The live version's backbone has not seen these, and the quota lets nothing more be stored.
    let later = (0..4).map(|number| NewSample {
        split: Split::HeldOut.into(),
        ..sample("red", COLOURS[0].1, 7 + number)
    });
    assert_eq!(push(&client, later.collect()).await, (4, vec![]));
    let colours = "colours".parse().unwrap();
    let store = daemon.learning.store();
    let stats = store.dataset_stats(&colours).unwrap();
    let mut settings = stats.dataset.settings;
    settings.quota.max_bytes = Some(stats.bytes);
    store.update_dataset(&colours, settings).unwrap();
    let here = StartTrainingRequest {
        backbone: "logits".into(),
        ..quick(HeadKind::Prototype, PromotionPolicy::IfBetter)
    };
    let job = train(&client, here).await;
    assert_eq!((job.state(), job.head_version), (JobState::Succeeded, 2), "{job:?}");
    let message = job.promotion_message;
    assert!(!job.promoted && message.contains("cannot be judged"), "{message}");
    assert!(job.report.unwrap().live.is_none());
}

#[tokio::test]
async fn a_held_out_sample_with_two_labels_judges_no_head_whose_classes_exclude_each_other() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let before = train(&client, quick(HeadKind::Prototype, PromotionPolicy::IfBetter)).await;
    let both = NewSample {
        id: "both".into(),
        labels: vec!["red".into(), "green".into()],
        split: Split::HeldOut.into(),
        ..sample("red", [220, 220, 30], 1)
    };
    assert_eq!(push(&client, vec![both]).await.0, 1);
    let job = train(&client, quick(HeadKind::Prototype, PromotionPolicy::IfBetter)).await;
    assert_eq!((job.state(), job.promoted), (JobState::Succeeded, true), "{job:?}");
    let judged = |job: graftd::client::messages::Job| job.report.unwrap().held_out.unwrap();
    assert_eq!(judged(job).sample_count, judged(before).sample_count);
}

#[tokio::test]
async fn a_multi_label_head_and_one_that_is_not_replace_each_other_by_hand_only() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let mut live = HeadKind::Prototype;
    assert!(train(&client, quick(live, PromotionPolicy::IfBetter)).await.promoted);
    for kind in [HeadKind::MultiLabel, HeadKind::Prototype] {
        let job = train(&client, quick(kind, PromotionPolicy::IfBetter)).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        let message = &job.promotion_message;
        assert!(!job.promoted && message.contains("multi-label"), "{live:?} {kind:?}: {message}");
        let by_hand = format!("colour@{}", job.head_version);
        client.activate_head_version(&by_hand).await.unwrap();
        // Beside one of its own sort it goes live by itself, whatever the line began with.
        let again = train(&client, quick(kind, PromotionPolicy::IfBetter)).await;
        assert!(again.promoted, "{}", again.promotion_message);
        live = kind;
    }
}

#[tokio::test]
async fn what_a_cross_validation_found_is_not_told_as_if_held_out_samples_had() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    let samples = COLOURS.iter().flat_map(|(label, colour)| {
        (0..10).map(move |number| NewSample {
            split: Split::Train.into(),
            ..sample(label, *colour, number)
        })
    });
    assert_eq!(push(&client, samples.collect()).await.0, 30);
    let job = train(&client, quick(HeadKind::Prototype, PromotionPolicy::IfBetter)).await;
    let report = job.report.unwrap();
    assert!(report.held_out.is_none() && report.cross_validation_accuracy > 0.8, "{report:?}");
    let head = client.get_head("colour").await.unwrap().unwrap();
    assert!(head.versions[0].accuracy.is_some_and(|accuracy| accuracy > 0.8));
    let answer = predict(&client, "colour", COLOURS[1].1, 77).await;
    assert_eq!(answer.head.unwrap().held_out_accuracy, None);
    push_colours(&client, 10).await;
    train(&client, quick(HeadKind::Prototype, PromotionPolicy::Always)).await;
    let answer = predict(&client, "colour", COLOURS[1].1, 77).await;
    assert!(answer.head.unwrap().held_out_accuracy.is_some_and(|accuracy| accuracy > 0.8));
}

#[tokio::test]
async fn photographs_that_are_embedded_for_a_training_share_their_commits() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 40).await;
    let commits = || daemon.learning.store().stats().unwrap().commits;
    let before = commits();
    let request = StartTrainingRequest {
        backbone: "features".into(),
        ..quick(HeadKind::Prototype, PromotionPolicy::Always)
    };
    assert_eq!(train(&client, request).await.state(), JobState::Succeeded);
    let made = commits() - before;
    assert!(made < 100, "{made} for 120 photographs");
}
