//! Whole networks against `PyTorch`'s autograd in float64: the logit of the best class by the last
//! feature map, one half-way down, the input and three weights.
//!
//! What each number is: `f64`, our rules in f64 throughout; `at theirs`, the f32 sweep on the f64 run's
//! forward values; `f32`, the sweep that explanations run, on the forward values of the optimised
//! plan; `sweep`, how far that sweep is from the same sweep in f64 on the same forward values. `torch f32`
//! is `PyTorch`'s own float32.
//!
//! A derivative of a piecewise smooth function can be compared where the function has one. So the
//! inputs are photographs of which `kinks.py` moved some values a little, until no rectifier lay within
//! rounding of its kink. Units that have flipped nevertheless, above zero in one precision alone, are
//! counted.

use std::path::PathBuf;

use graftd::grad::{Reverse, evaluate};
use graftd::graph::{Network, Options, Plan, Source, Tap, Tensor, View};
use serde_json::Value;

use crate::common;
use crate::common::json::{fixture, list, number, numbers, whole};
use crate::standing::Standing;

/// In f64 nothing but the order of additions differs.
const IN_F64: f64 = 1e-6;
/// Rounding of the f32 sweep alone.
const SWEEP: f64 = 1e-5;
/// All of f32, forward run and sweep.
const IN_F32: f64 = 1e-4;

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
    assert_eq!(gradient.len(), whole(&expected["len"]));
    let length = number(&expected["norm"]);
    let pattern = |at: usize| (0.7 * at as f64).cos();
    let product: f64 = gradient.iter().enumerate().map(|(at, g)| g * pattern(at)).sum();
    let pattern_norm = (gradient.len() as f64 / 2.0).sqrt();
    let largest = gradient.iter().fold(0.0_f64, |most, g| most.max(g.abs()));
    let entries = list(&expected["at"]).iter().zip(numbers(&expected["values"]));
    let entries = entries.map(|(at, value)| (gradient[whole(at)] - value).abs());
    let length_off = (norm(gradient) - length).abs() / length;
    let along = (product - number(&expected["product"])).abs() / (length * pattern_norm);
    entries.fold(length_off.max(along), |most, entry| most.max(entry / largest))
}

fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    norm(&differences) / norm(theirs).max(f64::MIN_POSITIVE)
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

fn borrow<T>(values: &[Vec<T>]) -> Vec<&[T]> {
    values.iter().map(Vec::as_slice).collect()
}

/// A network's view with the tensors that the fixture names, and what stands for its weights there.
struct Prepared<'a> {
    view: View,
    reverse: Reverse,
    layers: &'a [Value],
    weights: Vec<(Standing, &'a Value)>,
    classes: usize,
}

impl<'a> Prepared<'a> {
    fn new(network: &Network, expected: &'a Value) -> Self {
        let classifier = network.classifier().expect("a classifier");
        let layers = list(&expected["layers"]);
        let names = layers.iter().map(|layer| layer["name"].as_str().unwrap());
        let declared: Vec<&str> =
            std::iter::once(classifier.logits.as_str()).chain(names).collect();
        let view = network.view(&declared).expect("the tensors are there");
        let find = |kernel: &Value| {
            let found = Standing::find(view.model(), kernel);
            found.unwrap_or_else(|| panic!("weight {} is not in the graph", kernel["name"]))
        };
        let weights: Vec<_> =
            list(&expected["weights"]).iter().map(|kernel| (find(kernel), kernel)).collect();
        let mut by: Vec<_> = view.taps()[1..].iter().map(|tap| tap.outlet).collect();
        by.extend(weights.iter().flat_map(|(standing, _)| &standing.pieces));
        let reverse = Reverse::new(view.model(), view.taps()[0].outlet, &by).expect("rules");
        Self { view, reverse, layers, weights, classes: classifier.classes }
    }

    /// What the fixture has of each gradient.
    fn references(&self) -> impl Iterator<Item = &'a Value> {
        self.layers.iter().chain(self.weights.iter().map(|(_, kernel)| *kernel))
    }

    /// The sweep's gradients as those of the file's tensors, in their own order.
    fn as_in_the_file(&self, gradients: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
        let mut gradients = gradients.into_iter();
        let layers = self.view.taps()[1..].iter().zip(gradients.by_ref()).map(|(tap, gradient)| {
            let fact = self.view.model().outlet_fact(tap.outlet).unwrap();
            in_onnx_order(tap, fact.shape.as_concrete().unwrap(), &gradient)
        });
        let mut found: Vec<Vec<f64>> = layers.collect();
        for (standing, _) in &self.weights {
            let pieces: Vec<Vec<f64>> = gradients.by_ref().take(standing.pieces.len()).collect();
            found.push(standing.gradient(&pieces));
        }
        found
    }

    /// By the f64 sweep on these forward values.
    fn in_f64(&self, values: &[&[f64]], class: usize) -> Vec<Vec<f64>> {
        let one_hot = (0..self.classes).map(|i| f64::from(i == class)).collect();
        self.as_in_the_file(self.reverse.run(values, one_hot).unwrap())
    }

    /// By the f32 sweep on these forward values.
    fn in_f32(&self, values: &[&[f32]], class: usize) -> Vec<Vec<f64>> {
        let one_hot = (0..self.classes).map(|i| f32::from(i == class)).collect();
        let gradients = self.reverse.run(values, one_hot).unwrap();
        self.as_in_the_file(gradients.iter().map(|gradient| widen(gradient)).collect())
    }
}

/// The errors of one gradient.
struct Row<'a> {
    name: &'a str,
    in_f64: f64,
    at_theirs: f64,
    in_f32: f64,
    sweep: f64,
    torch: f64,
}

