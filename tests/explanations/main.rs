//! Explanations of the real networks, against pytorch-grad-cam and labelled boxes, and of networks
//! that cannot be explained.
//!
//! `cargo test --test explanations -- --nocapture` prints the parity tables.

#[path = "../common/mod.rs"]
mod common;

mod behaviour;
mod by_hand;
mod channels_last;
mod elephants;
mod flat;
mod missing;
mod parity;
mod pooling;
mod refusals;

use std::path::Path;

use common::AssetModel;
pub use common::json::fixture;
use common::json::numbers;
use graftd::base::cancel::Cancel;
use graftd::explain::{Demand, Explainer, Explanation, Judge, Request, explain};
use graftd::graph::{Network, Options, Source};
use graftd::heads::{Classifier, Head, Kind, Linear, Matrix, Transform};
use serde_json::Value;

/// The network's own classifier.
pub const OWN: Judge<'static> = Judge { head: None, labels: &[] };

/// A network of the assets.
pub fn load(assets: &Path, model: &AssetModel) -> Network {
    let source = Source::File(assets.join(&model.file));
    Network::load(source, &Options::default()).expect("the network loads")
}

/// The same by its id, with what the assets know of it.
pub fn named(assets: &Path, id: &str) -> (AssetModel, Network) {
    let model = common::models(assets).into_iter().find(|model| model.id == id).expect("known");
    let network = load(assets, &model);
    (model, network)
}

/// A list of numbers.
pub fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|number| number as f32).collect()
}

/// A linear head of three classes with arbitrary weights.
pub fn head(width: usize) -> Head {
    let values = (0..3 * width).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 500.0).collect();
    let linear = Linear::new(Matrix::new(3, width, values).unwrap(), vec![0.1, 0.0, -0.1]).unwrap();
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    Head::new(Kind::Softmax, classes, Transform::default(), Classifier::Linear(linear)).unwrap()
}

/// Explains with the network's own classifier.
pub fn run(network: &Network, input: &[f32], layers: &[String], request: &Request) -> Explanation {
    let demand = Demand::of(request.method);
    let explainer = Explainer::new(network, layers, demand, false).expect("prepared");
    explain(&explainer, network, input, None, &OWN, request, &Cancel::default()).expect("explained")
}

/// A network of `tests/reference`.
pub fn small(file: &str) -> Network {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
    Network::load(Source::File(path), &Options::default()).expect("the network loads")
}
