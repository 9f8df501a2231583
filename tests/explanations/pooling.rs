//! Where the embedding comes from decides what can be explained, and how shortly.

use graftd::base::cancel::Cancel;
use graftd::explain::{
    ClassSpec, Demand, ExplainError, Explainer, Explanation, Judge, Method, Request, explain,
};
use graftd::graph::{Network, Overrides};
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::common::onnx::{With, integers, load, load_with, model, node, weights};
use crate::{OWN, common, head, named};

/// As `SqueezeNet` ends: the classifier is a 1x1 convolution before the pooling, so the last layers
/// are behind the embedding, which is the mean of `map`.
fn classifier_before_pooling(pooling: NodeProto) -> Network {
    let nodes = vec![
        node("Conv", &["image", "kernel1"], "conv1").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["conv1"], "first"),
        node("Conv", &["first", "kernel2"], "conv2").with_ints("strides", &[2, 2]),
        node("Relu", &["conv2"], "map"),
        node("Conv", &["map", "classes"], "conv3"),
        node("Relu", &["conv3"], "scores"),
        pooling,
        node("Flatten", &["pooled"], "logits"),
    ];
    let mut bias_free = weights("classes", &[4, 8, 1, 1]);
    // All of a class's weights positive, so that its rectifier stays open.
    bias_free.float_data.iter_mut().for_each(|weight| *weight = weight.abs() + 0.05);
    let weights =
        vec![weights("kernel1", &[6, 3, 3, 3]), weights("kernel2", &[8, 6, 3, 3]), bias_free];
    load(&model(&[1, 3, 16, 16], nodes, weights)).unwrap()
}

fn everywhere() -> NodeProto {
    node("GlobalAveragePool", &["scores"], "pooled")
}

fn picture(network: &Network) -> Vec<f32> {
    (0..network.plan().input_len()).map(|at| (at as f32 * 0.37).sin()).collect()
}

fn explained(
    network: &Network,
    input: &[f32],
    layers: &[&str],
    judge: &Judge<'_>,
    request: &Request,
) -> Result<Explanation, ExplainError> {
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    let demand = Demand::of(request.method);
    let explainer = Explainer::new(network, &layers, demand, judge.head.is_some())?;
    explain(&explainer, network, input, None, judge, request, &Cancel::default())
}

fn methods() -> impl Iterator<Item = Method> {
    Method::ALL.into_iter().filter(|method| !method.is_saliency())
}

/// Each method finds what a head looks at without being told a layer, and refuses `behind`.
fn head_is_explained(network: &Network, input: &[f32], default: &str, behind: &str) {
    let head = head(network.embedding().width);
    let judge = Judge { head: Some(&head), labels: &[] };
    for method in methods() {
        let request = Request { method, channels: Some(8), ..Request::default() };
        let found = explained(network, input, &[], &judge, &request).unwrap();
        assert_eq!(found.layers, [default], "{method}");
        assert!(found.map.raw.iter().any(|value| *value != 0.0), "{method}");
        let refused = explained(network, input, &[behind], &judge, &request).unwrap_err();
        assert!(
            matches!(&refused, ExplainError::Behind { layer, by_head: true } if layer == behind),
            "{method}: {refused}"
        );
        let text = refused.to_string();
        assert!(text.contains(behind) && text.contains("embedding"), "{text}");
        // The network's own classifier is explained there.
        let own = explained(network, input, &[], &OWN, &request).unwrap();
        assert_eq!(own.layers, [behind], "{method}");
    }
}

#[test]
fn a_head_where_the_classifier_comes_before_the_pooling_is_explained_before_both() {
    let network = classifier_before_pooling(everywhere());
    assert_eq!(network.embedding().width, 8);
    head_is_explained(&network, &picture(&network), "map", "scores");
}

#[test]
fn a_head_on_squeezenet_is_explained_at_the_map_that_is_its_embedding() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "squeezenet-1.1");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let default = network.last_spatial_of_embedding().unwrap().name.clone();
    let behind = network.last_spatial().unwrap().name.clone();
    assert_ne!(default, behind);
    head_is_explained(&network, &input, &default, &behind);
}

