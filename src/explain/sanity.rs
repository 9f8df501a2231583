//! The sanity check of Adebayo et al. (2018): an explanation of a network must change when the
//! network forgets what it has learnt.

use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use super::explainer::{Path, Sources, spatial_layers};
use super::{Demand, ExplainError, Explainer, Explanation, Judge, Request, explain, spearman};
use crate::base::cancel::Cancel;
use crate::grad::{replace_weight, weights};
use crate::graph::Network;

/// Most stages of a cascade: several weights are shuffled at once where a network has more.
const MAX_STAGES: usize = 8;

/// One stage of the cascade.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// The node whose weights were shuffled last; all behind it are shuffled too.
    pub node: String,
    /// Spearman's rank correlation of the raw map with that of the intact network.
    pub correlation: f64,
}

/// Shuffles the values of the weights from the classifier downwards, some more at each stage, and
/// compares the maps of the same class at the same layers.
///
/// # Errors
/// As [`explain`].
pub fn cascade(
    network: &Network,
    input: &[f32],
    judge: &Judge<'_>,
    intact: &Explanation,
    request: &Request,
    cancel: &Cancel,
) -> Result<Vec<Stage>, ExplainError> {
    let demand = Demand::of(request.method);
    let names = if demand == Demand::InputGradient {
        Vec::new()
    } else {
        spatial_layers(network, &intact.layers, judge.head.is_some())?
    };
    let logits = network.classifier().map(|classifier| classifier.logits);
    let embedding = network.embedding().tensor.clone();
    let mut declared = vec![embedding.as_str(), logits.as_deref().unwrap_or(&embedding)];
    declared.extend(names.iter().map(String::as_str));
    if demand == Demand::InputGradient {
        declared.push(&network.input().name);
    }
    let view = network.view(&declared)?;
    let mut model = view.model().clone();
    let mut from_the_top = weights(&model);
    from_the_top.reverse();
    let per_stage = from_the_top.len().div_ceil(MAX_STAGES).max(1);
    let mut rng = StdRng::seed_from_u64(request.seed);
    let request = Request { class: intact.score.spec(), ..request.clone() };
    let mut stages = Vec::new();
    for group in from_the_top.chunks(per_stage) {
        cancel.check()?;
        for weight in group {
            let fact = model.outlet_fact(weight.outlet).ok().and_then(|fact| fact.konst.clone());
            let Some(tensor) = fact else { continue };
            let plain = tensor.try_as_plain_ram().ok();
            let Some(values) = plain.as_ref().and_then(|plain| plain.as_slice::<f32>().ok()) else {
                continue;
            };
            let mut values = values.to_vec();
            values.shuffle(&mut rng);
            replace_weight(&mut model, weight.outlet, &values)?;
        }
        let by_head = judge.head.is_some();
        let sources = Sources { network, model: &model, view: &view, names: &names };
        let path = Path { own_plan: false, closed_form: false };
        let explainer = Explainer::compile(sources, demand, by_head, path)?;
        let other = explain(&explainer, network, input, None, judge, &request, cancel)?;
        stages.push(Stage {
            node: group.last().map(|weight| weight.node.clone()).unwrap_or_default(),
            correlation: spearman(&intact.map.raw, &other.map.raw),
        });
    }
    Ok(stages)
}
