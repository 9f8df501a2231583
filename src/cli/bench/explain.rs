//! What an explanation costs beside a prediction: the three take turns on one thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::median;
use crate::base::cancel::Cancel;
use crate::cli::CliError;
use crate::engine::{Answerer, EngineError, LiveBackbone, Timings, classify};
use crate::explain::{Demand, ExplainError, Explainer, Judge, Request, explain};
use crate::graph::Network;

/// Turns before the first that counts.
const WARM_UP: usize = 3;
/// Turns at least, however slow the network is.
const TURNS: usize = 5;

/// Predicts, explains at the last spatial layer and explains at the one half-way down, in turns for
/// `duration`; medians in milliseconds, and their ratios.
pub(super) fn compare(
    backbone: &Arc<LiveBackbone>,
    tensor: &[f32],
    duration: Duration,
) -> Result<Value, CliError> {
    let network = &backbone.network;
    let by = Answerer { backbone: Arc::clone(backbone), head: None };
    let last = prepare(network, &[])?;
    let half = prepare(network, &[half_way(network)?])?;
    let (mut predict, mut at_last, mut at_half) = (Vec::new(), Vec::new(), Vec::new());
    let (began, mut turn) = (Instant::now(), 0);
    while turn < WARM_UP + TURNS || began.elapsed() < duration {
        let times = [
            timed(|| classify(by.clone(), tensor, Timings::default()).map(drop))?,
            timed(|| run(&last, network, tensor))?,
            timed(|| run(&half, network, tensor))?,
        ];
        if turn >= WARM_UP {
            predict.push(times[0]);
            at_last.push(times[1]);
            at_half.push(times[2]);
        }
        turn += 1;
    }
    let predict = median(&mut predict);
    let row = |explainer: &Explainer, times: &mut [f64]| {
        let ms = median(times);
        json!({ "layer": explainer.layers()[0], "median_ms": ms, "over_predict": ms / predict })
    };
    Ok(json!({
        "turns": at_last.len(),
        "predict_ms": predict,
        "last_layer": row(&last, &mut at_last),
        "half_way": row(&half, &mut at_half),
    }))
}

/// The middle one of the spatial layers.
fn half_way(network: &Network) -> Result<String, EngineError> {
    let spatial: Vec<_> = network.layers().iter().filter(|layer| layer.spatial).collect();
    let middle = spatial.get(spatial.len() / 2).ok_or(ExplainError::NoSpatialLayer)?;
    Ok(middle.name.clone())
}

fn prepare(network: &Network, layers: &[String]) -> Result<Explainer, EngineError> {
    Ok(Explainer::new(network, layers, Demand::LayerGradient, false)?)
}

/// All of it: the forward run, the gradient, the map, its peak and its box.
fn run(explainer: &Explainer, network: &Network, tensor: &[f32]) -> Result<(), EngineError> {
    let judge = Judge { head: None, labels: &[] };
    let (request, cancel) = (Request::default(), Cancel::default());
    explain(explainer, network, tensor, None, &judge, &request, &cancel)?;
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), EngineError>) -> Result<f64, EngineError> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
