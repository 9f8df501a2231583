//! What was answered so far, by backbone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::name::Name;

/// Runs that the percentiles look back on.
const WINDOW: usize = 1024;

/// Counts answers and failures since its making.
#[derive(Debug)]
pub struct Meter {
    since: Instant,
    failed: AtomicU64,
    backbones: Mutex<BTreeMap<Name, Runs>>,
}

#[derive(Debug, Default)]
struct Runs {
    count: u64,
    /// The latest [`WINDOW`] runs, in milliseconds, written round and round.
    latest: Vec<f32>,
}

/// What one backbone did.
#[derive(Clone, Debug, PartialEq)]
pub struct BackboneReading {
    /// Its name.
    pub name: Name,
    /// Images answered.
    pub count: u64,
    /// Median of the latest runs, in milliseconds.
    pub median_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { since: Instant::now(), failed: AtomicU64::new(0), backbones: Mutex::default() }
    }
}

impl Meter {
    /// Notes an image that `backbone` answered after a run of `inference`.
    pub fn answered(&self, backbone: &Name, inference: Duration) {
        let milliseconds = inference.as_secs_f32() * 1e3;
        let mut backbones = self.backbones.lock().unwrap_or_else(PoisonError::into_inner);
        if !backbones.contains_key(backbone) {
            backbones.insert(backbone.clone(), Runs::default());
        }
        let Some(runs) = backbones.get_mut(backbone) else { return };
        if runs.latest.len() < WINDOW {
            runs.latest.push(milliseconds);
        } else {
            runs.latest[(runs.count % WINDOW as u64) as usize] = milliseconds;
        }
        runs.count += 1;
    }

    /// Notes an image that could not be answered.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Time since the daemon's start.
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// Images that could not be answered.
    pub fn failed_total(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What each backbone did, by name.
    pub fn backbones(&self) -> Vec<BackboneReading> {
        let backbones = self.backbones.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = |(name, runs): (&Name, &Runs)| {
            let mut sorted = runs.latest.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            BackboneReading {
                name: name.clone(),
                count: runs.count,
                median_ms: quantile(&sorted, 0.5),
                p99_ms: quantile(&sorted, 0.99),
            }
        };
        backbones.iter().map(reading).collect()
    }
}

/// The value below which the share `q` of the sorted values lies (nearest rank).
fn quantile(sorted: &[f32], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_look_back_on_the_latest_runs_alone() {
        let meter = Meter::default();
        let name: Name = "net".parse().unwrap();
        for _ in 0..WINDOW {
            meter.answered(&name, Duration::from_secs(9));
        }
        for milliseconds in 1..=WINDOW as u64 {
            meter.answered(&name, Duration::from_millis(milliseconds));
        }
        let reading = &meter.backbones()[0];
        assert_eq!(reading.count, 2 * WINDOW as u64);
        assert!((reading.median_ms - 512.0).abs() < 0.01, "{}", reading.median_ms);
        assert!((reading.p99_ms - 1014.0).abs() < 0.01, "{}", reading.p99_ms);
    }
}
