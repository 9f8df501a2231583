//! Networks with a rounding on the way: the map shows what flows beside it.

use graftd::explain::{Method, Request};
use graftd::graph::Network;
use tract_onnx::pb::NodeProto;

use crate::common::onnx::{With, load, model, node, weights};
use crate::run;

const BY_GRADIENT: [Method; 7] = [
    Method::GradCam,
    Method::GradCamPlusPlus,
    Method::HiResCam,
    Method::XGradCam,
    Method::LayerCam,
    Method::InputGradient,
    Method::SmoothGrad,
];

/// image -> conv, relu (`map`) -> `left`, a convolution, and `right`, another one of the map rounded
/// down -> those of `branches`, added -> pooled, fully connected.
fn network(branches: &[&str]) -> Network {
    let mut nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("strides", &[2, 2]),
        node("Relu", &["conv"], "map"),
    ];
    let branch = |name: &str| -> Vec<NodeProto> {
        match name {
            "left" => {
                vec![node("Conv", &["map", "square"], "left").with_ints("pads", &[1, 1, 1, 1])]
            }
            _ => vec![
                node("Floor", &["map"], "floored"),
                node("Conv", &["floored", "mixing"], "right"),
            ],
        }
    };
    nodes.extend(branches.iter().flat_map(|name| branch(name)));
    let end = if let [one] = branches {
        *one
    } else {
        nodes.push(node("Add", branches, "sum"));
        "sum"
    };
    nodes.extend([
        node("GlobalAveragePool", &[end], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ]);
    let mut mixing = weights("mixing", &[6, 8, 1, 1]);
    mixing.float_data.reverse();
    let shapes: [(&str, &[i64]); 3] =
        [("kernel", &[8, 3, 3, 3]), ("square", &[6, 8, 3, 3]), ("matrix", &[6, 4])];
    let mut tensors = shapes.map(|(name, shape)| weights(name, shape)).to_vec();
    tensors.push(mixing);
    load(&model(&[1, 3, 17, 17], nodes, tensors)).unwrap()
}

/// The raw map of the second class at `map`, or at the input.
fn raw(network: &Network, method: Method) -> Vec<f32> {
    let input: Vec<f32> = (0..3 * 17 * 17).map(|at| 4.0 * (at as f32 * 0.37).sin()).collect();
    let layers = if method.is_saliency() { vec![] } else { vec!["map".to_string()] };
    let request = Request { method, class: "1".parse().unwrap(), ..Request::default() };
    let found = run(network, &input, &layers, &request);
    let hot = found.map.raw.iter().any(|value| *value > 0.0);
    assert_eq!((found.map.has_positive_evidence(), found.region.is_some()), (hot, hot));
    found.map.raw
}

#[test]
fn a_floored_branch_adds_nothing_to_the_map_of_the_branch_beside_it() {
    let (both, left) = (network(&["left", "right"]), network(&["left"]));
    for method in BY_GRADIENT {
        let (found, expected) = (raw(&both, method), raw(&left, method));
        let most = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert!(most > 0.0, "{method}");
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * most, "{method}: {a} {b}");
        }
    }
    // A method that changes activations sees what no gradient sees.
    assert_ne!(raw(&both, Method::AblationCam), raw(&left, Method::AblationCam));
}

#[test]
fn a_network_of_which_all_is_floored_has_a_map_of_zeros() {
    let network = network(&["right"]);
    for method in BY_GRADIENT {
        let found = raw(&network, method);
        assert!(found.iter().all(|value| *value == 0.0), "{method}: {found:?}");
    }
    assert!(raw(&network, Method::AblationCam).iter().any(|value| *value != 0.0));
}
