//! The operators that a network may have and that no rule covers: the error names operator and node
//! before any work starts, and only where the operator is in the way.

use graftd::backbones::abilities;
use graftd::explain::{Demand, ExplainError, Explainer, Method, Request};
use graftd::grad::{Entry, GradError, TABLE};
use graftd::graph::Network;
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::common::onnx::{With, integers, load, model, node, weights};
use crate::run;

/// A network with an operator that has no rule between the layers `map` and `last`.
struct Case {
    /// As the error has to call it.
    operator: &'static str,
    /// From `map` (8 channels, 8 x 8) to `odd`.
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    /// Channels of `odd`.
    channels: i64,
}

fn case(operator: &'static str, node: NodeProto, weights: Vec<TensorProto>) -> Case {
    Case { operator, nodes: vec![node], weights, channels: 8 }
}

/// Every operator of tract that takes a feature map and that the table lacks.
fn cases() -> Vec<Case> {
    let backwards: Vec<i64> = (0..8).rev().collect();
    let whole = |name: &str, value: fn(i64) -> i64| {
        integers(name, &[1, 8, 8, 8], &(0..512).map(value).collect::<Vec<_>>())
    };
    let scales = |extent: f32| {
        let mut scales = weights("scales", &[4]);
        scales.float_data = vec![1.0, 1.0, extent, extent];
        scales
    };
    let scalar = |name: &str, value: f32| {
        let mut scalar = weights(name, &[]);
        scalar.float_data = vec![value];
        scalar
    };
    let resize = |mode| {
        node("Resize", &["map", "", "scales"], "odd")
            .with_text("mode", mode)
            .with_text("coordinate_transformation_mode", "asymmetric")
            .with_text("nearest_mode", "floor")
    };
    vec![
        case(
            "Deconv",
            node("ConvTranspose", &["map", "enlarging"], "odd").with_ints("strides", &[2, 2]),
            vec![weights("enlarging", &[8, 8, 2, 2])],
        ),
        case(
            "Gather",
            node("Gather", &["map", "order"], "odd").with_int("axis", 1),
            vec![integers("order", &[8], &backwards)],
        ),
        case(
            "GatherElements",
            node("GatherElements", &["map", "order"], "odd").with_int("axis", 1),
            vec![whole("order", |at| at % 8)],
        ),
        Case {
            operator: "GatherNd",
            nodes: vec![
                node("GatherND", &["map", "order"], "planes"),
                node("Unsqueeze", &["planes", "first"], "odd"),
            ],
            weights: vec![
                integers("order", &[8, 2], &[0, 7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0]),
                integers("first", &[1], &[0]),
            ],
            channels: 8,
        },
        case(
            "ScatterElements",
            node("ScatterElements", &["map", "order", "other"], "odd").with_int("axis", 1),
            vec![whole("order", |at| at / 64), weights("other", &[1, 8, 8, 8])],
        ),
        case(
            "ScatterNd",
            node("ScatterND", &["map", "places", "other"], "odd"),
            vec![integers("places", &[1, 2], &[0, 3]), weights("other", &[1, 8, 8])],
        ),
        case("Resize", resize("linear"), vec![scales(1.5)]),
        case("NearestUpsample", resize("nearest"), vec![scales(2.0)]),
        case(
            "Tile",
            node("Tile", &["map", "repeats"], "odd"),
            vec![integers("repeats", &[4], &[1, 1, 2, 2])],
        ),
        Case {
            operator: "Topk",
            nodes: vec![NodeProto {
                output: vec!["odd".into(), "places".into()],
                ..node("TopK", &["map", "most"], "odd").with_int("axis", 1)
            }],
            weights: vec![integers("most", &[1], &[4])],
            channels: 4,
        },
        case("Trilu", node("Trilu", &["map"], "odd"), vec![]),
        case("CumSum", node("CumSum", &["map", "axis"], "odd"), vec![integers("axis", &[], &[2])]),
        case(
            "GridSample",
            node("GridSample", &["map", "grid"], "odd"),
            vec![weights("grid", &[1, 8, 8, 2])],
        ),
        case(
            "Rem",
            node("Mod", &["map", "divisor"], "odd").with_int("fmod", 1),
            vec![scalar("divisor", 0.25)],
        ),
        Case {
            operator: "DequantizeLinearF32",
            nodes: vec![
                node("QuantizeLinear", &["map", "step"], "bytes"),
                node("DequantizeLinear", &["bytes", "step"], "odd"),
            ],
            weights: vec![scalar("step", 0.01)],
            channels: 8,
        },
    ]
}