/// A network with a fully connected classifier behind `pooling` of its feature map `map`, 8 x 8 in
/// `channels` channels.
fn pooled_by(
    pooling: Vec<NodeProto>,
    channels: i64,
    width: i64,
    extra: Vec<TensorProto>,
) -> Network {
    let mut nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["conv"], "map"),
    ];
    nodes.extend(pooling);
    nodes.push(node("Flatten", &["pooled"], "flat"));
    nodes.push(node("Gemm", &["flat", "matrix"], "logits"));
    let mut weights = vec![weights("kernel", &[channels, 3, 3, 3]), weights("matrix", &[width, 4])];
    weights.extend(extra);
    let mut model = model(&[1, 3, 8, 8], nodes, weights);
    model.opset_import[0].version = 18;
    load(&model).unwrap()
}

fn window(kernel: &[i64], pads: &[i64]) -> NodeProto {
    let pool = node("AveragePool", &["map"], "pooled").with_ints("kernel_shape", kernel);
    pool.with_ints("pads", pads).with_ints("strides", &[8, 8])
}

/// The error of the short way against the sweep, relative to the largest magnitude.
fn closed_form_error(network: &Network, layer: &str, method: Method, judge: &Judge<'_>) -> f32 {
    let by_head = judge.head.is_some();
    let layers = [layer.to_string()];
    let short = Explainer::new(network, &layers, Demand::LayerGradient, by_head).unwrap();
    let long = Explainer::by_sweep(network, layer, by_head).unwrap();
    let input = picture(network);
    let of = |explainer: &Explainer| {
        let class: ClassSpec = "1".parse().unwrap();
        let request = Request { method, class, ..Request::default() };
        explain(explainer, network, &input, None, judge, &request, &Cancel::default()).unwrap()
    };
    let (short, long) = (of(&short).map.raw, of(&long).map.raw);
    let most = long.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    assert!(most > 0.0);
    short.iter().zip(&long).fold(0.0_f32, |e, (a, b)| e.max((a - b).abs())) / most
}

#[test]
fn only_a_pooling_of_the_whole_map_takes_the_closed_form() {
    let mean = |axes: &[i64]| integers("axes", &[axes.len() as i64], axes);
    let reduced = || vec![node("ReduceMean", &["map", "axes"], "pooled")];
    let cases = [
        ("global", vec![node("GlobalAveragePool", &["map"], "pooled")], 6, 6, vec![], true),
        ("8x8 window", vec![window(&[8, 8], &[0; 4])], 6, 6, vec![], true),
        ("7x7 window", vec![window(&[7, 7], &[0; 4])], 6, 6, vec![], false),
        ("padded window", vec![window(&[8, 8], &[0, 0, 1, 1])], 6, 6, vec![], false),
        ("mean over space", reduced(), 6, 6, vec![mean(&[2, 3])], true),
        ("mean over space from behind", reduced(), 6, 6, vec![mean(&[-1, -2])], true),
        // As many values as channels, but one a row.
        ("mean over channels and columns", reduced(), 8, 8, vec![mean(&[1, 3])], false),
    ];
    for (name, pooling, channels, width, extra, whole) in cases {
        let network = pooled_by(pooling, channels, width, extra);
        assert_eq!(network.embedding().pooled_from.is_some(), whole, "{name}");
        for method in [Method::GradCam, Method::HiResCam, Method::LayerCam] {
            let error = closed_form_error(&network, "map", method, &OWN);
            assert!(error <= 1e-5, "{name} {method}: {error:.1e}");
        }
    }
}

