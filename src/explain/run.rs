//! One explanation from beginning to end.

use std::time::{Duration, Instant};

use super::explainer::Forward;
use super::map::Map;
use super::occlusion::{self, Subject};
use super::{
    ExplainError, Explainer, FeatureMap, Judge, Method, Region, Request, Score, cam, saliency,
};
use crate::base::cancel::Cancel;
use crate::graph::Network;
use crate::vision::{HeatMap, TensorLayout};

/// Where the network looked.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The method used.
    pub method: Method,
    /// The layers explained; the input's name for input gradients.
    pub layers: Vec<String>,
    /// The classes and the kind of score.
    pub score: Score,
    /// The judge's logits for this input.
    pub logits: Vec<f32>,
    /// The map.
    pub map: Map,
    /// The hottest region in pixels of the input; `None` where the map is zero.
    pub region: Option<Region>,
    /// Time of the forward run, zero where one was taken over.
    pub forward_time: Duration,
    /// Time of everything after the forward run.
    pub explain_time: Duration,
}

/// Explains one input of `network`.
///
/// `forward` may be a run of the same input that was made before ([`Explainer::forward`]); otherwise the
/// network runs once here.
///
/// # Errors
/// See [`ExplainError`]. When `cancel` is raised, work stops before the next run of the network; there
/// it also gives way, see [`Cancel::checkpoint`].
pub fn explain(
    explainer: &Explainer,
    network: &Network,
    input: &[f32],
    forward: Option<Forward>,
    judge: &Judge<'_>,
    request: &Request,
    cancel: &Cancel,
) -> Result<Explanation, ExplainError> {
    request.check()?;
    cancel.check()?;
    let began = Instant::now();
    let forward = match forward {
        Some(forward) => forward,
        None => explainer.forward(network, input)?,
    };
    let forward_time = began.elapsed();
    let logits = judge.logits(&forward)?;
    let (class, against) = judge.resolve(&request.class, &logits)?;
    let (kind, independent) = (request.score_kind, judge.has_independent_classes(network));
    let score = Score { class, against, kind, independent };
    let subject = Subject { explainer, network, input, forward: &forward, judge, score, cancel };
    let mut raw = raw_map(subject, request)?;
    if request.flip_smoothing {
        cancel.checkpoint()?;
        let mirrored = mirror_input(network, input);
        let forward = explainer.forward(network, &mirrored)?;
        let subject = Subject { input: &mirrored, forward: &forward, ..subject };
        raw = raw.mean_with_mirrored(raw_map(subject, request)?);
    }
    let size = (raw.height, raw.width);
    let map = Map::new(size, raw.values, request.evidence, request.scaling)?;
    let region = map.region(network.input().size, request.box_threshold)?;
    let mut layers = explainer.layers();
    if layers.is_empty() {
        layers.push(network.input().name.clone());
    }
    Ok(Explanation {
        method: request.method,
        layers,
        score,
        logits,
        map,
        region,
        forward_time,
        explain_time: began.elapsed().saturating_sub(forward_time),
    })
}

/// A signed map.
struct Raw {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Raw {
    fn mean_with_mirrored(mut self, other: Raw) -> Raw {
        let rows = self.values.chunks_mut(self.width).zip(other.values.chunks(other.width));
        for (row, mirrored) in rows {
            for (value, other) in row.iter_mut().zip(mirrored.iter().rev()) {
                *value = 0.5 * (*value + other);
            }
        }
        self
    }
}

fn raw_map(subject: Subject<'_>, request: &Request) -> Result<Raw, ExplainError> {
    if request.method.is_saliency() {
        return saliency_map(subject, request);
    }
    subject.cancel.checkpoint()?;
    let gradients = if request.method.uses_layer_gradient() {
        let seed = subject.score.gradient(&subject.judge.logits(subject.forward)?);
        subject.explainer.gradients(subject.forward, subject.judge, seed)?
    } else {
        Vec::new()
    };
    let mut maps = Vec::new();
    for (index, layer) in subject.explainer.explained().iter().enumerate() {
        subject.cancel.checkpoint()?;
        let activations = subject.explainer.activations(index, subject.forward);
        let gradient = gradients.get(index).map(|gradient| layer.axes.read(gradient));
        let values = layer_map(subject, request, index, &activations, gradient.as_ref())?;
        maps.push(Raw { height: activations.height, width: activations.width, values });
    }
    average(maps)
}

fn layer_map(
    subject: Subject<'_>,
    request: &Request,
    index: usize,
    activations: &FeatureMap<'_>,
    gradient: Option<&FeatureMap<'_>>,
) -> Result<Vec<f32>, ExplainError> {
    let weighted =
        |weights: &[f32]| cam::weighted_map(activations, weights, request.eigen_smoothing);
    Ok(match (request.method, gradient) {
        (Method::ScoreCam, _) => {
            weighted(&occlusion::score_cam(subject, activations, request.channels)?)
        }
        (Method::AblationCam, _) => {
            weighted(&occlusion::ablation_cam(subject, index, activations, request.channels)?)
        }
        (method, Some(gradient)) => {
            cam::gradient_map(method, activations, gradient, request.eigen_smoothing)
        }
        (_, None) => cam::eigen_cam(activations),
    })
}

/// The maps of several layers, each divided by its largest magnitude and brought to the size of the
/// largest, averaged. One layer's map stays as it is. A NaN stays one, for [`Map::new`] to refuse.
fn average(mut maps: Vec<Raw>) -> Result<Raw, ExplainError> {
    if maps.len() <= 1 {
        return maps.pop().ok_or(ExplainError::NoSpatialLayer);
    }
    let height = maps.iter().map(|map| map.height).max().unwrap_or(1);
    let width = maps.iter().map(|map| map.width).max().unwrap_or(1);
    let mut sum = vec![0.0; height * width];
    let count = maps.len() as f32;
    for map in maps {
        let most = map.values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        if map.values.iter().all(|value| *value == 0.0) {
            continue;
        }
        let enlarged = HeatMap::new(map.height, map.width, &map.values)
            .map_err(|_| ExplainError::NotFinite("map's size"))?
            .resize(height, width);
        sum.iter_mut().zip(enlarged).for_each(|(s, value)| *s += value / most / count);
    }
    Ok(Raw { height, width, values: sum })
}

fn saliency_map(subject: Subject<'_>, request: &Request) -> Result<Raw, ExplainError> {
    let gradient = if request.method == Method::SmoothGrad {
        saliency::smooth_gradient(subject, request.smooth_grad, request.seed)?
    } else {
        subject.cancel.checkpoint()?;
        saliency::input_gradient(subject)?
    };
    let input = subject.network.input();
    let values = saliency::over_channels(&gradient, input.channels, input.layout);
    Ok(Raw { height: input.size, width: input.size, values })
}

/// The input with its columns in reverse order.
fn mirror_input(network: &Network, input: &[f32]) -> Vec<f32> {
    let size = network.input().size;
    let group = match network.input().layout {
        TensorLayout::Nchw => 1,
        TensorLayout::Nhwc => network.input().channels,
    };
    let row = |row: &[f32]| -> Vec<f32> { row.chunks(group).rev().flatten().copied().collect() };
    input.chunks(size * group).flat_map(row).collect()
}
