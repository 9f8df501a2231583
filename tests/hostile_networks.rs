//! ONNX files from people who mean harm, or whose disk was full: each gets an error that says what is
//! wrong, and nothing panics.

#![cfg(feature = "daemon")]

mod common;

use common::onnx::{With as _, image, integers, load, load_bytes, model, node, weights};
use graftd::backbones::Checker;
use graftd::graph::{GraphError, Network, Options, Source};
use proptest::prelude::*;
use prost::Message as _;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, StringStringEntryProto};

/// conv 3x3 -> relu -> global average pooling -> flatten -> gemm -> softmax
fn small() -> ModelProto {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv"),
        node("Relu", &["conv"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
        node("Softmax", &["logits"], "probabilities"),
    ];
    let weights = vec![weights("kernel", &[4, 3, 3, 3]), weights("matrix", &[4, 5])];
    model(&[1, 3, 8, 8], nodes, weights)
}

fn refused(change: impl FnOnce(&mut GraphProto)) -> String {
    let mut model = small();
    change(model.graph.as_mut().unwrap());
    load(&model).expect_err("must be refused").to_string()
}

#[test]
fn the_small_network_itself_is_fine_and_its_softmax_is_cut_off() {
    let network = load(&small()).unwrap();
    let classifier = network.classifier().unwrap();
    assert_eq!((classifier.logits.as_str(), classifier.classes), ("logits", 5));
    assert_eq!(network.embedding().pooled_from.as_deref(), Some("map"));
    assert_eq!(network.last_spatial().unwrap().shape, [1, 4, 6, 6]);
    assert!(network.layer("conv").unwrap().waist);
}

#[test]
fn a_file_cut_at_any_byte_is_refused_or_still_whole() {
    let bytes = small().encode_to_vec();
    let run = |network: &Network| {
        let outputs = network.run(&vec![0.5; 3 * 8 * 8]).unwrap();
        outputs.iter().map(|output| output.values().to_vec()).collect::<Vec<_>>()
    };
    let whole = run(&load_bytes(bytes.clone()).unwrap());
    let mut refused = 0;
    for end in 0..bytes.len() {
        match load_bytes(bytes[..end].to_vec()) {
            Ok(network) => assert_eq!(run(&network), whole, "cut at {end}"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    // What a file may lack is the operator set at its end, of a few bytes.
    assert!(refused + 8 > bytes.len(), "{refused} of {}", bytes.len());
}

#[test]
fn weights_in_another_file_are_refused_and_the_tensor_is_named() {
    let message = refused(|graph| {
        let kernel = &mut graph.initializer[0];
        kernel.float_data.clear();
        kernel.data_location = Some(DataLocation::External as i32);
        kernel.external_data = vec![StringStringEntryProto {
            key: "location".into(),
            value: "../../../etc/passwd".into(),
        }];
    });
    assert!(message.contains("\"kernel\"") && message.contains("another file"), "{message}");
}

#[test]
fn a_cycle_is_refused() {
    let message = refused(|graph| graph.node[1].input[0] = "map".into());
    assert!(message.contains("cycle"), "{message}");
}

#[test]
fn an_unknown_operator_and_its_node_are_named() {
    let message = refused(|graph| graph.node[1].op_type = "Teleport".into());
    assert!(message.contains("Teleport") && message.contains("map_node"), "{message}");
    let message = refused(|graph| graph.node[1].domain = "com.microsoft".into());
    assert!(message.contains("com.microsoft.Relu"), "{message}");
}

#[test]
fn the_quantised_network_of_the_assets_is_refused_by_its_first_unknown_operator() {
    let Some(assets) = common::assets() else { return };
    let source = Source::File(assets.join("models/mobilenet-v2-int8.onnx"));
    let error = Network::load(source, &Options::default()).unwrap_err();
    assert!(matches!(error, GraphError::UnsupportedOperator { .. }), "{error}");
}

#[test]
fn a_weight_with_fewer_bytes_than_its_shape_needs_is_refused() {
    for dims in [vec![4, 3, 3, 300], vec![-4, 3, 3, 3], vec![i64::MAX, i64::MAX, 3, 3]] {
        let message = refused(|graph| graph.initializer[0].dims = dims);
        assert!(message.contains("\"kernel\""), "{message}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_and_named() {
    let message = refused(|graph| graph.initializer[1].float_data[3] = f32::NAN);
    assert!(message.contains("\"matrix\"") && message.contains("NaN"), "{message}");
}

#[test]
fn a_weight_with_an_infinite_value_is_refused_but_pooling_may_be_padded_with_one() {
    let message = refused(|graph| graph.initializer[1].float_data[3] = f32::INFINITY);
    assert!(message.contains("\"matrix\""), "{message}");

    // As TensorFlow's and timm's poolings are padded on the side that is uneven.
    let padded = |value: f32| {
        let mut small = small();
        let graph = small.graph.as_mut().unwrap();
        graph.node[2].input[0] = "pooled_map".into();
        let pads = integers("pads", &[8], &[0, 0, 0, 0, 0, 0, 1, 1]);
        let mut least = weights("least", &[]);
        least.float_data = vec![value];
        graph.initializer.extend([pads, least]);
        let pool = node("MaxPool", &["padded"], "pooled_map");
        let pool = pool.with_ints("kernel_shape", &[3, 3]).with_ints("strides", &[2, 2]);
        graph.node.insert(2, node("Pad", &["map", "pads", "least"], "padded"));
        graph.node.insert(3, pool);
        load(&small)
    };
    let run = |network: Network| network.run(&vec![0.5; 3 * 8 * 8]).unwrap()[1].values().to_vec();
    let infinite = run(padded(f32::NEG_INFINITY).unwrap());
    assert_eq!(infinite, run(padded(-1e30).unwrap()));
    assert!(padded(f32::NAN).is_err());
}

/// A chain of convolutions of a picture of `side` pixels, each with `channels` channels.
fn chain(side: i64, channels: i64, kernel: i64, length: usize) -> ModelProto {
    let name = |index: usize| format!("layer{index}");
    let mut nodes = vec![node("Conv", &["image", "first"], &name(0))];
    for index in 1..length {
        let convolution = node("Conv", &[&name(index - 1), "next"], &name(index));
        nodes.push(convolution.with_text("auto_pad", "SAME_UPPER"));
    }
    nodes.push(node("GlobalAveragePool", &[&name(length - 1)], "pooled"));
    nodes.push(node("Flatten", &["pooled"], "flat"));
    let next = weights("next", &[channels, channels, kernel, kernel]);
    model(&[1, 3, side, side], nodes, vec![weights("first", &[channels, 3, 1, 1]), next])
}

#[test]
fn a_trial_ends_at_its_limits_of_memory_and_of_processor_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let check = |model: &ModelProto, checker: &Checker| {
        graftd::base::atomic::write(&path, &model.encode_to_vec()).unwrap();
        checker.check(&path, &Options::default()).map_err(|error| error.to_string())
    };
    let checker = Checker::new(env!("CARGO_BIN_EXE_graftd").into());
    check(&chain(512, 64, 1, 1), &checker).unwrap();
    // Its only layer has 2 GiB.
    let refused = check(&chain(512, 2048, 1, 1), &checker).unwrap_err();
    assert!(refused.contains("memory"), "{refused}");
    // 60 layers of 4.8 thousand million operations each.
    let hurried = Checker { cpu_seconds: 1, ..checker };
    let refused = check(&chain(256, 64, 3, 60), &hurried).unwrap_err();
    assert!(refused.contains("SIGKILL"), "{refused}");
}

#[test]
fn an_operator_set_from_the_future_is_refused() {
    let mut model = small();
    model.opset_import[0].version = 999;
    let message = load(&model).unwrap_err().to_string();
    assert!(message.contains("999"), "{message}");
}

#[test]
fn two_image_inputs_are_refused_and_listed() {
    let message = refused(|graph| {
        graph.input.push(image("second", &[1, 4, 6, 6]));
        graph.node[1] = node("Add", &["conv", "second"], "map");
    });
    assert!(
        message.contains("\"image\" [1, 3, 8, 8]") && message.contains("\"second\""),
        "{message}"
    );
}

#[test]
fn inputs_that_are_weights_or_lead_nowhere_are_dropped() {
    let mut model = small();
    let graph = model.graph.as_mut().unwrap();
    graph.input.push(image("kernel", &[4, 3, 3, 3]));
    graph.input.push(image("dangling", &[1, 2]));
    assert_eq!(load(&model).unwrap().input().name, "image");
}

#[test]
fn a_subgraph_is_refused() {
    let message = refused(|graph| {
        graph.node[1].attribute.push(AttributeProto {
            name: "body".into(),
            g: Some(GraphProto::default()),
            ..Default::default()
        });
    });
    assert!(message.contains("Relu"), "{message}");
}

#[test]
fn shapes_that_do_not_fit_each_other_are_an_error_and_no_panic() {
    let message = refused(|graph| {
        graph.initializer[1] = weights("matrix", &[3, 5]);
    });
    assert!(!message.is_empty());
}

#[test]
fn names_with_slashes_dots_and_nul_are_names_like_any_other() {
    let mut model = small();
    let graph = model.graph.as_mut().unwrap();
    for (old, new) in [("conv", "../conv"), ("map", "a/b\0c"), ("pooled", &"p".repeat(300))] {
        for node in &mut graph.node {
            let names = node.input.iter_mut().chain(&mut node.output);
            names.filter(|name| *name == old).for_each(|name| *name = new.to_owned());
        }
    }
    assert_eq!(load(&model).unwrap().last_spatial().unwrap().name, "a/b\0c");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn damaged_bytes_never_panic(position in 0_usize..4000, value: u8) {
        let mut bytes = small().encode_to_vec();
        let position = position % bytes.len();
        bytes[position] = value;
        let _ = load_bytes(bytes);
    }
}