#[test]
fn a_branch_beside_the_named_embedding_is_not_left_out_of_the_map() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["conv"], "map"),
        node("GlobalAveragePool", &["map"], "mean"),
        node("GlobalMaxPool", &["map"], "most"),
        node("Concat", &["mean", "most"], "both").with_int("axis", 1),
        node("Flatten", &["both"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let weights = vec![weights("kernel", &[6, 3, 3, 3]), weights("matrix", &[12, 4])];
    let overrides = Overrides { embedding: Some("mean".into()), ..Overrides::default() };
    let network = load_with(&model(&[1, 3, 8, 8], nodes, weights), overrides).unwrap();
    assert_eq!(network.embedding().pooled_from.as_deref(), Some("map"));
    let head = head(network.embedding().width);
    for judge in [OWN, Judge { head: Some(&head), labels: &[] }] {
        let error = closed_form_error(&network, "map", Method::GradCam, &judge);
        assert!(error <= 1e-5, "{error:.1e}");
    }
}

#[test]
fn a_head_on_features_behind_an_activation_is_explained_by_the_values_that_its_sweep_reads() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("pads", &[1, 1, 1, 1]),
        node("Relu", &["conv"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Conv", &["pooled", "square"], "mixed"),
        node("LeakyRelu", &["mixed"], "activated"),
        node("Flatten", &["activated"], "features"),
    ];
    let weights = vec![weights("kernel", &[6, 3, 3, 3]), weights("square", &[7, 6, 1, 1])];
    let overrides = Overrides { no_classifier: true, ..Overrides::default() };
    let network = load_with(&model(&[1, 3, 8, 8], nodes, weights), overrides).unwrap();
    assert_eq!((network.classifier(), network.embedding().width), (None, 7));
    let head = head(7);
    let judge = Judge { head: Some(&head), labels: &[] };
    let error = closed_form_error(&network, "map", Method::GradCam, &judge);
    assert!(error <= 1e-5, "{error:.1e}");
}

#[test]
fn each_method_explains_a_head_at_the_map_that_is_its_embedding_itself() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv").with_ints("strides", &[2, 2]),
        node("Relu", &["conv"], "map"),
    ];
    let model = model(&[1, 3, 9, 9], nodes, vec![weights("kernel", &[6, 3, 3, 3])]);
    let network = load(&model).unwrap();
    let head = head(network.embedding().width);
    let judge = Judge { head: Some(&head), labels: &[] };
    for method in methods() {
        let request = Request { method, ..Request::default() };
        let found = explained(&network, &picture(&network), &[], &judge, &request).unwrap();
        assert_eq!(found.layers, ["map"], "{method}");
        assert!(found.map.raw.iter().any(|value| *value != 0.0), "{method}");
    }
}

#[test]
fn a_classifier_before_a_pooling_that_leaves_out_the_border_is_still_one_and_explained_rightly() {
    // A 7x7 map of which the network looks at 6x6.
    let pooling = node("AveragePool", &["scores"], "pooled").with_ints("kernel_shape", &[6, 6]);
    let network = classifier_before_pooling(pooling.with_ints("strides", &[6, 6]));
    assert!(network.classifier().is_some());
    assert_eq!(network.embedding().pooled_from.as_deref(), Some("map"));
    let head = head(network.embedding().width);
    for judge in [OWN, Judge { head: Some(&head), labels: &[] }] {
        for method in [Method::GradCam, Method::HiResCam] {
            let error = closed_form_error(&network, "map", method, &judge);
            assert!(error <= 1e-5, "{method}: {error:.1e}");
        }
    }
}

#[test]
fn only_the_closed_form_on_the_networks_own_plan_is_cheap() {
    let tiny = crate::small("tiny/logits.onnx");
    let squeezed = classifier_before_pooling(everywhere());
    let cheap = |network: &Network, layers: &[&str], method: Method, by_head: bool| {
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        Explainer::is_cheap(network, &layers, Demand::of(method), by_head)
    };
    for by_head in [false, true] {
        assert!(cheap(&tiny, &[], Method::GradCam, by_head));
        assert!(cheap(&tiny, &["relu2"], Method::LayerCam, by_head));
        for layers in [&["relu1"][..], &["relu1", "relu2"], &["nowhere"]] {
            assert!(!cheap(&tiny, layers, Method::GradCam, by_head), "{layers:?}");
        }
        for method in [Method::EigenCam, Method::ScoreCam, Method::AblationCam] {
            assert!(!cheap(&tiny, &[], method, by_head), "{method}");
        }
        assert!(!cheap(&tiny, &[], Method::InputGradient, by_head));
        assert!(!cheap(&squeezed, &[], Method::GradCam, by_head), "by a sweep or another plan");
    }
}
