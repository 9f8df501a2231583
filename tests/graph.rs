//! Real networks, from the file to the logits, against onnxruntime's answers.

mod common;

use graftd::graph::{Network, Options, Part, Source};

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
