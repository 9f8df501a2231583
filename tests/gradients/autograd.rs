//! Whole networks against `PyTorch`'s autograd in float64: the logit of the best class by the last
//! feature map, one half-way down, the input and three weights.
//!
//! What each number is: `f64`, our rules in f64 throughout; `f32`, the sweep that explanations run,
//! on the forward values of the optimised plan; `sweep`, how far that sweep is from the same sweep in
//! f64 on the same forward values. The rest of `f32` is the forward run's: near a kink of a rectifier
//! its rounding decides on which side a unit is, in `PyTorch`'s float32 (`torch f32`) as in ours. Such
//! units are counted as flipped: those whose value is above zero in one precision alone.

use std::path::PathBuf;

use graftd::grad::{Reverse, evaluate, weights};
use graftd::graph::{Network, Options, Plan, Source, Tap, Tensor, View};
use serde_json::Value;

use crate::common;

/// In f64 nothing but the order of additions differs.
const IN_F64: f64 = 1e-6;
/// Rounding of the f32 sweep alone.
const SWEEP: f64 = 1e-5;
/// All of f32 where no unit has flipped.
const IN_F32: f64 = 1e-4;
/// The same where some have: how much they matter is the network's affair, and rounding's.
const FLIPPED: f64 = 1e-3;
/// With random weights they matter more: `PyTorch`'s own float32 is up to 8e-3 away.
const FLIPPED_AT_RANDOM: f64 = 3e-2;

fn fixture() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/gradients.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// A value of the graph in the ONNX tensor's own order of axes.
fn in_onnx_order(tap: &Tap, shape: &[usize], value: &[f64]) -> Vec<f64> {
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

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Largest difference in norm, product with the fixture's pattern, and entries, relative to the
/// gradient's norm or largest entry.
fn difference(expected: &Value, gradient: &[f64]) -> f64 {
    assert_eq!(gradient.len() as u64, expected["len"].as_u64().unwrap());
    let length = number(&expected["norm"]);
    let pattern = |at: usize| (0.7 * at as f64).cos();
    let product: f64 = gradient.iter().enumerate().map(|(at, g)| g * pattern(at)).sum();
    let pattern_norm = (gradient.len() as f64 / 2.0).sqrt();
    let largest = gradient.iter().fold(0.0_f64, |most, g| most.max(g.abs()));
    let entries = list(&expected["at"]).iter().zip(list(&expected["values"]));
    let entries =
        entries.map(|(at, v)| (gradient[at.as_u64().unwrap() as usize] - number(v)).abs());
    let whole = (norm(gradient) - length).abs() / length;
    let along = (product - number(&expected["product"])).abs() / (length * pattern_norm);
    entries.fold(whole.max(along), |most, entry| most.max(entry / largest))
}

fn relative(ours: &[f32], theirs: &[f64]) -> f64 {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) - b).collect();
    norm(&differences) / norm(theirs).max(f64::MIN_POSITIVE)
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// A network's view with the tensors that the fixture names, and what stands for its weights there.
struct Prepared<'a> {
    view: View,
    reverse: Reverse,
    references: Vec<&'a Value>,
    classes: usize,
}

fn prepare<'a>(network: &Network, expected: &'a Value) -> Prepared<'a> {
    let classifier = network.classifier().expect("a classifier");
    let layers = list(&expected["layers"]);
    let names = layers.iter().map(|layer| layer["name"].as_str().unwrap());
    let declared: Vec<&str> = std::iter::once(classifier.logits.as_str()).chain(names).collect();
    let view = network.view(&declared).expect("the tensors are there");
    let mut by: Vec<_> = view.taps()[1..].iter().map(|tap| tap.outlet).collect();
    let mut references: Vec<&Value> = layers.iter().collect();
    for kernel in list(&expected["weights"]) {
        let first: Vec<f64> = list(&kernel["first"]).iter().map(number).collect();
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
        let same = |outlet| {
            let constant = view.model().outlet_fact(outlet).unwrap().konst.clone().unwrap();
            let plain = constant.try_as_plain_ram().unwrap();
            let values = plain.as_slice::<f32>().unwrap();
            values.len() as u64 == kernel["len"].as_u64().unwrap()
                && values.iter().zip(&first).all(|(a, b)| close(f64::from(*a), *b))
        };
        match weights(view.model()).iter().find(|weight| same(weight.outlet)) {
            Some(weight) => {
                by.push(weight.outlet);
                references.push(kernel);
            }
            None => {
                println!("    weight {} is not in the graph as it is in the file", kernel["name"]);
            }
        }
    }
    let reverse = Reverse::new(view.model(), view.taps()[0].outlet, &by).expect("rules");
    Prepared { view, reverse, references, classes: classifier.classes }
}

/// The errors of one gradient.
struct Row<'a> {
    name: &'a str,
    in_f64: f64,
    in_f32: f64,
    sweep: f64,
    torch: f64,
}

