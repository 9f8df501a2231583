//! Explanations of the real networks, against PyTorch autograd, pytorch-grad-cam and labelled boxes.
//!
//! `cargo test --test explanations -- --nocapture` prints the parity tables.

mod common;

use std::path::PathBuf;
use std::time::Instant;

use common::AssetModel;
use graftd::base::cancel::Cancel;
use graftd::explain::{
    ClassSpec, Demand, Evidence, ExplainError, Explainer, Explanation, Judge, Method, Request,
    ScoreKind, explain, quality, sanity,
};
use graftd::grad::{Reverse, evaluate, weights};
use graftd::graph::{Network, Options, Plan, Source, Tap};
use graftd::heads::{Classifier, Head, Kind, Linear, Matrix, Transform};
use graftd::vision::{BoundingBox, Limits, Preprocessing, Preset, decode, preprocess};
use serde_json::Value;

const OWN: Judge<'static> = Judge { head: None, labels: &[] };

fn load(assets: &std::path::Path, model: &AssetModel) -> Network {
    let source = Source::File(assets.join(&model.file));
    Network::load(source, &Options::default()).expect("the network loads")
}

fn named(assets: &std::path::Path, id: &str) -> (AssetModel, Network) {
    let model = common::models(assets).into_iter().find(|model| model.id == id).expect("known");
    let network = load(assets, &model);
    (model, network)
}

fn fixture(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

/// Explains with the network's own classifier.
fn run(network: &Network, input: &[f32], layers: &[String], request: &Request) -> Explanation {
    let demand = Demand::of(request.method);
    let explainer = Explainer::new(network, layers, demand, false).expect("prepared");
    explain(&explainer, network, input, None, &OWN, request, &Cancel::default()).expect("explained")
}

/// A value of the graph in the ONNX tensor's own order of axes.
fn in_onnx_order(tap: &Tap, shape: &[usize], value: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|axis| tap.axes[*axis]);
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let mut offsets = vec![0];
    for axis in order {
        let stride = strides[axis];
        offsets =
            offsets.iter().flat_map(|at| (0..shape[axis]).map(move |i| at + i * stride)).collect();
    }
    offsets.into_iter().map(|at| value[at]).collect()
}

/// Largest difference in norm, product and entries, relative to the gradient's norm or entry.
fn gradient_error(expected: &Value, gradient: &[f32]) -> f64 {
    assert_eq!(gradient.len() as u64, expected["len"].as_u64().unwrap());
    let wide: Vec<f64> = gradient.iter().map(|g| f64::from(*g)).collect();
    let norm = expected["norm"].as_f64().unwrap();
    let ours = wide.iter().map(|g| g * g).sum::<f64>().sqrt();
    let product: f64 = wide.iter().enumerate().map(|(i, g)| g * (0.7 * i as f64).cos()).sum();
    let pattern = (wide.len() as f64 / 2.0).sqrt();
    let largest = wide.iter().fold(0.0_f64, |most, g| most.max(g.abs()));
    let mut error = (ours - norm).abs() / norm;
    error = error.max((product - expected["product"].as_f64().unwrap()).abs() / (norm * pattern));
    for (at, value) in expected["at"].as_array().unwrap().iter().zip(floats(&expected["values"])) {
        let got = gradient[at.as_u64().unwrap() as usize];
        error = error.max(f64::from((got - value).abs()) / largest);
    }
    error
}