impl Case {
    /// image -> conv -> relu (`map`) -> the operator -> relu (`last`) -> pooled, fully connected.
    fn network(self) -> Network {
        let before = [
            node("Conv", &["image", "kernel"], "conv")
                .with_ints("pads", &[1, 1, 1, 1])
                .with_ints("strides", &[2, 2]),
            node("Relu", &["conv"], "map"),
        ];
        let behind = [
            node("Relu", &["odd"], "last"),
            node("GlobalAveragePool", &["last"], "pooled"),
            node("Flatten", &["pooled"], "flat"),
            node("Gemm", &["flat", "matrix"], "logits"),
        ];
        let nodes = before.into_iter().chain(self.nodes).chain(behind).collect();
        let mut tensors = self.weights;
        tensors.extend([weights("kernel", &[8, 3, 3, 3]), weights("matrix", &[self.channels, 4])]);
        let mut model = model(&[1, 3, 16, 16], nodes, tensors);
        model.opset_import[0].version = 16;
        load(&model).unwrap_or_else(|error| panic!("{}: {error}", self.operator))
    }
}

#[test]
fn each_operator_without_a_rule_is_named_with_its_node_before_any_work() {
    for case in cases() {
        let operator = case.operator;
        assert!(TABLE.iter().all(|entry: &Entry| entry.operator != operator), "{operator}");
        let network = case.network();
        // Preparing reads no picture: nothing has run when it refuses.
        let prepare = |layer: &str, method| {
            Explainer::new(&network, &[layer.to_string()], Demand::of(method), false)
        };
        for method in [Method::GradCam, Method::LayerCam] {
            let refused = prepare("map", method).unwrap_err();
            let ExplainError::Gradient(GradError::Missing { operator: named, node, .. }) = &refused
            else {
                panic!("{operator}: {refused}")
            };
            assert_eq!(named, operator, "{refused}");
            assert!(node.starts_with("odd") || node.starts_with("planes"), "{operator}: {node}");
            let text = refused.to_string();
            assert!(text.contains(operator) && text.contains(node.as_str()), "{text}");
        }
        let refused = Explainer::new(&network, &[], Demand::InputGradient, false).unwrap_err();
        assert!(refused.to_string().contains(operator), "{refused}");
        assert!(prepare("last", Method::GradCam).is_ok(), "{operator} lies before it");
    }
}

#[test]
fn the_list_of_layers_says_which_can_be_explained_and_what_is_in_the_way() {
    for case in cases() {
        let operator = case.operator;
        let network = case.network();
        let abilities = abilities(&network).unwrap();
        let of = |name: &str| {
            let at = network.layers().iter().position(|layer| layer.name == name).unwrap();
            &abilities[at]
        };
        assert!(!of("map").explainable && !of("map").trainable, "{operator}");
        let obstacle = of("map").obstacle.as_deref().unwrap();
        assert!(obstacle.starts_with(operator), "{operator}: {obstacle}");
        assert!(of("last").explainable && of("last").obstacle.is_none(), "{operator}");
    }
}

#[test]
fn a_use_that_a_rule_does_not_cover_is_named_with_its_reason() {
    let product = node("ReduceProd", &["map"], "odd").with_ints("axes", &[3]);
    let network = case("Reduce", product, vec![]).network();
    let refused = Explainer::new(&network, &["map".to_string()], Demand::LayerGradient, false);
    let text = refused.unwrap_err().to_string();
    for part in ["operator Reduce", "node `odd_node", "reduction by Prod"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn methods_that_need_no_gradient_explain_in_front_of_an_operator_without_a_rule() {
    for case in cases() {
        let operator = case.operator;
        let network = case.network();
        let input: Vec<f32> =
            (0..network.plan().input_len()).map(|at| (at as f32 * 0.37).sin()).collect();
        for method in [Method::EigenCam, Method::ScoreCam, Method::AblationCam] {
            let request = Request { method, ..Request::default() };
            let found = run(&network, &input, &["map".to_string()], &request);
            assert_eq!((found.map.height, found.map.width), (8, 8), "{operator} {method}");
        }
    }
}
