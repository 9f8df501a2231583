//! Networks from Keras and TensorFlow, whose inputs and feature maps have their channels last.

use graftd::explain::{Method, Request};
use graftd::graph::Network;
use graftd::vision::TensorLayout;

use crate::common::onnx::{With, load, model, node, weights};
use crate::run;

/// Two convolutions of an input with its channels first, or the same network with channels last: its
/// input, and its feature map `last`.
fn twin(channels_last: bool) -> Network {
    let half = |inputs: &[&str], output: &str| {
        node("Conv", inputs, output).with_ints("pads", &[1, 1, 1, 1]).with_ints("strides", &[2, 2])
    };
    let turned = |input: &str, order: &[i64], output: &str| {
        node("Transpose", &[input], output).with_ints("perm", order)
    };
    let identity = |input: &str, output: &str| node("Identity", &[input], output);
    let (to_first, to_last) = (&[0, 3, 1, 2], &[0, 2, 3, 1]);
    let [enter, leave, again] = if channels_last {
        [
            turned("image", to_first, "planes"),
            turned("second", to_last, "last"),
            turned("last", to_first, "back"),
        ]
    } else {
        [identity("image", "planes"), identity("second", "last"), identity("last", "back")]
    };
    let nodes = vec![
        enter,
        half(&["planes", "kernel1"], "conv1"),
        node("Relu", &["conv1"], "first"),
        half(&["first", "kernel2"], "conv2"),
        node("Relu", &["conv2"], "second"),
        leave,
        again,
        node("GlobalAveragePool", &["back"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let shapes: [(&str, &[i64]); 3] =
        [("kernel1", &[5, 3, 3, 3]), ("kernel2", &[6, 5, 3, 3]), ("matrix", &[6, 4])];
    let shape = if channels_last { [1, 24, 24, 3] } else { [1, 3, 24, 24] };
    let weights = shapes.map(|(name, shape)| weights(name, shape)).to_vec();
    load(&model(&shape, nodes, weights)).unwrap()
}

#[test]
fn a_network_with_channels_last_is_explained_like_its_twin_with_channels_first() {
    let (first, last) = (twin(false), twin(true));
    assert_eq!(last.input().layout, TensorLayout::Nhwc);
    assert_eq!(last.layer("last").unwrap().layout, Some(TensorLayout::Nhwc));
    let planes: Vec<f32> = (0..3 * 24 * 24).map(|at| (at as f32 * 0.37).sin()).collect();
    let pixels: Vec<f32> = (0..24 * 24)
        .flat_map(|pixel| [0, 1, 2].map(|channel| planes[channel * 24 * 24 + pixel]))
        .collect();
    for method in Method::ALL.into_iter().filter(|method| *method != Method::SmoothGrad) {
        for layer in ["first", "last"] {
            let class = "1".parse().unwrap();
            let request = Request { method, class, flip_smoothing: true, ..Request::default() };
            let of = |network: &Network, input: &[f32]| {
                let layers = if method.is_saliency() { vec![] } else { vec![layer.to_string()] };
                run(network, input, &layers, &request).map
            };
            let (map, expected) = (of(&last, &pixels), of(&first, &planes));
            assert_eq!((map.height, map.width), (expected.height, expected.width));
            let most = expected.raw.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            assert!(most > 0.0, "{method} at {layer}");
            for (a, b) in map.raw.iter().zip(&expected.raw) {
                assert!((a - b).abs() <= 1e-4 * most, "{method} at {layer}: {a} {b}");
            }
        }
    }
}