#[test]
fn gradients_agree_with_pytorch_autograd_at_feature_maps_input_and_weights() {
    let Some(assets) = common::assets() else { return };
    let reference = fixture("gradients.json");
    for model in common::models(&assets) {
        let network = load(&assets, &model);
        let expected = &reference["networks"][&model.id];
        let input = common::reference_inputs(&assets, &model).remove(0);
        let names: Vec<&str> = expected["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["name"].as_str().unwrap())
            .collect();
        let logits = network.classifier().unwrap().logits;
        let declared: Vec<&str> = std::iter::once(logits.as_str()).chain(names.clone()).collect();
        let view = network.view(&declared).unwrap();
        let mut by: Vec<_> = view.taps()[1..].iter().map(|tap| tap.outlet).collect();
        let mut kernels = Vec::new();
        for kernel in expected["weights"].as_array().unwrap() {
            // Folded batch normalisation changes a kernel; then there is nothing to compare with.
            let first = floats(&kernel["first"]);
            let same = |outlet| {
                let constant = view.model().outlet_fact(outlet).unwrap().konst.clone().unwrap();
                let plain = constant.try_as_plain_ram().unwrap();
                let values = plain.as_slice::<f32>().unwrap();
                values.len() as u64 == kernel["len"].as_u64().unwrap() && values.starts_with(&first)
            };
            if let Some(weight) = weights(view.model()).iter().find(|weight| same(weight.outlet)) {
                by.push(weight.outlet);
                kernels.push(kernel);
            }
        }
        let target = view.taps()[0].outlet;
        let reverse = Reverse::new(view.model(), target, &by).unwrap();
        let class = expected["class"].as_u64().unwrap() as usize;
        let classes = network.classifier().unwrap().classes;
        let plan = Plan::build(view.model(), reverse.needed()).unwrap();
        let values = plan.run(&input).unwrap();
        let needed: Vec<&[f32]> = values.iter().map(graftd::graph::Tensor::values).collect();
        let seed = (0..classes).map(|i| f32::from(i == class)).collect();
        let single = reverse.run(&needed, seed).unwrap();
        // The rectifiers of a network jump: at weights, whose gradients sum over whole planes, the
        // few that flip through rounding can be seen. In f64 none does.
        let image = view.model().input_outlets().unwrap()[0];
        let wide = input.iter().map(|x| f64::from(*x)).collect();
        let needed = evaluate(view.model(), vec![(image, wide)], reverse.needed()).unwrap();
        let needed: Vec<&[f64]> = needed.iter().map(Vec::as_slice).collect();
        let seed = (0..classes).map(|i| f64::from(i == class)).collect();
        let double = reverse.run(&needed, seed).unwrap();
        let layers = expected["layers"].as_array().unwrap();
        let references: Vec<&Value> = layers.iter().chain(kernels).collect();
        let mut line = format!("{:<28}", model.id);
        for (index, reference) in references.into_iter().enumerate() {
            let ordered = |gradient: &[f32]| match view.taps().get(1 + index) {
                Some(tap) => {
                    let fact = view.model().outlet_fact(tap.outlet).unwrap();
                    in_onnx_order(tap, fact.shape.as_concrete().unwrap(), gradient)
                }
                None => gradient.to_vec(),
            };
            let in_f64: Vec<f32> = double[index].iter().map(|x| *x as f32).collect();
            let in_f64 = gradient_error(reference, &ordered(&in_f64));
            let in_f32 = gradient_error(reference, &ordered(&single[index]));
            line += &format!(" {in_f64:.0e}/{in_f32:.0e}");
            assert!(in_f64 <= 1e-4, "{} {}: {in_f64:.1e}", model.id, reference["name"]);
            assert!(in_f32 <= 1e-3, "{} {}: {in_f32:.1e} in f32", model.id, reference["name"]);
        }
        println!("{line}  last map, middle map, input, weights: error in f64/f32");
    }
}

#[test]
fn raw_maps_agree_with_pytorch_grad_cam_for_every_method_that_it_has() {
    let Some(assets) = common::assets() else { return };
    println!("largest |ours - theirs| / max |theirs| over three photographs");
    for (id, expected) in fixture("explanations.json").as_object().unwrap() {
        let (model, network) = named(&assets, id);
        let inputs = common::reference_inputs(&assets, &model);
        let layer = expected["layer"].as_str().unwrap().to_string();
        for method in Method::ALL.into_iter().filter(|method| !method.is_saliency()) {
            let photographs = expected["photographs"].as_array().unwrap();
            if photographs[0]["raw"].get(method.name()).is_none() {
                continue;
            }
            let mut worst = 0.0_f32;
            for (photograph, input) in
                expected["photographs"].as_array().unwrap().iter().zip(&inputs)
            {
                let class = photograph["class"].to_string().parse::<ClassSpec>().unwrap();
                let request = Request { method, class, ..Request::default() };
                let ours = run(&network, input, std::slice::from_ref(&layer), &request);
                worst = worst.max(map_error(
                    &ours.map.raw,
                    &floats(&photograph["raw"][method.name()]),
                    method,
                ));
                if let Some(smooth) = photograph["eigen_smoothing"].get(method.name()) {
                    let request = Request { eigen_smoothing: true, ..request };
                    let ours = run(&network, input, std::slice::from_ref(&layer), &request);
                    let error = map_error(&ours.map.raw, &floats(smooth), Method::EigenCam);
                    worst = worst.max(error);
                }
            }
            println!("{id:<24} {method:<16} {worst:.1e}");
            assert!(worst <= 1e-3, "{id} {method}: {worst:.1e}");
        }
    }
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

/// The elephants with their boxes, ready for mobilenet-v2.
fn elephants(assets: &std::path::Path) -> Vec<(String, Vec<BoundingBox>)> {
    let folder = assets.join("images/boxes");
    let text = std::fs::read_to_string(folder.join("boxes.json")).unwrap();
    let entries: Value = serde_json::from_str(&text).unwrap();
    let of = |entry: &Value| {
        let boxes = entry["boxes"].as_array().unwrap().iter().map(floats);
        let boxes = boxes.map(|b| BoundingBox { x0: b[0], y0: b[1], x1: b[2], y1: b[3] });
        let path = folder.join(entry["file"].as_str().unwrap());
        (path.to_string_lossy().into_owned(), boxes.collect())
    };
    entries.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn ten_of_ten_elephants_are_seen_where_they_are() {
    const ELEPHANTS: [usize; 3] = [101, 385, 386];
    let Some(assets) = common::assets() else { return };
    let (_, network) = named(&assets, "mobilenet-v2");
    let preprocessing = Preprocessing::preset(Preset::Imagenet, 224);
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let (mut hits, mut elephants_seen, mut energy) = (0, 0, 0.0);
    let images = elephants(&assets);
    for (path, boxes) in &images {
        let picture = decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap();
        let mut input = vec![0.0; preprocessing.tensor_len()];
        let layout = network.input().layout;
        let placement = preprocess(&picture, &preprocessing, layout, &mut input).unwrap();
        let request = Request::default();
        let cancel = Cancel::default();
        let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
        let truth = quality::Truth { boxes, placement: &placement };
        hits += usize::from(truth.is_hit(&found));
        elephants_seen += usize::from(ELEPHANTS.contains(&found.score.class));
        energy += found.map.energy_inside(boxes, &placement).unwrap() / images.len() as f32;
    }
    println!(
        "elephants: top-1 {elephants_seen}/10, peak in a box {hits}/10, energy inside {energy:.3} (enlarged to the input)"
    );
    assert_eq!((elephants_seen, hits), (10, 10));
    assert!(energy >= 0.64, "{energy}");
}

#[test]
fn every_method_answers_with_finite_numbers_even_for_a_picture_of_one_colour() {
    let Some(assets) = common::assets() else { return };
    let (_, network) = named(&assets, "resnet20-cifar10");
    for value in [0.0, 1.0, -2.0] {
        let input = vec![value; network.plan().input_len()];
        for method in Method::ALL {
            for evidence in [Evidence::For, Evidence::Against, Evidence::Signed] {
                let request =
                    Request { method, evidence, flip_smoothing: true, ..Request::default() };
                let found = run(&network, &input, &[], &request);
                assert!(found.map.values.iter().all(|v| v.abs() <= 1.0), "{method} {value}");
            }
        }
    }
}

#[test]
fn layers_half_way_down_and_several_together_are_explained_through_skip_connections() {
    let Some(assets) = common::assets() else { return };
    for id in ["mobilenet-v2", "shufflenet-v2", "squeezenet-1.1", "mobilenet-v3-small"] {
        let (model, network) = named(&assets, id);
        let input = common::reference_inputs(&assets, &model).remove(0);
        let spatial: Vec<String> =
            network.layers().iter().filter(|l| l.spatial).map(|l| l.name.clone()).collect();
        let middle = spatial[spatial.len() / 2].clone();
        let last = spatial[spatial.len() - 1].clone();
        for method in [Method::GradCam, Method::AblationCam] {
            let request = Request { method, channels: Some(4), ..Request::default() };
            let found = run(&network, &input, std::slice::from_ref(&middle), &request);
            assert_eq!(found.layers, [middle.clone()]);
            let both = run(&network, &input, &[middle.clone(), last.clone()], &request);
            assert_eq!((both.map.height, both.map.width), (found.map.height, found.map.width));
        }
    }
}

#[test]
fn what_cannot_be_explained_is_refused_by_name() {
    let Some(assets) = common::assets() else { return };
    let (_, network) = named(&assets, "mobilenet-v2");
    let prepare = |layer: &str| {
        Explainer::new(&network, &[layer.to_string()], Demand::LayerGradient, false).map(|_| ())
    };
    assert!(prepare("nowhere").unwrap_err().to_string().contains("nowhere"));
    let flat = network.layers().iter().find(|layer| !layer.spatial).unwrap();
    assert!(matches!(prepare(&flat.name), Err(ExplainError::NotSpatial { .. })));
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let with = |class: &str, input: Vec<f32>| {
        let request = Request { class: class.parse().unwrap(), ..Request::default() };
        let cancel = Cancel::default();
        explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap_err()
    };
    let input = vec![0.0; network.plan().input_len()];
    assert!(matches!(with("1000", input.clone()), ExplainError::ClassRange { .. }));
    assert!(matches!(with("label:tabby", input), ExplainError::UnknownLabel(_)));
}

#[test]
fn score_cam_stops_before_its_next_run_when_the_caller_leaves() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "mobilenet-v2");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let explainer = Explainer::new(&network, &[], Demand::Values, false).unwrap();
    let cancel = Cancel::default();
    let began = Instant::now();
    let result = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let request = Request { method: Method::ScoreCam, ..Request::default() };
            explain(&explainer, &network, &input, None, &OWN, &request, &cancel)
        });
        explainer.forward(&network, &input).unwrap();
        cancel.cancel();
        work.join().unwrap()
    });
    assert!(matches!(result, Err(ExplainError::Cancelled(_))), "after {:?}", began.elapsed());
}

