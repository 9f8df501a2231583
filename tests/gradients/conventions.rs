//! Where a function has no one derivative: the gradient of the sum of a small graph's output by its
//! input at ties, kinks and bounds, beside `PyTorch`'s. `tests/reference/conventions.py` made the
//! fixture; `docs/gradients.md` states the conventions.

use std::collections::BTreeSet;

use graftd::grad::{Reverse, evaluate};
use graftd::graph::{Plan, Tensor};
use serde_json::Value;
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::prelude::{InferenceModelExt, TypedModel};

use crate::common::json::{fixture, list, numbers, whole};
use crate::common::onnx::{With, integers, model, node, weights};

/// The function of a case of the fixture as ONNX has it.
struct Case {
    name: &'static str,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
}

fn constant(name: &str, shape: &[i64], values: &[f32]) -> TensorProto {
    TensorProto { float_data: values.to_vec(), ..weights(name, shape) }
}

/// A function of the input's two channels.
fn of_two(name: &'static str, operator: &str) -> Case {
    let places = [("zero", 0), ("one", 1), ("two", 2)];
    Case {
        name,
        nodes: vec![
            node("Slice", &["image", "zero", "one", "one"], "a"),
            node("Slice", &["image", "one", "two", "one"], "b"),
            node(operator, &["a", "b"], "y"),
        ],
        weights: places.map(|(name, value)| integers(name, &[1], &[value])).to_vec(),
    }
}

fn cases() -> Vec<Case> {
    let case = |name, nodes, weights| Case { name, nodes, weights };
    let plain = |name, operator| case(name, vec![node(operator, &["image"], "y")], vec![]);
    let average = || {
        node("AveragePool", &["image"], "y")
            .with_ints("kernel_shape", &[2, 2])
            .with_ints("strides", &[2, 2])
            .with_ints("pads", &[1, 1, 1, 1])
    };
    let maximum =
        |kernel: &[i64]| node("MaxPool", &["image"], "y").with_ints("kernel_shape", kernel);
    let reduce =
        |operator| node(operator, &["image"], "y").with_ints("axes", &[3]).with_int("keepdims", 0);
    let clip = node("Clip", &["image", "low", "high"], "y");
    let used = node("Mul", &["root", "used"], "y");
    vec![
        plain("relu", "Relu"),
        case("clip", vec![clip], vec![constant("low", &[], &[0.0]), constant("high", &[], &[6.0])]),
        plain("leaky relu", "LeakyRelu"),
        plain("hard swish", "HardSwish"),
        of_two("max of two", "Max"),
        of_two("min of two", "Min"),
        case("max pool", vec![maximum(&[2, 2])], vec![]),
        case("max pool overlapping", vec![maximum(&[1, 3])], vec![]),
        case("reduce max", vec![reduce("ReduceMax")], vec![]),
        case("reduce min", vec![reduce("ReduceMin")], vec![]),
        plain("abs", "Abs"),
        plain("sqrt", "Sqrt"),
        case(
            "sqrt unused at zero",
            vec![node("Sqrt", &["image"], "root"), used],
            vec![constant("used", &[1, 1, 1, 2], &[0.0, 1.0])],
        ),
        case("average pool", vec![average()], vec![]),
        case("average pool with padding", vec![average().with_int("count_include_pad", 1)], vec![]),
    ]
}

/// PyTorch's number. Where it has NaN, which is zero times the infinite slope of a value that nothing
/// depends on, ours is zero.
fn expected(value: &Value) -> f64 {
    if value == "inf" { f64::INFINITY } else { value.as_f64().unwrap_or(0.0) }
}

fn agree(ours: f64, theirs: f64) -> bool {
    // A third, and the slope of a leaky rectifier, are rounded to f32.
    ours == theirs || (ours - theirs).abs() <= 1e-7
}

/// The gradients by the rules in f64 throughout, and by those in f32 on an optimised plan.
fn gradients(model: &TypedModel, input: &[f64]) -> [Vec<f64>; 2] {
    let image = model.input_outlets().unwrap()[0];
    let end = model.output_outlets().unwrap()[0];
    let reverse = Reverse::new(model, end, &[image]).expect("rules");
    let len = model.outlet_fact(end).unwrap().shape.as_concrete().unwrap().iter().product();

    let exact = evaluate(model, vec![(image, input.to_vec())], reverse.needed()).unwrap();
    let exact: Vec<&[f64]> = exact.iter().map(Vec::as_slice).collect();
    let in_f64 = reverse.run(&exact, vec![1.0; len]).unwrap().remove(0);

    let narrow: Vec<f32> = input.iter().map(|value| *value as f32).collect();
    let outputs = if reverse.needed().is_empty() {
        Vec::new()
    } else {
        Plan::build(model, reverse.needed()).unwrap().run(&narrow).unwrap()
    };
    let values: Vec<&[f32]> = outputs.iter().map(Tensor::values).collect();
    let in_f32 = reverse.run(&values, vec![1.0; len]).unwrap().remove(0);
    [in_f64, in_f32.into_iter().map(f64::from).collect()]
}

#[test]
fn gradients_at_ties_kinks_and_bounds_are_those_of_pytorch() {
    let reference = fixture("conventions.json");
    let known: BTreeSet<&str> =
        reference["cases"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(known, cases().iter().map(|case| case.name).collect());
    for Case { name, nodes, weights } in cases() {
        let case = &reference["cases"][name];
        let shape: Vec<i64> = list(&case["shape"]).iter().map(|side| whole(side) as i64).collect();
        let mut file = model(&shape, nodes, weights);
        // HardSwish came with 14.
        file.opset_import[0].version = 14;
        let graph = tract_onnx::onnx()
            .parse(&file, None)
            .and_then(|parsed| parsed.model.into_typed())
            .and_then(TypedModel::into_decluttered)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let theirs: Vec<f64> = list(&case["gradient"]).iter().map(expected).collect();
        for ours in gradients(&graph, &numbers(&case["input"])) {
            let same = ours.iter().zip(&theirs).all(|(a, b)| agree(*a, *b));
            assert!(same && ours.len() == theirs.len(), "{name}: {ours:?}, PyTorch {theirs:?}");
        }
    }
}
