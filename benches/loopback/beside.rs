//! Predictions one at a time, alone and with other work at full load beside them, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graftd::client::messages::{ExplainOptions, ExplainRequest, OverlayOptions};
use graftd::client::{Client, ClientError, Picture};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::latency::percentiles;
use super::{BACKBONE, Error, request};

/// How often the two take turns.
const TURNS: usize = 5;
/// How long a caller of other work waits where it is refused, as where the queue is full.
const PATIENCE: Duration = Duration::from_millis(1);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Predictions of each kind, all turns together.
    pub requests: usize,
    /// The photograph that is predicted.
    pub jpeg: Bytes,
    /// What is done beside the predictions.
    pub work: Work,
    /// Requests for that in flight.
    pub in_flight: usize,
}

/// What is done beside predictions.
#[derive(Clone, Debug)]
pub enum Work {
    /// This photograph is explained at the default layer.
    Explanations(Bytes),
    /// This photograph is explained and drawn.
    Overlays(Bytes),
    /// The backbone that predicts is loaded anew.
    Loading,
}

/// Latencies of predictions, sorted, and what was done beside them.
pub struct Beside {
    plan: Plan,
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    done: u64,
    elapsed: Duration,
}

impl Work {
    /// As the report names it.
    fn name(&self) -> &'static str {
        match self {
            Self::Explanations(_) => "explanations",
            Self::Overlays(_) => "overlays",
            Self::Loading => "loading",
        }
    }

    async fn once(&self, client: &Client) -> Result<(), ClientError> {
        let explain = |photograph: &Bytes, options| ExplainRequest {
            options: Some(options),
            ..Picture::from_bytes(photograph.clone()).into()
        };
        match self {
            Self::Explanations(photograph) => {
                client.explain(explain(photograph, ExplainOptions::default())).await.map(drop)
            }
            Self::Overlays(photograph) => {
                let overlay = Some(OverlayOptions::default());
                let options = ExplainOptions { overlay, ..ExplainOptions::default() };
                client.explain(explain(photograph, options)).await.map(drop)
            }
            Self::Loading => client.load_backbone(BACKBONE).await.map(drop),
        }
    }
}

impl Plan {
    /// Measures both in turns.
    pub async fn compare(self, client: &Client) -> Result<Beside, Error> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let (mut done, mut elapsed) = (0, Duration::ZERO);
        let each = self.requests.div_ceil(TURNS);
        // The first explanation prepares the network for all.
        self.work.once(client).await?;
        for _ in 0..TURNS {
            self.predict(client, each, &mut alone).await?;
            let began = Instant::now();
            let load = Load::start(client, &self.work, self.in_flight);
            self.predict(client, each, &mut beside).await?;
            done += load.stop().await?;
            elapsed += began.elapsed();
        }
        alone.sort_unstable();
        beside.sort_unstable();
        Ok(Beside { plan: self, alone, beside, done, elapsed })
    }

    async fn predict(
        &self,
        client: &Client,
        count: usize,
        latencies: &mut Vec<Duration>,
    ) -> Result<(), Error> {
        for _ in 0..count {
            let began = Instant::now();
            client.predict(request(&self.jpeg)).await?;
            latencies.push(began.elapsed());
        }
        Ok(())
    }
}

/// Callers that always have a request in flight.
struct Load {
    ended: Arc<AtomicBool>,
    callers: JoinSet<u64>,
}

impl Load {
    fn start(client: &Client, work: &Work, in_flight: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            let (client, work, ended) = (client.clone(), work.clone(), Arc::clone(&ended));
            callers.spawn(async move {
                let mut done = 0;
                while !ended.load(Ordering::Relaxed) {
                    match work.once(&client).await {
                        Ok(()) => done += 1,
                        Err(_) => tokio::time::sleep(PATIENCE).await,
                    }
                }
                done
            });
        }
        Self { ended, callers }
    }

    /// How much was done.
    async fn stop(mut self) -> Result<u64, Error> {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = 0;
        while let Some(done) = self.callers.join_next().await {
            all += done?;
        }
        Ok(all)
    }
}

impl Beside {
    /// As JSON.
    pub fn report(&self) -> Value {
        let (alone, beside) = (percentiles(&self.alone), percentiles(&self.beside));
        let ratio = |field: &str| {
            let of = |value: &Value| value[field].as_f64().unwrap_or(f64::NAN);
            of(&beside) / of(&alone)
        };
        json!({
            "work": self.plan.work.name(),
            "requests": self.alone.len(),
            "in_flight": self.plan.in_flight,
            "a_second": self.done as f64 / self.elapsed.as_secs_f64(),
            "median_over_alone": ratio("median_ms"),
            "p99_over_alone": ratio("p99_ms"),
            "alone": alone,
            "beside": beside,
        })
    }
}
