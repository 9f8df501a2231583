//! What learning costs those who wait for an answer, and how soon a sample is learnt: printed, not
//! judged. Run with `cargo test --release --test learning_performance -- --ignored --nocapture`.

#![cfg(feature = "daemon")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use graftd::client::messages::{
    DatasetSettings, EmbedRequest, HeadKind, JobState, NewSample, PredictRequest, Promotion,
    PromotionPolicy, Retention, StartTrainingRequest, StreamSamplesRequest, TrainingOptions,
    new_sample,
};
use graftd::client::{Client, Picture};
use graftd::train::StreamingLda;
use program::{Daemon, photograph};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// Photographs of each class of trashnet that are taught; the rest arrive later one by one.
const TAUGHT: usize = 60;
/// Predictions that are timed idle.
const IDLE: usize = 300;
/// Photographs of each class, and rounds, in which storing is timed beside embedding.
const STORED: usize = 40;
const ROUNDS: usize = 5;
/// Embeddings asked for at a time, as many as keep every worker busy.
const CALLERS: usize = 8;

/// What was timed, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// Milliseconds that a share of all did not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let index = (share * (self.0.len() - 1) as f64).round() as usize;
        1000.0 * self.0[index].as_secs_f64()
    }
}

fn photographs(assets: &Path) -> Vec<(String, Vec<PathBuf>)> {
    let mut classes: Vec<_> = std::fs::read_dir(assets.join("datasets/trashnet"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|class| {
            let name = class.file_name().unwrap().to_string_lossy().into_owned();
            let mut files: Vec<_> =
                std::fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            (name, files)
        })
        .collect();
    classes.sort();
    classes
}

fn request(file: &Path) -> PredictRequest {
    PredictRequest::from(Picture::from_bytes(std::fs::read(file).unwrap()))
}

fn sample(label: &str, file: &Path) -> NewSample {
    NewSample {
        dataset: "trash".into(),
        labels: vec![label.to_owned()],
        content: request(file).image.map(new_sample::Content::Image),
        ..NewSample::default()
    }
}

/// Streams samples; how many were stored.
async fn push(client: &Client, samples: Vec<NewSample>) -> usize {
    let items = samples.into_iter().enumerate().map(|(index, sample)| StreamSamplesRequest {
        correlation_id: index.to_string(),
        sample: Some(sample),
    });
    let items: Vec<_> = items.collect();
    let mut answers = client.stream_samples(tokio_stream::iter(items)).await.unwrap();
    let mut stored = 0;
    while let Some((_, result)) = answers.next().await.unwrap() {
        stored += usize::from(result.is_ok());
    }
    stored
}

async fn predict(client: &Client, picture: &PredictRequest) -> Duration {
    let began = Instant::now();
    client.predict(picture.clone()).await.unwrap();
    began.elapsed()
}

fn training(kind: HeadKind, seed: u64, follow_dataset: bool) -> StartTrainingRequest {
    let options = TrainingOptions { kind: kind.into(), seed, follow_dataset, ..Default::default() };
    StartTrainingRequest {
        head: if follow_dataset { "follower".into() } else { "trash".into() },
        dataset: "trash".into(),
        options: Some(options),
        promotion: Some(Promotion {
            policy: PromotionPolicy::Always.into(),
            ..Promotion::default()
        }),
        ..StartTrainingRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn predictions_beside_a_training_and_the_way_of_a_sample_into_the_live_head() {
    let Some(assets) = common::assets() else { return };
    let daemon = Daemon::with_mobilenet_v2(&assets);
    let client = Client::connect(&daemon.address).await.unwrap();
    let classes = photographs(&assets);
    let taught = classes
        .iter()
        .flat_map(|(label, files)| files.iter().take(TAUGHT).map(|file| sample(label, file)));
    let began = Instant::now();
    let stored = push(&client, taught.collect()).await;
    let rate = stored as f64 / began.elapsed().as_secs_f64();
    println!("{stored} photographs embedded and stored: {rate:.1} a second");

    let picture = request(&photograph(&assets));
    let mut times = Vec::new();
    for _ in 0..IDLE {
        times.push(predict(&client, &picture).await);
    }
    let idle = Times::new(times);
    let job = client.start_training(training(HeadKind::Unspecified, 1, false)).await.unwrap();
    let mut news = client.watch_job(&job.unwrap().id).await.unwrap();
    let watched = tokio::spawn(async move {
        let mut last = None;
        while let Some(job) = news.next().await {
            last = job.ok();
        }
        last
    });
    let mut times = Vec::new();
    while !watched.is_finished() {
        times.push(predict(&client, &picture).await);
    }
    let report = watched.await.unwrap().and_then(|job| job.report).unwrap();
    let training_times = Times::new(times);
    println!(
        "prediction, ms: idle p50 {:.1} p99 {:.1}; beside a training of {:.1} s p50 {:.1} p99 {:.1} \
         ({} predictions): p99 {:.2} times the idle one",
        idle.quantile(0.5),
        idle.quantile(0.99),
        report.fit_seconds,
        training_times.quantile(0.5),
        training_times.quantile(0.99),
        training_times.0.len(),
        training_times.quantile(0.99) / idle.quantile(0.99),
    );

    let job = client.start_training(training(HeadKind::Slda, 0, true)).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    while let Some(job) = news.next().await {
        job.unwrap();
    }
    let live = async || client.get_head("follower").await.unwrap().unwrap().active_version;
    let mut times = Vec::new();
    for (label, files) in &classes {
        for file in files.iter().skip(TAUGHT).take(5) {
            let before = live().await;
            let added = client.add_sample(sample(label, file)).await.unwrap().sample.unwrap();
            let stored = Instant::now();
            // One that is held out changes no weights.
            if added.split() == graftd::client::messages::Split::HeldOut {
                continue;
            }
            while live().await == before && stored.elapsed() < Duration::from_secs(10) {
                tokio::task::yield_now().await;
            }
            times.push(stored.elapsed());
        }
    }
    let times = Times::new(times);
    println!(
        "a stored sample is live after, ms: p50 {:.0}, most {:.0} ({} samples, 1280 features)",
        times.quantile(0.5),
        times.quantile(1.0),
        times.0.len(),
    );
}

/// Cancels a training as soon as it is known to be in a phase; how long it then takes to end. `None`
/// where it ended first.
async fn cancelled_in(client: &Client, kind: HeadKind, phase: &str) -> Option<Duration> {
    let job = client.start_training(training(kind, 1, false)).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    let (mut told, mut ended) = (None, None);
    while let Some(job) = news.next().await {
        let job = job.unwrap();
        if told.is_none() && job.phase == phase {
            told = Some(Instant::now());
            client.cancel_job(&job.id).await.unwrap();
        }
        ended = Some(job.state());
    }
    told.filter(|_| ended == Some(JobState::Cancelled)).map(|told| told.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn a_training_that_is_cancelled_in_each_of_its_phases() {
    let Some(assets) = common::assets() else { return };
    let daemon = Daemon::with_mobilenet_v2(&assets);
    let client = Client::connect(&daemon.address).await.unwrap();
    let classes = photographs(&assets);
    let taught = classes
        .iter()
        .flat_map(|(label, files)| files.iter().take(TAUGHT).map(|file| sample(label, file)));
    push(&client, taught.collect()).await;
    let mut largest = Duration::ZERO;
    for phase in ["selecting", "fitting", "novelty", "learning curve", "judging"] {
        let mut times = Vec::new();
        for kind in [HeadKind::Unspecified, HeadKind::Softmax, HeadKind::Mlp] {
            times.extend(cancelled_in(&client, kind, phase).await);
        }
        largest = times.iter().copied().fold(largest, Duration::max);
        println!("cancelled while {phase}, ended after: {times:.1?}");
    }
    println!("the longest from telling a training to stop to its end: {largest:.1?}");
}

/// Embeds every picture once; how many a second.
async fn embed(client: &Client, pictures: &[PredictRequest]) -> f64 {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = client.clone();
        let own = pictures.iter().skip(caller).step_by(CALLERS);
        let own: Vec<_> = own.filter_map(|picture| picture.image.clone()).collect();
        callers.spawn(async move {
            for image in own {
                let request = EmbedRequest { image: Some(image), ..EmbedRequest::default() };
                client.embed(request).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    pictures.len() as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn samples_stored_as_embeddings_beside_embedding_alone() {
    let Some(assets) = common::assets() else { return };
    let daemon = Daemon::with_mobilenet_v2(&assets);
    let client = Client::connect(&daemon.address).await.unwrap();
    let classes = photographs(&assets);
    let chosen: Vec<(&str, &PathBuf)> = classes
        .iter()
        .flat_map(|(label, files)| {
            files.iter().take(STORED).map(move |file| (label.as_str(), file))
        })
        .collect();
    let pictures: Vec<PredictRequest> = chosen.iter().map(|(_, file)| request(file)).collect();
    embed(&client, &pictures[..STORED]).await;
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let embedded = embed(&client, &pictures).await;
        let dataset = format!("round-{round}");
        let retention = Retention::Embeddings.into();
        let settings = DatasetSettings { retention, ..DatasetSettings::default() };
        client.configure_dataset(&dataset, settings).await.unwrap();
        let of_round = |(label, file): &(&str, &PathBuf)| NewSample {
            dataset: dataset.clone(),
            ..sample(label, file)
        };
        let samples: Vec<NewSample> = chosen.iter().map(of_round).collect();
        let began = Instant::now();
        assert_eq!(push(&client, samples).await, chosen.len());
        let stored = chosen.len() as f64 / began.elapsed().as_secs_f64();
        ratios.push(stored / embedded);
        rates.push((embedded, stored));
    }
    ratios.sort_by(f64::total_cmp);
    println!("photographs a second, embedded and stored as embeddings: {rates:.1?}");
    println!("stored / embedded: median {:.2} of {ROUNDS} rounds {ratios:.2?}", ratios[ROUNDS / 2]);
}

#[test]
#[ignore = "a measurement"]
fn one_sample_into_the_running_statistics() {
    let embedding = |i: usize| {
        (0..1280).map(|j| ((i * 37 + j * j * 11) % 29) as f32 / 29.0).collect::<Vec<_>>()
    };
    let mut statistics = StreamingLda::new(1280).unwrap();
    let times = (0..500).map(|i| {
        let (values, label) = (embedding(i), format!("class {}", i % 6));
        let began = Instant::now();
        statistics.add(&values, &label).unwrap();
        began.elapsed()
    });
    let times = Times::new(times.collect());
    println!(
        "one sample enters the statistics of 1280 features in, ms: p50 {:.2}, p99 {:.2}",
        times.quantile(0.5),
        times.quantile(0.99),
    );
}