#[test]
fn a_map_changes_when_the_network_forgets_and_its_quality_is_measured() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "resnet20-cifar10");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let request = Request::default();
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let cancel = Cancel::default();
    let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    let stages = sanity::cascade(&network, &input, &OWN, &found, &request, &cancel).unwrap();
    for stage in &stages {
        println!("{:<40} {:.3}", stage.node, stage.correlation);
    }
    assert!(stages.iter().all(|stage| stage.correlation < 0.9));
    let measured =
        quality::measure(&explainer, &network, &input, &OWN, &found, None, &cancel).unwrap();
    println!("{} {} {}", measured.insertion, measured.deletion, measured.average_drop);
    assert!(measured.insertion > measured.deletion);
    assert!((0.0..=1.0).contains(&measured.average_drop));
}

#[test]
fn a_prediction_can_be_explained_without_a_second_forward_run() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "mobilenet-v2");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let outputs = network.plan().run(&input).unwrap();
    let request = Request::default();
    let cancel = Cancel::default();
    let forward = explainer.adopt(&outputs);
    assert!(forward.is_some());
    let short = explain(&explainer, &network, &input, forward, &OWN, &request, &cancel).unwrap();
    let whole = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    assert_eq!(short.map, whole.map);

    // Printed, not asserted: times on a shared machine.
    let middle = network.layers().iter().filter(|layer| layer.spatial).count() / 2;
    let middle = network.layers().iter().filter(|layer| layer.spatial).nth(middle).unwrap();
    let layers = [middle.name.clone()];
    let half = Explainer::new(&network, &layers, Demand::LayerGradient, false).unwrap();
    let median = |work: &dyn Fn()| {
        let mut times: Vec<f64> = (0..15)
            .map(|_| {
                let began = Instant::now();
                work();
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let run = |explainer: &Explainer| {
        explain(explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    };
    let predict = median(&|| drop(network.plan().run(&input).unwrap()));
    println!(
        "mobilenet-v2: predict {predict:.1} ms, explain x{:.2}, at {} x{:.2}",
        median(&|| run(&explainer)) / predict,
        middle.name,
        median(&|| run(&half)) / predict
    );
}
