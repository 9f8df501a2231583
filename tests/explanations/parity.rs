//! Raw maps against those of pytorch-grad-cam and of the Keras tutorial's recipe.

use std::path::Path;

use graftd::base::cancel::Cancel;
use graftd::explain::{ClassSpec, Demand, Explainer, Judge, Method, Request, ScoreKind, explain};
use graftd::heads::{Classifier, Head, Kind, Linear, Matrix, Transform};

use crate::{OWN, common, fixture, floats, named, run};

/// Score-CAM and Ablation-CAM cost a thousand runs a photograph here; `explanations.py` leaves them out.
const WITHOUT_OCCLUSION: [&str; 1] = ["googlenet"];

#[test]
fn raw_maps_agree_with_pytorch_grad_cam_for_every_method_that_it_has() {
    let Some(assets) = common::assets() else { return };
    println!("largest |ours - theirs| / max |theirs| over the photographs");
    for id in fixture("explanations.json").as_object().unwrap().keys() {
        for method in Method::ALL.into_iter().filter(|method| !method.is_saliency()) {
            if !(method.is_occlusion() && WITHOUT_OCCLUSION.contains(&id.as_str())) {
                compare(&assets, id, method);
            }
        }
    }
}

fn compare(assets: &Path, id: &str, method: Method) {
    let expected = &fixture("explanations.json")[id];
    let (model, network) = named(assets, id);
    let layer = expected["layer"].as_str().unwrap().to_string();
    let photographs = expected["photographs"].as_array().unwrap();
    let (mut worst, mut count) = (0.0_f32, 0);
    for (photograph, input) in photographs.iter().zip(common::reference_inputs(assets, &model)) {
        let Some(raw) = photograph["raw"].get(method.name()) else { continue };
        count += 1;
        let class = photograph["class"].to_string().parse::<ClassSpec>().unwrap();
        let request = Request { method, class, ..Request::default() };
        let ours = run(&network, &input, std::slice::from_ref(&layer), &request);
        worst = worst.max(map_error(&ours.map.raw, &floats(raw), method));
        if let Some(smooth) = photograph["eigen_smoothing"].get(method.name()) {
            let request = Request { eigen_smoothing: true, ..request };
            let ours = run(&network, &input, std::slice::from_ref(&layer), &request);
            worst = worst.max(map_error(&ours.map.raw, &floats(smooth), Method::EigenCam));
        }
    }
    println!("{id:<28} {method:<14} {count} photographs  {worst:.1e}");
    assert!(count > 0 && worst <= 1e-3, "{id} {method}: {worst:.1e} over {count} photographs");
}

/// Relative to the reference's largest magnitude; a principal component up to its sign.
fn map_error(ours: &[f32], theirs: &[f32], method: Method) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let error = |sign: f32| {
        ours.iter().zip(theirs).fold(0.0_f32, |most, (a, b)| most.max((a - sign * b).abs())) / scale
    };
    if method == Method::EigenCam { error(1.0).min(error(-1.0)) } else { error(1.0) }
}

#[test]
fn the_keras_tutorials_recipe_is_grad_cam_of_the_probability() {
    let Some(assets) = common::assets() else { return };
    for (id, expected) in fixture("explanations.json").as_object().unwrap() {
        let (model, network) = named(&assets, id);
        let inputs = common::reference_inputs(&assets, &model);
        for (photograph, input) in expected["photographs"].as_array().unwrap().iter().zip(&inputs) {
            let request = Request { score_kind: ScoreKind::Probability, ..Request::default() };
            let ours = run(&network, input, &[], &request);
            let error = map_error(&ours.map.values, &floats(&photograph["keras"]), Method::GradCam);
            assert!(error <= 1e-3, "{id}: {error:.1e}");
        }
    }
}

#[test]
fn the_closed_form_of_a_pooled_linear_head_equals_the_general_sweep() {
    let Some(assets) = common::assets() else { return };
    for id in ["mobilenet-v2", "shufflenet-v2", "resnet20-cifar10"] {
        let (model, network) = named(&assets, id);
        let input = common::reference_inputs(&assets, &model).remove(0);
        let layer = network.last_spatial().unwrap().name.clone();
        assert_eq!(network.embedding().pooled_from.as_ref(), Some(&layer), "{id}");
        let head = head(network.embedding().width);
        for judge in [OWN, Judge { head: Some(&head), labels: &[] }] {
            let by_head = judge.head.is_some();
            let short = Explainer::new(&network, &[], Demand::LayerGradient, by_head).unwrap();
            let long = Explainer::by_sweep(&network, &layer, by_head).unwrap();
            assert!(short.shares_network_plan() && !long.shares_network_plan());
            let of = |explainer: &Explainer| {
                let request = Request::default();
                let cancel = Cancel::default();
                explain(explainer, &network, &input, None, &judge, &request, &cancel).unwrap()
            };
            let error = map_error(&of(&short).map.raw, &of(&long).map.raw, Method::GradCam);
            assert!(error <= 1e-5, "{id} by head {by_head}: {error:.1e}");
        }
    }
}

/// A linear head of three classes with arbitrary weights.
fn head(width: usize) -> Head {
    let values = (0..3 * width).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 500.0).collect();
    let linear = Linear::new(Matrix::new(3, width, values).unwrap(), vec![0.1, 0.0, -0.1]).unwrap();
    let classes = ["a", "b", "c"].map(String::from).to_vec();
    Head::new(Kind::Softmax, classes, Transform::default(), Classifier::Linear(linear)).unwrap()
}
