//! Predictions one at a time, alone and with explanations at full load beside them, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use graftd::client::messages::ExplainRequest;
use graftd::client::{Client, Picture};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::latency::percentiles;
use super::{Error, request};

/// How often the two take turns.
const TURNS: usize = 5;
/// How long a caller of explanations waits where the queue is full.
const PATIENCE: Duration = Duration::from_millis(1);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Predictions of each kind, all turns together.
    pub requests: usize,
    /// Explanations in flight beside them.
    pub in_flight: usize,
}

/// Latencies of predictions, sorted, and what was explained beside them.
#[derive(Default)]
pub struct Explaining {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    explanations: u64,
    elapsed: Duration,
    in_flight: usize,
}

impl Plan {
    /// Measures both in turns.
    pub async fn compare(self, client: &Client, jpeg: &Bytes) -> Result<Explaining, Error> {
        let mut found = Explaining { in_flight: self.in_flight, ..Explaining::default() };
        let each = self.requests.div_ceil(TURNS);
        // The first explanation prepares the network for all.
        client.explain(explanation(jpeg)).await?;
        for _ in 0..TURNS {
            predict(client, jpeg, each, &mut found.alone).await?;
            let began = Instant::now();
            let load = Load::start(client, jpeg, self.in_flight);
            predict(client, jpeg, each, &mut found.beside).await?;
            found.explanations += load.stop().await?;
            found.elapsed += began.elapsed();
        }
        found.alone.sort_unstable();
        found.beside.sort_unstable();
        Ok(found)
    }
}

fn explanation(jpeg: &Bytes) -> ExplainRequest {
    Picture::from_bytes(jpeg.clone()).into()
}

async fn predict(
    client: &Client,
    jpeg: &Bytes,
    count: usize,
    latencies: &mut Vec<Duration>,
) -> Result<(), Error> {
    for _ in 0..count {
        let began = Instant::now();
        client.predict(request(jpeg)).await?;
        latencies.push(began.elapsed());
    }
    Ok(())
}

/// Callers that always have an explanation in flight.
struct Load {
    ended: Arc<AtomicBool>,
    callers: JoinSet<u64>,
}

impl Load {
    fn start(client: &Client, jpeg: &Bytes, in_flight: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            let (client, jpeg, ended) = (client.clone(), jpeg.clone(), Arc::clone(&ended));
            callers.spawn(async move {
                let mut explained = 0;
                while !ended.load(Ordering::Relaxed) {
                    match client.explain(explanation(&jpeg)).await {
                        Ok(_) => explained += 1,
                        Err(_) => tokio::time::sleep(PATIENCE).await,
                    }
                }
                explained
            });
        }
        Self { ended, callers }
    }

    /// How many explanations there were.
    async fn stop(mut self) -> Result<u64, Error> {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = 0;
        while let Some(explained) = self.callers.join_next().await {
            all += explained?;
        }
        Ok(all)
    }
}

impl Explaining {
    /// As JSON.
    pub fn report(&self) -> Value {
        let (alone, beside) = (percentiles(&self.alone), percentiles(&self.beside));
        let ratio = |field: &str| {
            let of = |value: &Value| value[field].as_f64().unwrap_or(f64::NAN);
            of(&beside) / of(&alone)
        };
        json!({
            "requests": self.alone.len(),
            "in_flight": self.in_flight,
            "explanations_per_second": self.explanations as f64 / self.elapsed.as_secs_f64(),
            "median_over_alone": ratio("median_ms"),
            "p99_over_alone": ratio("p99_ms"),
            "alone": alone,
            "beside": beside,
        })
    }
}
