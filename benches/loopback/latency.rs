//! One request at a time: over loopback and in this process, in turns.

use std::time::{Duration, Instant};

use graftd::client::Client;
use serde_json::{Value, json};

use super::local::Local;
use super::{Error, request};

/// Pairs that warm caches and connections, not counted.
const WARM_UP: usize = 20;

/// Latencies of both ways, sorted.
pub struct Latency {
    loopback: Vec<Duration>,
    local: Vec<Duration>,
}

/// Measures `pairs` of requests.
pub async fn compare(client: &Client, local: &Local, pairs: usize) -> Result<Latency, Error> {
    let mut latency = Latency { loopback: Vec::new(), local: Vec::new() };
    for pair in 0..WARM_UP + pairs {
        let began = Instant::now();
        client.predict(request(local.jpeg())).await?;
        let over_loopback = began.elapsed();
        let began = Instant::now();
        local.answer()?;
        let here = began.elapsed();
        if pair >= WARM_UP {
            latency.loopback.push(over_loopback);
            latency.local.push(here);
        }
    }
    latency.loopback.sort_unstable();
    latency.local.sort_unstable();
    Ok(latency)
}

impl Latency {
    /// As JSON.
    pub fn report(&self) -> Value {
        json!({
            "requests": self.loopback.len(),
            "loopback": percentiles(&self.loopback),
            "in_process": percentiles(&self.local),
            "median_difference_ms": percentile(&self.loopback, 50.0) - percentile(&self.local, 50.0),
        })
    }
}

/// Median and high percentiles.
pub fn percentiles(sorted: &[Duration]) -> Value {
    json!({
        "median_ms": percentile(sorted, 50.0),
        "p95_ms": percentile(sorted, 95.0),
        "p99_ms": percentile(sorted, 99.0),
    })
}

/// What `percent` of the latencies do not exceed, in milliseconds.
fn percentile(sorted: &[Duration], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}