/// The rows, and how many units have flipped.
fn compare<'a>(network: &Network, input: &[f32], expected: &'a Value) -> (Vec<Row<'a>>, usize) {
    let prepared = Prepared::new(network, expected);
    let (model, needed) = (prepared.view.model(), prepared.reverse.needed());
    let class = whole(&expected["class"]);
    let image = model.input_outlets().unwrap()[0];
    let exact = evaluate(model, vec![(image, widen(input))], needed).unwrap();
    let rounded: Vec<Vec<f32>> = exact.iter().map(|value| narrow(value)).collect();
    let values = Plan::build(model, needed).unwrap().run(input).unwrap();
    let own: Vec<&[f32]> = values.iter().map(Tensor::values).collect();
    let wide: Vec<Vec<f64>> = own.iter().map(|value| widen(value)).collect();
    let in_f64 = prepared.in_f64(&borrow(&exact), class);
    let at_theirs = prepared.in_f32(&borrow(&rounded), class);
    let in_f32 = prepared.in_f32(&own, class);
    let on_own = prepared.in_f64(&borrow(&wide), class);
    let pairs = exact.iter().zip(&wide).flat_map(|(a, b)| a.iter().zip(b));
    let flips = pairs.filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
    let row = |(index, expected): (usize, &'a Value)| Row {
        name: expected["name"].as_str().unwrap(),
        in_f64: difference(expected, &in_f64[index]),
        at_theirs: difference(expected, &at_theirs[index]),
        in_f32: difference(expected, &in_f32[index]),
        sweep: relative(&in_f32[index], &on_own[index]),
        torch: number(&expected["float32"]),
    };
    (prepared.references().enumerate().map(row).collect(), flips)
}

const HEADING: &str =
    "         f64 at theirs      f32    sweep torch f32  gradient of the logit by";

/// Prints the rows of one network and holds them to the bounds.
fn judge(id: &str, network: &Network, mut input: Vec<f32>, expected: &Value) {
    let moved = &expected["moved"];
    for (at, value) in list(&moved["at"]).iter().zip(numbers(&moved["values"])) {
        input[whole(at)] = value as f32;
    }
    let (rows, flips) = compare(network, &input, expected);
    println!("{id}: {} values moved, {flips} units flipped", list(&moved["at"]).len());
    for Row { name, in_f64, at_theirs, in_f32, sweep, torch } in &rows {
        println!(
            "    {in_f64:8.0e} {at_theirs:9.0e} {in_f32:8.0e} {sweep:8.0e} {torch:9.0e}  {name}"
        );
        assert!(*in_f64 <= IN_F64, "{id} {name}: {in_f64:.1e} in f64");
        assert!(*at_theirs <= IN_F32, "{id} {name}: {at_theirs:.1e} on the f64 run's values");
        assert!(*sweep <= SWEEP, "{id} {name}: {sweep:.1e} by the sweep");
        assert!(*in_f32 <= IN_F32, "{id} {name}: {in_f32:.1e} in f32");
    }
}

#[test]
fn gradients_of_real_networks_agree_with_pytorch_autograd() {
    let Some(assets) = common::assets() else { return };
    let reference = fixture("gradients.json");
    println!("{HEADING}");
    for model in common::models(&assets) {
        let source = Source::File(assets.join(&model.file));
        let network = Network::load(source, &Options::default()).expect("the network loads");
        let input = common::reference_inputs(&assets, &model).remove(0);
        let expected = &reference["networks"][&model.id];
        judge(&model.id, &network, input, expected);
    }
}

/// The smooth pattern of `wave` in `gradients.py`.
fn wave(len: usize) -> Vec<f32> {
    let at = |i: usize| (0.011 * i as f64).sin() + 0.7 * (0.37 * i as f64).cos();
    (0..len).map(|i| at(i) as f32).collect()
}

/// Networks that [`architectures`] must find.
const ARCHITECTURES: usize = 12;

/// The generated networks of the fixture with their files: `architectures.py` makes these,
/// `gradients.py` made the fixture from them. Empty without `$GRAFTD_ARCHITECTURES`; with it all must be
/// there.
pub fn architectures(reference: &Value) -> Vec<(&str, &Value, PathBuf)> {
    let Some(folder) = std::env::var_os("GRAFTD_ARCHITECTURES").map(PathBuf::from) else {
        println!("skipped: no $GRAFTD_ARCHITECTURES (`just gradients` makes the networks)");
        return Vec::new();
    };
    let expected = reference["architectures"].as_object().unwrap();
    assert_eq!(expected.len(), ARCHITECTURES, "in the fixture");
    let file = |id: &str| folder.join(format!("{id}.onnx"));
    let missing: Vec<PathBuf> =
        expected.keys().map(|id| file(id)).filter(|path| !path.is_file()).collect();
    assert!(missing.is_empty(), "run architectures.py: there is no {missing:?}");
    expected.iter().map(|(id, expected)| (id.as_str(), expected, file(id))).collect()
}

#[test]
fn gradients_of_generated_architectures_agree_with_pytorch_autograd() {
    let reference = fixture("gradients.json");
    println!("{HEADING}");
    for (id, expected, path) in architectures(&reference) {
        let shape: Vec<usize> = list(&expected["shape"]).iter().map(whole).collect();
        let options = Options { size: Some(shape[2] as u32), ..Options::default() };
        let network = Network::load(Source::File(path), &options).expect("the network loads");
        let digest = network.digest().to_string();
        let same = digest == expected["sha256"].as_str().unwrap();
        assert!(same, "{id} is another file than the fixture's: run gradients.py again");
        judge(id, &network, wave(shape.iter().product()), expected);
    }
}
