//! Networks of half-precision numbers, as exporters write them: a cast down behind the input, weights
//! and activations in f16, a cast back before the logits.

use graftd::base::cancel::Cancel;
use graftd::explain::{ClassSpec, Demand, Explainer, Judge, Method, Request, explain, sanity};
use graftd::grad::{Reverse, operator_of};
use graftd::graph::{Network, Plan, Tensor};
use half::f16;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{ModelProto, TensorProto};
use tract_onnx::prelude::{Datum, OutletId};

use crate::common::onnx::{With, load, model, node, weights};

/// Rounding to 11 bits in each of a dozen steps.
const IN_F16: f64 = 5e-3;

/// Eighths, which f16 holds exactly: both networks compute the same function.
fn exact(name: &str, dims: &[i64], half: bool) -> TensorProto {
    let eighth = |at: usize| ((at * 5 % 7) as f32 - 3.0) / 8.0;
    let plain = weights(name, dims);
    let values: Vec<f32> = (0..plain.float_data.len()).map(eighth).collect();
    if !half {
        return TensorProto { float_data: values, ..plain };
    }
    let bits = |value: &f32| f16::from_f32(*value).to_le_bytes();
    TensorProto {
        data_type: DataType::Float16 as i32,
        float_data: Vec::new(),
        raw_data: values.iter().flat_map(bits).collect(),
        ..plain
    }
}

/// Two convolutions with rectifiers, pooled, fully connected; its numbers between the casts are f16, or
/// it has no casts.
fn network(half: bool) -> ModelProto {
    let cast =
        |from, to, kind: DataType| node("Cast", &[from], to).with_int("to", i64::from(kind as i32));
    let (first, last) = if half { ("small", "scores") } else { ("image", "logits") };
    let mut nodes = vec![
        node("Conv", &[first, "kernel"], "conv").with_ints("strides", &[2, 2]),
        node("Relu", &["conv"], "early"),
        node("Conv", &["early", "square"], "second").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["second"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], last),
    ];
    if half {
        nodes.insert(0, cast("image", "small", DataType::Float16));
        nodes.push(cast("scores", "logits", DataType::Float));
    }
    let shapes: [(&str, &[i64]); 3] =
        [("kernel", &[8, 3, 3, 3]), ("square", &[6, 8, 3, 3]), ("matrix", &[6, 4])];
    let tensors = shapes.map(|(name, dims)| exact(name, dims, half)).to_vec();
    model(&[1, 3, 17, 17], nodes, tensors)
}

/// Gradients of the second logit by the input, both feature maps, and the convolutions' kernels in the
/// order in which they are used; and how many casts they went through.
fn gradients(network: &Network) -> (Vec<Vec<f32>>, usize) {
    let view = network.view(&["logits", "image", "early", "map"]).unwrap();
    let graph = view.model();
    let order = graph.eval_order().unwrap();
    let named = |name: &str| {
        let found =
            order.iter().copied().filter(|id| operator_of(graph.node(*id).op.as_ref()) == name);
        found.collect::<Vec<usize>>()
    };
    let kernels: Vec<OutletId> = named("Conv").iter().map(|id| graph.node(*id).inputs[1]).collect();
    assert_eq!(kernels.len(), 2);
    let by: Vec<OutletId> = view.taps()[1..].iter().map(|tap| tap.outlet).chain(kernels).collect();
    let reverse = Reverse::new(graph, view.taps()[0].outlet, &by).unwrap();
    let input: Vec<f32> = (0..3 * 17 * 17).map(|at| (at as f32 * 0.37).sin()).collect();
    let outputs = Plan::build(graph, reverse.needed()).unwrap().run(&input).unwrap();
    let values: Vec<&[f32]> = outputs.iter().map(Tensor::values).collect();
    let found = reverse.run(&values, vec![0.0, 1.0, 0.0, 0.0]).unwrap();
    (found, named("Cast").len())
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn gradients_of_a_network_in_half_precision_are_those_of_its_twin_to_its_rounding() {
    let (half, whole) = (load(&network(true)).unwrap(), load(&network(false)).unwrap());
    let kinds = |network: &Network| {
        let view = network.view(&["logits", "map"]).unwrap();
        view.model().outlet_fact(view.taps()[1].outlet).unwrap().datum_type
    };
    assert_eq!((kinds(&half), kinds(&whole)), (f16::datum_type(), f32::datum_type()));
    let ((ours, casts), (twin, none)) = (gradients(&half), gradients(&whole));
    assert_eq!((casts, none), (2, 0), "the casts are still there when it is differentiated");
    for (name, (a, b)) in ["image", "early", "map", "first kernel", "second kernel"]
        .iter()
        .zip(ours.iter().zip(&twin))
    {
        let off: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let error = norm(&off) / norm(b);
        println!("gradient by {name}: {error:.1e} from the twin's");
        assert!(a.len() == b.len() && error <= IN_F16, "{name}: {error:.1e}");
    }
}

#[test]
fn a_network_in_half_precision_is_occluded_and_shuffled_as_its_twin_is() {
    let (half, whole) = (load(&network(true)).unwrap(), load(&network(false)).unwrap());
    let input: Vec<f32> = (0..3 * 17 * 17).map(|at| (at as f32 * 0.37).sin()).collect();
    let judge = Judge { head: None, labels: &[] };
    let class: ClassSpec = "1".parse().unwrap();
    let request = Request { method: Method::AblationCam, class, ..Request::default() };
    let of = |network: &Network| {
        let explainer = Explainer::new(network, &[], Demand::Tail, false).unwrap();
        let cancel = Cancel::default();
        let found = explain(&explainer, network, &input, None, &judge, &request, &cancel).unwrap();
        let cascade =
            sanity::cascade(network, &input, &judge, &found, &request, None, &cancel).unwrap();
        (found.map.raw, cascade.stages().len())
    };
    let ((ours, stages), (twin, expected)) = (of(&half), of(&whole));
    assert_eq!((stages, expected), (3, 3), "the classifier and both convolutions are shuffled");
    let off: Vec<f32> = ours.iter().zip(&twin).map(|(a, b)| a - b).collect();
    let error = norm(&off) / norm(&twin);
    assert!(error <= 4.0 * IN_F16, "{error:.1e}");
}
