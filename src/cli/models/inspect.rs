//! `graftd models inspect`: a backbone and its layers.

use clap::Args;
use serde_json::{Value, json};

use super::{id, input, preprocessing, table};
use crate::backbones::{Abilities, Backbone, Backbones, CheckReport, abilities};
use crate::base::name::Name;
use crate::cli::{CliError, Global, Outcome};
use crate::graph::{Layer, Network};

/// Describe a backbone and its layers: which can be explained, where the network can be cut.
#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// Its id.
    #[arg(value_parser = id)]
    id: Name,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let backbone = Backbones::new(&global.state_dir()).get(&self.id)?;
        let network = backbone.load()?;
        let abilities = abilities(&network)?;
        if self.json {
            println!("{}", object(&backbone, &network, &abilities));
        } else {
            print(&backbone, &network, &abilities);
        }
        Ok(Outcome::Complete)
    }
}

fn object(backbone: &Backbone, network: &Network, abilities: &[Abilities]) -> Value {
    let manifest = &backbone.manifest;
    let embedding = network.embedding();
    let classifier = network
        .classifier()
        .map(|classifier| json!({ "logits": classifier.logits, "classes": classifier.classes }));
    let layers: Vec<Value> = network
        .layers()
        .iter()
        .zip(abilities)
        .map(|(layer, abilities)| {
            json!({
                "name": layer.name,
                "node": layer.node,
                "operator": layer.operator,
                "shape": layer.shape,
                "spatial": layer.spatial,
                "waist": layer.waist,
                "explainable": abilities.explainable,
                "trainable": abilities.trainable,
                "obstacle": abilities.obstacle,
            })
        })
        .collect();
    json!({
        "id": backbone.id.as_str(),
        "name": manifest.name,
        "enabled": manifest.enabled,
        "sha256": manifest.sha256.to_string(),
        "size_bytes": manifest.size_bytes,
        "licence": manifest.licence,
        "source": manifest.source,
        "preprocessing": preprocessing(&manifest.preprocessing),
        "opset": network.opset(),
        "input": input(&CheckReport::of(network)),
        "classifier": classifier,
        "embedding": {
            "tensor": embedding.tensor,
            "width": embedding.width,
            "pooled_from": embedding.pooled_from,
        },
        "explanation_layer": network.last_spatial().map(|layer| &layer.name),
        "layers": layers,
    })
}

fn print(backbone: &Backbone, network: &Network, abilities: &[Abilities]) {
    let (manifest, report) = (&backbone.manifest, CheckReport::of(network));
    let preprocessing = &manifest.preprocessing;
    let classifier = network.classifier().map_or("none".to_owned(), |classifier| {
        format!("{} classes at {}", classifier.classes, classifier.logits)
    });
    println!("{}: {}", backbone.id, manifest.name);
    println!(
        "input          {} {} x {} x {}, {}",
        report.input, report.size, report.size, report.channels, report.layout
    );
    println!(
        "preprocessing  {} {} scale {} mean {:?} std {:?}",
        preprocessing.resize,
        preprocessing.channels,
        preprocessing.scale,
        preprocessing.mean,
        preprocessing.std
    );
    println!("classifier     {classifier}");
    println!("embedding      {} values at {}", report.embedding_width, network.embedding().tensor);
    if let Some(layer) = network.last_spatial() {
        println!("explained at   {}", layer.name);
    }
    println!("licence        {}", manifest.licence);
    println!("source         {}", manifest.source);
    println!("sha256         {}", manifest.sha256);
    println!();
    let mut table = table(&["LAYER", "OPERATOR", "SHAPE", "WAIST", "EXPLAIN", "FINE-TUNE"]);
    for (layer, abilities) in network.layers().iter().zip(abilities) {
        table.add_row(row(layer, abilities));
    }
    println!("{table}");
}

fn row(layer: &Layer, abilities: &Abilities) -> [String; 6] {
    let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
    let mark = |wanted: bool, can: bool| match (wanted, can) {
        (_, true) => "yes".to_owned(),
        (true, false) => {
            format!("no: {}", abilities.obstacle.as_deref().unwrap_or("no classifier"))
        }
        (false, false) => String::new(),
    };
    [
        layer.name.clone(),
        layer.operator.clone(),
        shape.join(","),
        mark(false, layer.waist),
        mark(layer.spatial, abilities.explainable),
        mark(layer.waist, abilities.trainable),
    ]
}
