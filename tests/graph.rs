//! Real networks, from the file to the logits, against onnxruntime's answers.

mod common;

use common::onnx::{With, load_with, model, node, weights};
use graftd::graph::{Ending, Network, Options, Overrides, Part, Source};
use tract_onnx::pb::ModelProto;

fn load(assets: &std::path::Path, file: &str) -> Network {
    let source = Source::File(assets.join(file));
    Network::load(source, &Options::default()).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn every_network_finds_its_feature_map_and_answers_as_onnxruntime_does() {
    let Some(assets) = common::assets() else { return };
    for model in common::models(&assets) {
        let network = load(&assets, &model.file);
        let last = network.last_spatial().expect("a spatial layer");
        assert_eq!(Some(&last.name), model.feature_map.as_ref(), "{}", model.id);
        let reference = assets.join(format!("reference/{}.logits.npy", model.id));
        let (shape, expected) = common::read_npy_f32(&reference);
        let inputs = common::reference_inputs(&assets, &model);
        let part = network.parts().iter().position(|part| *part == Part::Logits).unwrap();
        for (input, expected) in inputs.iter().zip(expected.chunks(shape[1])) {
            let outputs = network.plan().run(input).unwrap();
            let largest = expected.iter().fold(0_f32, |a, b| a.max(b.abs()));
            for (actual, expected) in outputs[part].values().iter().zip(expected) {
                assert!(
                    (actual - expected).abs() < 1e-4 * largest,
                    "{}: {actual} {expected}",
                    model.id
                );
            }
        }
        println!(
            "{:28} {:3} layers, {:2} waists, embedding {:5} from {:?}, map {} {:?}, classifier {:?}",
            model.id,
            network.layers().len(),
            network.layers().iter().filter(|layer| layer.waist).count(),
            network.embedding().width,
            network.embedding().pooled_from,
            last.name,
            last.shape,
            network.classifier(),
        );
    }
}

#[test]
fn a_softmax_its_logarithm_or_a_sigmoid_at_the_end_is_told_and_cut_off() {
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    let expected = std::fs::read_to_string(tiny.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let expected: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let input: Vec<f32> = (0..3 * 16 * 16).map(|i| f64::from(i).sin() as f32).collect();
    for (ending, name) in [
        (Ending::Logits, "logits"),
        (Ending::Softmax, "softmax"),
        (Ending::LogSoftmax, "log_softmax"),
        (Ending::Sigmoid, "sigmoid"),
    ] {
        let network = load(&tiny, &format!("{name}.onnx"));
        let classifier = network.classifier().unwrap();
        assert_eq!((classifier.ending, classifier.logits.as_str()), (ending, "logits"));
        let logits = &network.run(&input).unwrap()[1];
        for (actual, expected) in logits.values().iter().zip(&expected) {
            assert!((actual - expected).abs() < 1e-5, "{name}: {actual} {expected}");
        }
    }
}

#[test]
fn features_that_end_in_a_sigmoid_are_no_classifier() {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv"),
        node("GlobalAveragePool", &["conv"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Sigmoid", &["flat"], "squashed"),
    ];
    let kernel = weights("kernel", &[5, 3, 3, 3]);
    let network = common::onnx::load(&model(&[1, 3, 4, 4], nodes, vec![kernel])).unwrap();
    assert_eq!(network.classifier(), None);
    assert_eq!((network.embedding().tensor.as_str(), network.embedding().width), ("squashed", 5));
}

/// A classifier that no search by structure finds: a batch norm lies between it and the end.
fn normalised(ending: &str) -> ModelProto {
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv"),
        node("GlobalAveragePool", &["conv"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "scores"),
        node("BatchNormalization", &["scores", "one", "two", "three", "four"], "normal"),
        node(ending, &["normal"], "end"),
    ];
    let shapes: [(&str, &[i64]); 6] = [
        ("kernel", &[5, 3, 3, 3]),
        ("matrix", &[5, 2]),
        ("one", &[2]),
        ("two", &[2]),
        ("three", &[2]),
        ("four", &[2]),
    ];
    let mut weights = shapes.map(|(name, shape)| weights(name, shape)).to_vec();
    weights[5].float_data = vec![1.0, 2.0];
    model(&[1, 3, 4, 4], nodes, weights)
}

#[test]
fn a_classifier_whose_parts_are_named_has_the_ending_of_its_file() {
    for (operator, ending) in [("Softmax", Ending::Softmax), ("Sigmoid", Ending::Sigmoid)] {
        let parts = |logits: Option<&str>, embedding: Option<&str>| {
            let overrides = Overrides {
                logits: logits.map(ToOwned::to_owned),
                embedding: embedding.map(ToOwned::to_owned),
                ..Overrides::default()
            };
            let network = load_with(&normalised(operator), overrides).unwrap();
            let classifier = network.classifier().unwrap();
            assert_eq!((classifier.logits.as_str(), classifier.ending), ("normal", ending));
            (network.embedding().tensor.clone(), network.embedding().width)
        };
        assert_eq!(parts(Some("normal"), Some("flat")), ("flat".to_owned(), 5));
        assert_eq!(parts(None, Some("flat")), ("flat".to_owned(), 5), "{operator}");
        assert_eq!(parts(Some("normal"), None), ("normal".to_owned(), 2), "all there is");
        let unnamed = common::onnx::load(&normalised(operator)).unwrap();
        assert_eq!(unnamed.classifier(), None, "{operator}");
    }
}

#[test]
fn the_output_of_a_network_that_is_said_to_have_no_classifier_is_its_embedding() {
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    for ending in ["logits", "softmax", "sigmoid"] {
        let overrides = Overrides { no_classifier: true, ..Overrides::default() };
        let options = Options { overrides, ..Options::default() };
        let source = Source::File(tiny.join(format!("{ending}.onnx")));
        let network = Network::load(source, &options).unwrap();
        assert_eq!(network.classifier(), None);
        assert_eq!(network.embedding().tensor, ending);
    }
}

#[test]
fn a_feature_map_named_as_the_embedding_is_averaged_over_space_wherever_its_channels_are() {
    let nodes = vec![
        node("Transpose", &["image"], "planes").with_ints("perm", &[0, 3, 1, 2]),
        node("Conv", &["planes", "kernel"], "conv"),
        node("Transpose", &["conv"], "map").with_ints("perm", &[0, 2, 3, 1]),
        node("ReduceMean", &["map"], "pooled").with_ints("axes", &[1, 2]).with_int("keepdims", 0),
        node("Gemm", &["pooled", "matrix"], "logits"),
    ];
    let weights = vec![weights("kernel", &[5, 3, 3, 3]), weights("matrix", &[5, 2])];
    let model = model(&[1, 8, 8, 3], nodes, weights);
    let input: Vec<f32> = (0..8 * 8 * 3).map(|i| f64::from(i).sin() as f32).collect();
    let embedding = |named: Option<&str>| {
        let overrides =
            Overrides { embedding: named.map(ToOwned::to_owned), ..Overrides::default() };
        let network = load_with(&model, overrides).unwrap();
        assert_eq!(network.embedding().width, 5);
        assert_eq!(network.embedding().pooled_from.as_deref(), Some("map"));
        network.run(&input).unwrap()[0].values().to_vec()
    };
    let (pooled, map) = (embedding(None), embedding(Some("map")));
    assert_eq!(map.len(), 5);
    for (ours, theirs) in map.iter().zip(&pooled) {
        assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
    }
}

#[test]
fn the_embedding_of_a_network_that_classifies_before_it_pools_is_the_pooled_map() {
    let Some(assets) = common::assets() else { return };
    let network = load(&assets, "models/squeezenet-1.1.onnx");
    let models = common::models(&assets);
    let model = models.iter().find(|model| model.id == "squeezenet-1.1").unwrap();
    let expected = include_str!("reference/squeezenet_embedding.json");
    let expected: Vec<f32> = serde_json::from_str(expected).unwrap();
    let outputs = network.run(&common::reference_inputs(&assets, model)[0]).unwrap();
    let embedding = outputs[0].values();
    assert_eq!(embedding.len(), expected.len());
    let largest = expected.iter().fold(0_f32, |a, b| a.max(b.abs()));
    for (actual, expected) in embedding.iter().zip(&expected) {
        assert!((actual - expected).abs() < 1e-5 * largest, "{actual} {expected}");
    }
}

#[test]
fn only_the_waists_that_are_named_are_cuts_and_what_is_none_is_refused_by_name() {
    use common::onnx::{model, node, weights};
    use graftd::graph::{GraphError, Overrides};
    use prost::Message as _;
    let nodes = vec![
        node("Conv", &["image", "kernel"], "conv"),
        node("Relu", &["conv"], "left"),
        node("Sigmoid", &["conv"], "right"),
        node("Add", &["left", "right"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let weights = vec![weights("kernel", &[4, 3, 1, 1]), weights("matrix", &[4, 2])];
    let bytes = model(&[1, 3, 8, 8], nodes, weights).encode_to_vec();
    let load = |waists: &[&str]| {
        let waists = waists.iter().map(ToString::to_string).collect();
        let overrides = Overrides { waists, ..Overrides::default() };
        let options = Options { overrides, ..Options::default() };
        Network::load(Source::Bytes(bytes.clone().into()), &options)
    };
    let waists = |network: &Network| -> Vec<String> {
        let layers = network.layers().iter().filter(|layer| layer.waist);
        layers.map(|layer| layer.name.clone()).collect()
    };
    let all = load(&[]).unwrap();
    assert_eq!(waists(&all), ["conv", "map", "pooled", "flat", "logits"]);
    let some = load(&["map", "conv"]).unwrap();
    assert_eq!(waists(&some), ["conv", "map"]);
    // Where one looks does not depend on where one may cut.
    let early = load(&["conv"]).unwrap();
    for last in [early.last_spatial(), early.last_spatial_of_embedding()] {
        assert_eq!(last.map(|layer| layer.name.as_str()), Some("map"));
    }
    assert!(matches!(load(&["map", "left"]), Err(GraphError::NotAWaist(name)) if name == "left"));
    assert!(
        matches!(load(&["nowhere"]), Err(GraphError::UnknownTensor(name)) if name == "nowhere")
    );
}
