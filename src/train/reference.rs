//! Fits beside scikit-learn's; `tests/reference/training.py` made the numbers.

use serde_json::Value;

use super::covariance::{Scatter, add_centred, by_class, moments};
use super::lda::{self, Shrinkage};
use super::logistic::{LogisticOptions, fit_softmax};
use super::{DenseRows, Samples, Stop};
use crate::base::cancel::Cancel;
use crate::heads::Transform;

struct Reference {
    json: Value,
    x: Vec<f32>,
    y: Vec<u32>,
    width: usize,
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

impl Reference {
    fn read() -> Self {
        let text = include_str!("../../tests/reference/training.json");
        let json: Value = serde_json::from_str(text).unwrap();
        let x = numbers(&json["x"]).iter().map(|&v| v as f32).collect();
        let y = numbers(&json["y"]).iter().map(|&v| v as u32).collect();
        let width = json["width"].as_u64().unwrap() as usize;
        Self { json, x, y, width }
    }

    fn options(&self) -> LogisticOptions {
        LogisticOptions {
            inverse_penalty: self.json["inverse_penalty"].as_f64().unwrap(),
            stop: Stop::default(),
            ..LogisticOptions::default()
        }
    }
}

fn classes(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("class {i}")).collect()
}

fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((f64::from(*a) - b).abs() <= tolerance * scale, "{a} {b}");
    }
}

#[test]
fn softmax_regression_reaches_the_objective_and_the_weights_of_scikit_learn() {
    let reference = Reference::read();
    let rows = DenseRows::new(&reference.x, reference.width).unwrap();
    let samples = Samples::new(&rows, reference.y.clone(), classes(3));
    let (transform, cancel) = (Transform::default(), Cancel::default());
    let options = reference.options();
    let found = fit_softmax(&samples, &transform, &options, &cancel, &mut |_, _| {}).unwrap();
    let expected = reference.json["logistic"]["objective"].as_f64().unwrap();
    assert!(found.converged);
    assert!((found.objective / expected - 1.0).abs() < 1e-6, "{} {expected}", found.objective);
    let weights = numbers(&reference.json["logistic"]["weights"]);
    assert_near(found.linear.weights().values(), &weights, 2e-3);
}

#[test]
fn two_classes_are_penalised_as_one_vector_of_weights() {
    let reference = Reference::read();
    let chosen: Vec<usize> = (0..reference.y.len()).filter(|&i| reference.y[i] < 2).collect();
    let width = reference.width;
    let x: Vec<f32> =
        chosen.iter().flat_map(|&i| reference.x[i * width..(i + 1) * width].to_vec()).collect();
    let rows = DenseRows::new(&x, width).unwrap();
    let labels = chosen.iter().map(|&i| reference.y[i]).collect();
    let samples = Samples::new(&rows, labels, classes(2));
    let (transform, cancel) = (Transform::default(), Cancel::default());
    let options = reference.options();
    let found = fit_softmax(&samples, &transform, &options, &cancel, &mut |_, _| {}).unwrap();
    let expected = reference.json["logistic_of_two"].as_f64().unwrap();
    assert!((found.objective / expected - 1.0).abs() < 1e-6, "{} {expected}", found.objective);
}

#[test]
fn the_discriminant_is_that_of_scikit_learn() {
    let reference = Reference::read();
    let rows = DenseRows::new(&reference.x, reference.width).unwrap();
    let samples = Samples::new(&rows, reference.y.clone(), classes(3));
    let shrinkage = Shrinkage::LedoitWolfByClass;
    let found = lda::fit(&samples, &Transform::default(), shrinkage, &Cancel::default()).unwrap();
    let lda = &reference.json["lda"];
    assert_near(found.weights().values(), &numbers(&lda["weights"]), 1e-5);
    assert_near(found.bias(), &numbers(&lda["bias"]), 1e-5);
}

#[test]
fn shrinkage_intensities_are_those_of_scikit_learn() {
    let reference = Reference::read();
    let rows = DenseRows::new(&reference.x, reference.width).unwrap();
    let (none, cancel) = (Transform::default(), Cancel::default());
    let mut scatter = Scatter::new(reference.width);
    for indices in by_class(&reference.y, 3) {
        let (mean, _) = moments(&rows, &none, &indices, &cancel).unwrap();
        add_centred(&mut scatter, &rows, &none, &indices, &mean, &[], &cancel).unwrap();
    }
    for (found, name) in [
        (scatter.ledoit_wolf(), "ledoit_wolf"),
        (scatter.oracle_approximating(), "oracle_approximating"),
    ] {
        let expected = reference.json[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
    }
}
