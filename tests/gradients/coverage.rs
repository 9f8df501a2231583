//! The meta-test: every operator of every network at hand has a row, and every rule of the table
//! has one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tract_onnx::prelude::TypedModel;

use crate::autograd::architectures;
use crate::common::json::fixture;
use crate::end_to_end::networks;
use crate::rows::rows;
use graftd::grad::{Entry, State, TABLE, operator_of};
use graftd::graph::{Network, Options, Source};

fn proved() -> BTreeSet<String> {
    rows().iter().map(|row| operator_of(row.op.as_ref())).collect()
}

#[test]
fn every_rule_of_the_table_has_a_row() {
    let proved = proved();
    for entry in TABLE {
        let has_rule = matches!(entry.state, State::Rule(_));
        assert_eq!(proved.contains(entry.operator), has_rule, "{}", entry.operator);
        println!("{:<18} {:<9} {}", entry.operator, entry.family, entry.derivative);
    }
}

/// The ONNX files of the repository, and the generated architectures where they are asked for.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["models", "tests", "benches"].map(|folder| root.join(folder));
    let files = folders.into_iter().flat_map(walkdir::WalkDir::new);
    let files = files.map(|entry| entry.expect("a readable folder").into_path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "onnx"));
    let reference = fixture("gradients.json");
    files.chain(architectures(&reference).into_iter().map(|(_, _, file)| file)).collect()
}

/// A network as derivatives see it.
fn decluttered(path: PathBuf) -> (String, TypedModel) {
    let id = path.display().to_string();
    let load =
        |size| Network::load(Source::File(path.clone()), &Options { size, ..Options::default() });
    let network = load(None).or_else(|_| load(Some(224))).expect("the network loads");
    let classifier = network.classifier().map(|classifier| classifier.logits);
    let end = classifier.unwrap_or_else(|| network.embedding().tensor.clone());
    (id, network.view(&[&end]).expect("a view").model().clone())
}

#[test]
fn every_operator_of_every_network_at_hand_has_a_row() {
    let proved = proved();
    let assets = networks().into_iter().map(|network| (network.id, network.model));
    let files = files();
    for folder in ["builtin", "tiny", "awkward"] {
        let in_it = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with(folder));
        assert!(files.iter().any(in_it), "{folder} is among them");
    }
    for (id, model) in files.into_iter().map(decluttered).chain(assets) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for node in model.nodes() {
            *counts.entry(operator_of(node.op.as_ref())).or_default() += 1;
            let flat =
                Entry::of(node.op.as_ref()).is_some_and(|entry| matches!(entry.state, State::Flat));
            let operator = operator_of(node.op.as_ref());
            assert!(
                flat || proved.contains(&operator),
                "{}: operator {operator} of node `{}` has no row",
                id,
                node.name
            );
        }
        println!("{id}: {counts:?}");
    }
}
