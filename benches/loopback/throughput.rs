//! Many requests at a time: single images over loopback, images by the batch through the Open
//! Inference Protocol, and the same work in this process, in rounds that take turns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use graftd::client::Client;
use graftd::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use graftd::proto::inference::model_infer_request::InferInputTensor;
use graftd::proto::inference::{InferTensorContents, ModelInferRequest};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::daemon::Daemon;
use super::local::Local;
use super::process::Process;
use super::{BACKBONE, Error, request};

/// How often the ways take turns.
const ROUNDS: u32 = 6;
/// Images in one `ModelInfer`.
const BATCH: usize = 16;

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seconds for each of the ways, all rounds together.
    pub seconds: f64,
    /// Requests in flight.
    pub concurrency: usize,
    /// Threads of this process, as many as the daemon has workers.
    pub threads: usize,
}

/// What one way has done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    images: u64,
    errors: u64,
    seconds: f64,
    client_cpu: f64,
    server_cpu: f64,
}

/// The three ways, all rounds together, and their ratios, one a round.
#[derive(Default)]
pub struct Throughput {
    loopback: Done,
    batches: Done,
    local: Done,
    loopback_ratios: Vec<f64>,
    batches_ratios: Vec<f64>,
    concurrency: usize,
}

impl Plan {
    /// Measures the three ways in turns.
    pub async fn compare(
        self,
        daemon: &Daemon,
        client: &Client,
        local: &Local,
    ) -> Result<Throughput, Error> {
        let round = Duration::from_secs_f64(self.seconds) / ROUNDS;
        let mut all = Throughput { concurrency: self.concurrency, ..Throughput::default() };
        let service = GrpcInferenceServiceClient::connect(format!("http://{}", daemon.address()));
        let service = service.await?.max_encoding_message_size(usize::MAX);
        for _ in 0..ROUNDS {
            let singles = metered(daemon, self.singles(client, local, round)).await?;
            let batches = metered(daemon, batches(&service, local, round)).await?;
            let here = tokio::task::block_in_place(|| self.here(local, round))?;
            all.loopback.add(singles);
            all.batches.add(batches);
            all.local.add(here);
            all.loopback_ratios.push(singles.images_per_second() / here.images_per_second());
            all.batches_ratios.push(batches.images_per_second() / here.images_per_second());
        }
        Ok(all)
    }

    /// `concurrency` callers, each with one image in flight.
    async fn singles(self, client: &Client, local: &Local, round: Duration) -> Result<Done, Error> {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..self.concurrency {
            let (client, jpeg) = (client.clone(), local.jpeg().clone());
            callers.spawn(async move {
                let mut done = Done::default();
                while began.elapsed() < round {
                    match client.predict(request(&jpeg)).await {
                        Ok(_) => done.images += 1,
                        Err(_) => done.errors += 1,
                    }
                }
                done
            });
        }
        let mut all = Done::default();
        while let Some(done) = callers.join_next().await {
            all.add(done?);
        }
        Ok(Done { seconds: began.elapsed().as_secs_f64(), ..all })
    }

    /// As many threads as the daemon has workers, without a queue.
    fn here(self, local: &Local, round: Duration) -> Result<Done, Error> {
        let (began, images) = (Instant::now(), AtomicU64::new(0));
        let work = || {
            while began.elapsed() < round {
                local.answer()?;
                images.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Error>(())
        };
        let ended: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for thread in ended {
            thread.map_err(|_| "a thread panicked")??;
        }
        let (images, seconds) = (images.into_inner(), began.elapsed().as_secs_f64());
        Ok(Done { images, seconds, ..Done::default() })
    }
}

/// One caller with one batch in flight.
async fn batches(
    service: &GrpcInferenceServiceClient<tonic::transport::Channel>,
    local: &Local,
    round: Duration,
) -> Result<Done, Error> {
    let contents = InferTensorContents {
        bytes_contents: vec![local.jpeg().clone(); BATCH],
        ..InferTensorContents::default()
    };
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "BYTES".into(),
        shape: vec![BATCH as i64],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: BACKBONE.into(),
        inputs: vec![input],
        ..ModelInferRequest::default()
    };
    let (began, mut done, mut service) = (Instant::now(), Done::default(), service.clone());
    while began.elapsed() < round {
        match service.model_infer(request.clone()).await {
            Ok(_) => done.images += BATCH as u64,
            Err(_) => done.errors += 1,
        }
    }
    Ok(Done { seconds: began.elapsed().as_secs_f64(), ..done })
}

/// Notes the processor time that both sides use meanwhile.
async fn metered(
    daemon: &Daemon,
    work: impl Future<Output = Result<Done, Error>>,
) -> Result<Done, Error> {
    let (client, server) = (Process::this(), daemon.process());
    let before = (client.cpu_seconds()?, server.cpu_seconds()?);
    let done = work.await?;
    let client_cpu = client.cpu_seconds()? - before.0;
    let server_cpu = server.cpu_seconds()? - before.1;
    Ok(Done { client_cpu, server_cpu, ..done })
}

impl Done {
    fn add(&mut self, other: Self) {
        let Self { images, errors, seconds, client_cpu, server_cpu } = other;
        self.images += images;
        self.errors += errors;
        self.seconds += seconds;
        self.client_cpu += client_cpu;
        self.server_cpu += server_cpu;
    }

    fn images_per_second(self) -> f64 {
        self.images as f64 / self.seconds
    }
}

impl Throughput {
    /// As JSON.
    pub fn report(&self) -> Value {
        let way = |done: Done, ratios: &[f64]| {
            json!({
                "images": done.images,
                "errors": done.errors,
                "images_per_second": done.images_per_second(),
                "over_in_process": median(ratios),
                "client_cpu_seconds": done.client_cpu,
                "server_cpu_seconds": done.server_cpu,
            })
        };
        let mut loopback = way(self.loopback, &self.loopback_ratios);
        loopback["concurrency"] = json!(self.concurrency);
        let mut batches = way(self.batches, &self.batches_ratios);
        batches["images_a_request"] = json!(BATCH);
        json!({
            "seconds": self.loopback.seconds,
            "rounds": ROUNDS,
            "loopback": loopback,
            "open_inference": batches,
            "in_process": {
                "images": self.local.images,
                "images_per_second": self.local.images_per_second(),
            },
        })
    }
}

/// The median of the rounds' ratios.
fn median(ratios: &[f64]) -> f64 {
    let mut sorted = ratios.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
