//! Jobs wait, are cancelled, are interrupted by a restart and begin again.

use std::sync::mpsc;

use graftd::base::cancel::Cancel;
use graftd::client::messages::{
    HeadKind, Job, JobState, ListJobsRequest, PromotionPolicy, StartTrainingRequest,
    TrainingOptions,
};
use graftd::client::{Client, ErrorKind};
use graftd::engine::{Priority, Ticket};
use tokio_stream::StreamExt;

use crate::colours::{push_colours, start, train, training};
use crate::common::daemon::Daemon;

/// Watches a job to its end.
pub async fn end_of(client: &Client, job: &Job) -> Job {
    let mut news = client.watch_job(&job.id).await.unwrap();
    let mut last = job.clone();
    while let Some(job) = news.next().await {
        last = job.unwrap();
    }
    last
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    // The first needs a worker, of which there is none.
    let busy = occupy(&daemon);
    let request =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    let running = client.start_training(request).await.unwrap().unwrap();
    let waiting = client.start_training(training(PromotionPolicy::Always)).await.unwrap().unwrap();
    let cancelled = client.cancel_job(&waiting.id).await.unwrap().unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    let unmoved = client.get_job(&running.id).await.unwrap().unwrap();
    assert!(matches!(unmoved.state(), JobState::Queued | JobState::Running), "{unmoved:?}");
    client.cancel_job(&running.id).await.unwrap();
    let ended = end_of(&client, &running).await;
    assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
    drop(busy);
    // One that has ended stays as it is.
    let again = client.cancel_job(&running.id).await.unwrap().unwrap();
    assert_eq!(again.state(), JobState::Cancelled);
    assert!(client.list_heads("").await.unwrap().is_empty());
    let unknown = client.get_job("4711").await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}

/// Keeps both workers busy until the returned senders are dropped.
pub fn occupy(daemon: &Daemon) -> Vec<(mpsc::Sender<()>, Ticket<()>)> {
    let busy = (0..2).map(|_| {
        let (release, released) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let work = move |_: &Cancel, _| {
            began.send(()).unwrap();
            let _ = released.recv();
        };
        let ticket = daemon.engine.run(Priority::Foreground, Cancel::default(), work).unwrap();
        begun.recv().unwrap();
        (release, ticket)
    });
    busy.collect()
}

#[tokio::test]
async fn who_watches_a_job_is_told_phase_progress_loss_accuracy_and_time_left() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 40).await;
    let options = TrainingOptions { kind: HeadKind::Softmax.into(), ..Default::default() };
    let request =
        StartTrainingRequest { options: Some(options), ..training(PromotionPolicy::Always) };
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    let mut told = Vec::new();
    while let Some(job) = news.next().await {
        told.push(job.unwrap());
    }
    let last = told.last().unwrap();
    assert_eq!((last.state(), last.progress), (JobState::Succeeded, 1.0), "{last:?}");
    assert!(told.windows(2).all(|pair| pair[0].progress <= pair[1].progress), "{told:?}");
    let phases: Vec<&str> = told.iter().map(|job| job.phase.as_str()).collect();
    assert!(phases.contains(&"selecting"), "{phases:?}");
    assert!(told.iter().any(|job| job.remaining_seconds.is_some_and(|left| left >= 0.0)));
    assert!(last.loss.is_some_and(|loss| loss > 0.0), "{last:?}");
    assert!(last.held_out_accuracy.is_some_and(|accuracy| accuracy > 0.8), "{last:?}");
}

/// The order of events tells it: both workers are held for as long as the job lives, so it can
/// neither wait for one nor have one more picture run.
#[tokio::test]
async fn a_cancelled_training_ends_without_another_forward_run() {
    let daemon = Daemon::start_roomy().await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let busy = occupy(&daemon);
    let finished = daemon.engine.statistics().finished;
    // The head stands on a backbone that has seen none of the samples.
    let request =
        StartTrainingRequest { backbone: "features".into(), ..training(PromotionPolicy::Always) };
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    while let Some(job) = news.next().await {
        if job.unwrap().phase == "embedding" {
            break;
        }
    }
    client.cancel_job(&job.id).await.unwrap();
    let ended = end_of(&client, &job).await;
    assert_eq!(ended.state(), JobState::Cancelled, "{ended:?}");
    assert_eq!(daemon.engine.statistics().finished, finished);
    assert_eq!(daemon.engine.statistics().queued, 0, "its places in the queue are free");
    drop(busy);
    assert!(client.list_heads("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_a_restart_interrupted_is_shown_as_such_and_begins_again() {
    let state = tempfile::tempdir().unwrap();
    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    push_colours(&client, 20).await;
    let busy = occupy(&daemon);
    let options = TrainingOptions { kind: HeadKind::Prototype.into(), ..Default::default() };
    let request = StartTrainingRequest {
        backbone: "features".into(),
        options: Some(options),
        ..training(PromotionPolicy::Always)
    };
    let running = client.start_training(request.clone()).await.unwrap().unwrap();
    let waiting = client.start_training(request).await.unwrap().unwrap();
    let refused = StartTrainingRequest { restart_job: waiting.id.clone(), ..Default::default() };
    let error = client.start_training(refused).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
    drop(client);
    drop(busy);
    daemon.end().await;

    let daemon = start(state.path()).await;
    let client = daemon.client().await;
    let request =
        ListJobsRequest { state: JobState::Interrupted.into(), ..ListJobsRequest::default() };
    let interrupted: Vec<_> =
        client.list_jobs(request).await.unwrap().jobs.into_iter().map(|job| job.id).collect();
    assert!(interrupted.contains(&waiting.id), "{interrupted:?}, {}", running.id);

    let both = StartTrainingRequest {
        restart_job: waiting.id.clone(),
        head: "x".into(),
        ..Default::default()
    };
    let error = client.start_training(both).await.unwrap_err();
    assert_eq!((error.kind, error.field.as_str()), (ErrorKind::InvalidArgument, "restart_job"));
    let again = StartTrainingRequest { restart_job: waiting.id.clone(), ..Default::default() };
    let job = train(&client, again).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    assert_ne!(job.id, waiting.id);
    assert_eq!((job.head.as_str(), job.backbone.as_str()), ("colour", "features"));
}
