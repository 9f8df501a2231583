//! Raw maps against those of pytorch-grad-cam and of the Keras tutorial's recipe.

use std::path::Path;

use graftd::base::cancel::Cancel;
use graftd::explain::{ClassSpec, Demand, Explainer, Judge, Method, Request, ScoreKind, explain};
use serde_json::Value;

use crate::{OWN, common, fixture, floats, head, named, run};

/// Score-CAM runs these a thousand times a photograph: a test of its own, out of the daily ones.
const SLOW: [&str; 2] = ["mobilenet-v2", "googlenet"];

#[test]
fn raw_maps_agree_with_pytorch_grad_cam_for_every_method_that_it_has() {
    compare_all(|id, method| !is_slow(id, method));
}

#[test]
#[ignore = "some 7000 runs of large networks: ten minutes"]
fn raw_maps_of_score_cam_agree_for_networks_of_a_thousand_channels() {
    compare_all(is_slow);
}

fn is_slow(id: &str, method: Method) -> bool {
    method == Method::ScoreCam && SLOW.contains(&id)
}

/// Compares and prints what `wanted` accepts of six networks, eight methods, three photographs.
fn compare_all(wanted: impl Fn(&str, Method) -> bool) {
    let Some(assets) = common::assets() else { return };
    let reference = fixture("explanations.json");
    println!("largest |ours - theirs| / max |theirs| of three photographs");
    for (id, expected) in reference.as_object().unwrap() {
        let methods = Method::ALL.into_iter().filter(|method| !method.is_saliency());
        for method in methods.filter(|method| wanted(id, *method)) {
            let errors = compare(&assets, id, expected, method);
            let photographs = errors.map(|error| format!("{error:.0e}")).join("  ");
            println!("{id:<28} {method:<14} {photographs}");
            let agree = errors.iter().all(|error| *error <= 1e-3);
            assert!(agree, "{id} {method}: {photographs}");
        }
    }
}

#[test]
fn raw_maps_agree_where_activations_have_both_signs() {
    let Some(assets) = common::assets() else { return };
    let reference = fixture("explanations.json");
    let signed =
        |(id, expected): (&String, &Value)| Some((id.clone(), expected.get("signed")?.clone()));
    let cases: Vec<(String, Value)> =
        reference.as_object().unwrap().iter().filter_map(signed).collect();
    assert!(!cases.is_empty());
    for (id, expected) in cases {
        for method in Method::ALL.into_iter().filter(|method| !method.is_saliency()) {
            let errors = compare(&assets, &id, &expected, method);
            let photographs = errors.map(|error| format!("{error:.0e}")).join("  ");
            println!("{id} {} {method:<14} {photographs}", expected["layer"]);
            assert!(errors.iter().all(|error| *error <= 1e-3), "{id} {method}: {photographs}");
        }
    }
}

/// The error for each photograph, the larger of the two where the fixture has eigen smoothing too.
fn compare(assets: &Path, id: &str, expected: &Value, method: Method) -> [f32; 3] {
    let (model, network) = named(assets, id);
    let layers = [expected["layer"].as_str().unwrap().to_string()];
    let inputs = common::reference_inputs(assets, &model);
    let error = &|index: usize| {
        let photograph = &expected["photographs"][index];
        let class = photograph["class"].to_string().parse::<ClassSpec>().unwrap();
        let request = Request { method, class, ..Request::default() };
        let ours = run(&network, &inputs[index], &layers, &request);
        let error = map_error(&ours.map.raw, &floats(&photograph["raw"][method.name()]), method);
        let smooth = photograph.get("eigen_smoothing").and_then(|smooth| smooth.get(method.name()));
        let Some(smooth) = smooth else { return error };
        let request = Request { eigen_smoothing: true, ..request };
        let ours = run(&network, &inputs[index], &layers, &request);
        error.max(map_error(&ours.map.raw, &floats(smooth), method))
    };
    std::thread::scope(|scope| {
        let all = [0, 1, 2].map(|index| scope.spawn(move || error(index)));
        all.map(|one| one.join().unwrap())
    })
}

/// Relative to the reference's largest magnitude; Eigen-CAM, which has no sign of its own, up to that.
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
