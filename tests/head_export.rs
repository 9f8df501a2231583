//! A head exported with its backbone as one ONNX file says what the head itself says.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use graftd::graph::{Network, Options, Overrides, Source};
use graftd::heads::{
    Classifier, Head, Kernel, Kind, Linear, Matrix, Neighbours, Perceptron, Provenance, Step,
    Transform,
};
use half::f16;

fn assets() -> Option<PathBuf> {
    let folder = std::env::var_os("GRAFTD_ASSETS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/assets"),
        PathBuf::from,
    );
    folder.join("models").is_dir().then_some(folder)
}

/// Numbers that look random and are the same everywhere, from -1 to 1.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Matrix {
    Matrix::new(rows, columns, noise(rows * columns, seed)).unwrap()
}

fn linear(rows: usize, columns: usize, seed: u64) -> Linear {
    Linear::new(matrix(rows, columns, seed), noise(rows, seed + 1)).unwrap()
}

fn heads(width: usize) -> Vec<Head> {
    let unit = Transform::new(vec![Step::UnitLength]).unwrap();
    let both = Transform::new(vec![
        Step::UnitLength,
        Step::Standardise {
            mean: noise(width, 3),
            scale: noise(width, 4).iter().map(|v| v + 1.5).collect(),
        },
    ])
    .unwrap();
    // Neighbours and landmarks that resemble an embedding: nowhere negative.
    let positive = |rows: usize, seed| {
        let values = noise(rows * width, seed).iter().map(|v| v.abs()).collect();
        Matrix::new(rows, width, values).unwrap()
    };
    let labels = (0..20).map(|i| i % 3).collect();
    let neighbours = Neighbours::new(&positive(20, 5), labels, 3, 7, 0.2).unwrap();
    let landmarks: Vec<f16> = neighbours.rows().to_vec();
    let kernel = Kernel::new(landmarks, width, 0.5, linear(3, 20, 7)).unwrap();
    let perceptron = Perceptron::new(linear(16, width, 8), linear(3, 16, 9)).unwrap();
    let build = |kind, transform: &Transform, classifier| {
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        Head::new(kind, classes, transform.clone(), classifier)
            .unwrap()
            .with_temperature(0.7)
            .unwrap()
    };
    vec![
        build(Kind::Softmax, &Transform::default(), Classifier::Linear(linear(3, width, 1))),
        build(Kind::Softmax, &both, Classifier::Linear(linear(3, width, 1))),
        build(Kind::Lda, &unit, Classifier::Linear(linear(3, width, 12))),
        build(Kind::Slda, &unit, Classifier::Linear(linear(3, width, 13))),
        build(Kind::Prototype, &unit, Classifier::Linear(linear(3, width, 14))),
        build(Kind::MultiLabel, &unit, Classifier::Linear(linear(3, width, 2))),
        build(Kind::Knn, &unit, Classifier::Neighbours(neighbours)),
        build(Kind::Softmax, &unit, Classifier::Kernel(kernel)),
        build(Kind::Mlp, &unit, Classifier::Perceptron(perceptron)),
    ]
}

#[test]
fn the_exported_file_computes_the_logits_of_the_head() {
    let Some(assets) = assets() else {
        println!("skipped: no assets; set GRAFTD_ASSETS");
        return;
    };
    // `tests/reference/head_export.py` runs what is written there in onnxruntime.
    let written = std::env::var_os("GRAFTD_EXPORT_TO").map(PathBuf::from);
    for model in ["mobilenet-v1-0.25-128", "squeezenet-1.1"] {
        let file = assets.join(format!("models/{model}.onnx"));
        let network = Network::load(Source::File(file), &Options::default()).unwrap();
        let input: Vec<f32> = noise(network.plan().input_len(), 11);
        let outputs = network.plan().run(&input).unwrap();
        let embedding = outputs[0].values();
        let heads = heads(network.embedding().width);
        let missing = Kind::ALL.into_iter().find(|kind| heads.iter().all(|h| h.kind() != *kind));
        assert_eq!(missing, None, "every kind is exported");
        for (number, head) in heads.into_iter().enumerate() {
            if head.kind() == Kind::Knn && network.opset() < 10 {
                assert!(head.to_onnx(&network).is_err());
                continue;
            }
            let bytes = head.to_onnx(&network).unwrap();
            if let Some(folder) = &written {
                let probabilities = head.predict(embedding).unwrap().probabilities;
                write(
                    folder,
                    &format!("{model} {number} {}", head.kind()),
                    &bytes,
                    &input,
                    &probabilities,
                );
            }
            let overrides = Overrides { logits: Some("logits".into()), ..Overrides::default() };
            let options = Options { overrides, ..Options::default() };
            let exported = Network::load(Source::Bytes(Cow::Owned(bytes)), &options);
            let exported = exported.unwrap_or_else(|e| panic!("{model}, {}: {e}", head.kind()));
            let outputs = exported.plan().run(&input).unwrap();
            let expected = head.logits(embedding).unwrap();
            for (a, b) in outputs[1].values().iter().zip(&expected) {
                assert!(
                    (a - b).abs() < 1e-4 * b.abs().max(1.0),
                    "{model} {}: {a} {b}",
                    head.kind()
                );
            }
        }
    }
}

/// Writes an exported head with an input and the probabilities that it must answer.
#[allow(clippy::disallowed_methods)] // files of a test need not survive a power cut
fn write(folder: &Path, name: &str, network: &[u8], input: &[f32], probabilities: &[f32]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(format!("{name}.onnx")), network).unwrap();
    let expected = serde_json::json!({ "input": input, "probabilities": probabilities });
    std::fs::write(folder.join(format!("{name}.json")), expected.to_string()).unwrap();
}

#[test]
fn a_head_of_another_backbone_is_refused() {
    let Some(assets) = assets() else {
        println!("skipped: no assets; set GRAFTD_ASSETS");
        return;
    };
    let file = assets.join("models/mobilenet-v1-0.25-128.onnx");
    let network = Network::load(Source::File(file), &Options::default()).unwrap();
    let head = heads(network.embedding().width).remove(0);
    let elsewhere = Provenance { backbone_sha256: "00".repeat(32), ..Provenance::default() };
    assert!(head.clone().with_provenance(elsewhere).to_onnx(&network).is_err());
    let narrow = heads(8).remove(0);
    assert!(narrow.to_onnx(&network).is_err());
}