/// The rows, and how many units have flipped.
fn compare<'a>(network: &Network, input: &[f32], expected: &'a Value) -> (Vec<Row<'a>>, usize) {
    let Prepared { view, reverse, references, classes } = prepare(network, expected);
    let class = expected["class"].as_u64().unwrap() as usize;
    let one_hot: Vec<f64> = (0..classes).map(|i| f64::from(i == class)).collect();
    let image = view.model().input_outlets().unwrap()[0];
    let given = vec![(image, widen(input))];
    let true_values = evaluate(view.model(), given, reverse.needed()).unwrap();
    let true_values: Vec<&[f64]> = true_values.iter().map(Vec::as_slice).collect();
    let in_f64 = reverse.run(&true_values, one_hot.clone()).unwrap();
    let plan = Plan::build(view.model(), reverse.needed()).unwrap();
    let values = plan.run(input).unwrap();
    let narrow: Vec<&[f32]> = values.iter().map(Tensor::values).collect();
    let in_f32 = reverse.run(&narrow, one_hot.iter().map(|x| *x as f32).collect()).unwrap();
    let wide: Vec<Vec<f64>> = narrow.iter().map(|value| widen(value)).collect();
    let wide: Vec<&[f64]> = wide.iter().map(Vec::as_slice).collect();
    let exact = reverse.run(&wide, one_hot).unwrap();
    let pairs = true_values.iter().zip(&wide).flat_map(|(a, b)| a.iter().zip(*b));
    let flips = pairs.filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
    let ordered = |index: usize, gradient: &[f64]| match view.taps().get(1 + index) {
        Some(tap) => {
            let fact = view.model().outlet_fact(tap.outlet).unwrap();
            in_onnx_order(tap, fact.shape.as_concrete().unwrap(), gradient)
        }
        None => gradient.to_vec(),
    };
    let row = |(index, expected): (usize, &'a Value)| Row {
        name: expected["name"].as_str().unwrap(),
        in_f64: difference(expected, &ordered(index, &in_f64[index])),
        in_f32: difference(expected, &ordered(index, &widen(&in_f32[index]))),
        sweep: relative(&in_f32[index], &exact[index]),
        torch: number(&expected["float32"]),
    };
    (references.into_iter().enumerate().map(row).collect(), flips)
}

/// Prints the rows of one network and holds them to the bounds.
fn judge(id: &str, (rows, flips): &(Vec<Row<'_>>, usize), flipped: f64) {
    println!("{id}: {flips} units flipped");
    let allowed = if *flips == 0 { IN_F32 } else { flipped };
    for Row { name, in_f64, in_f32, sweep, torch } in rows {
        println!("    {in_f64:8.0e} {in_f32:8.0e} {sweep:8.0e} {torch:8.0e}  {name}");
        assert!(*in_f64 <= IN_F64, "{id} {name}: {in_f64:.1e} in f64");
        assert!(*sweep <= SWEEP, "{id} {name}: {sweep:.1e} by the sweep");
        assert!(*in_f32 <= allowed, "{id} {name}: {in_f32:.1e} in f32, {allowed:.1e} allowed");
    }
}

const HEADING: &str = "         f64      f32    sweep torch f32  gradient of the logit by";

#[test]
fn gradients_of_real_networks_agree_with_pytorch_autograd() {
    let Some(assets) = common::assets() else { return };
    let reference = fixture();
    println!("{HEADING}");
    for model in common::models(&assets) {
        let source = Source::File(assets.join(&model.file));
        let network = Network::load(source, &Options::default()).expect("the network loads");
        let input = common::reference_inputs(&assets, &model).remove(0);
        judge(&model.id, &compare(&network, &input, &reference["networks"][&model.id]), FLIPPED);
    }
}

/// The smooth pattern of `wave` in `gradients.py`.
fn wave(shape: &[u64]) -> Vec<f32> {
    let scale = if shape[3] == 3 { 1.0 } else { 0.01 };
    let at = |i: u64| {
        let i = i as f64;
        (scale * (127.5 + 60.0 * (0.011 * i).sin() + 40.0 * (0.37 * i).cos())) as f32
    };
    (0..shape.iter().product()).map(at).collect()
}

/// `architectures.py` makes the files; `gradients.py` made the fixture from them.
#[test]
fn gradients_of_generated_architectures_agree_with_pytorch_autograd() {
    let Some(folder) = std::env::var_os("GRAFTD_ARCHITECTURES").map(PathBuf::from) else {
        println!("skipped: no $GRAFTD_ARCHITECTURES (`just gradients` makes the networks)");
        return;
    };
    let reference = fixture();
    println!("{HEADING}");
    for (id, expected) in reference["architectures"].as_object().unwrap() {
        let path = folder.join(format!("{id}.onnx"));
        if !path.is_file() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let shape: Vec<u64> =
            list(&expected["shape"]).iter().map(|extent| extent.as_u64().unwrap()).collect();
        let options = Options { size: Some(shape[2] as u32), ..Options::default() };
        let network = Network::load(Source::File(path), &options).expect("the network loads");
        if network.digest().to_string() != expected["sha256"].as_str().unwrap() {
            println!("skipped: {id} is another file than the fixture's; run gradients.py again");
            continue;
        }
        judge(id, &compare(&network, &wave(&shape), expected), FLIPPED_AT_RANDOM);
    }
}
