//! Three colours to tell apart, and the calls that teach them.

use std::path::Path;

use graftd::client::messages::{
    Job, NewSample, PredictRequest, PredictResponse, Promotion, PromotionPolicy,
    StartTrainingRequest, StreamSamplesRequest, new_sample,
};
use graftd::client::{Client, ErrorKind, Picture};
use graftd::engine::PoolOptions;
use graftd::rpc::ServerOptions;
use graftd::vision::{self, ImageFormat};
use tokio_stream::StreamExt;

use crate::common::daemon::Daemon;

pub const COLOURS: [(&str, [u8; 3]); 3] =
    [("red", [220, 30, 30]), ("green", [30, 220, 30]), ("blue", [30, 30, 220])];

/// A PNG of about this colour; each number gives another one.
pub fn picture(colour: [u8; 3], number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 % 60
    };
    let pixels = (0..24 * 24).flat_map(|_| colour.map(|channel| channel.saturating_sub(noise())));
    let picture = vision::Picture::new(24, 24, pixels.collect()).unwrap();
    vision::encode(&picture, ImageFormat::Png).unwrap()
}

/// A folder with a folder per class, `each` pictures in each.
#[allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
pub fn class_folder(each: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (label, colour) in COLOURS {
        let class = folder.path().join(label);
        std::fs::create_dir(&class).unwrap();
        for number in 0..each {
            std::fs::write(class.join(format!("{number}.png")), picture(colour, number)).unwrap();
        }
    }
    folder
}

pub fn image(bytes: Vec<u8>) -> graftd::client::messages::Image {
    PredictRequest::from(Picture::from_bytes(bytes)).image.unwrap()
}

pub fn sample(label: &str, colour: [u8; 3], number: u32) -> NewSample {
    NewSample {
        dataset: "colours".into(),
        id: format!("{label}/{number}"),
        labels: vec![label.into()],
        content: Some(new_sample::Content::Image(image(picture(colour, number)))),
        ..NewSample::default()
    }
}

pub async fn start(state: &Path) -> Daemon {
    let pool = PoolOptions { workers: 2, queue: 64 };
    Daemon::start_in(state, pool, ServerOptions::default()).await
}

/// Streams samples and gives the number of those stored, and the failures.
pub async fn push(client: &Client, samples: Vec<NewSample>) -> (usize, Vec<(String, ErrorKind)>) {
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

pub async fn push_colours(client: &Client, each: u32) {
    let samples = COLOURS.iter().flat_map(|(label, colour)| {
        (0..each).map(move |number| sample(label, *colour, number * 3 + 1000))
    });
    let samples: Vec<_> = samples.collect();
    let count = samples.len();
    assert_eq!(push(client, samples).await, (count, vec![]));
}

pub fn training(policy: PromotionPolicy) -> StartTrainingRequest {
    StartTrainingRequest {
        head: "colour".into(),
        dataset: "colours".into(),
        promotion: Some(Promotion { policy: policy.into(), ..Promotion::default() }),
        ..StartTrainingRequest::default()
    }
}

/// Starts a training and watches it to its end.
pub async fn train(client: &Client, request: StartTrainingRequest) -> Job {
    let job = client.start_training(request).await.unwrap().unwrap();
    let mut news = client.watch_job(&job.id).await.unwrap();
    let mut last = job;
    while let Some(job) = news.next().await {
        last = job.unwrap();
    }
    last
}

pub async fn predict(client: &Client, head: &str, colour: [u8; 3], number: u32) -> PredictResponse {
    let request = PredictRequest {
        image: Some(image(picture(colour, number))),
        head: head.into(),
        ..PredictRequest::default()
    };
    client.predict(request).await.unwrap()
}

pub fn probabilities(answer: &PredictResponse) -> Vec<(String, u32)> {
    let bits =
        |p: &graftd::client::messages::Prediction| (p.label.clone(), p.probability.to_bits());
    answer.predictions.iter().map(bits).collect()
}
