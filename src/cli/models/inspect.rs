//! `graftd models inspect`: a backbone and its layers.

use clap::Args;
use serde_json::{Value, json};

use super::{id, input, preprocessing, table};
use crate::backbones::{
    Abilities, BUILT_IN, Backbones, CheckReport, Manifest, abilities, built_in_preprocessing,
    load_built_in,
};
use crate::base::name::Name;
use crate::cli::{CliError, Global, Outcome};
use crate::graph::{Layer, Network};
use crate::terminal::print;
use crate::vision::Preprocessing;

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

/// What is described: a backbone on the device, or the one within the program.
struct Subject {
    id: Name,
    manifest: Option<Manifest>,
    preprocessing: Preprocessing,
    network: Network,
    abilities: Vec<Abilities>,
}

impl Inspect {
    pub(super) fn run(&self, global: &Global) -> Result<Outcome, CliError> {
        let subject = self.load(global)?;
        if self.json {
            print::json(&subject.object());
        } else {
            subject.print();
        }
        Ok(Outcome::Complete)
    }

    fn load(&self, global: &Global) -> Result<Subject, CliError> {
        let id = self.id.clone();
        let (manifest, preprocessing, network) = if id.as_str() == BUILT_IN {
            (None, built_in_preprocessing(), load_built_in()?)
        } else {
            let backbone = Backbones::new(&global.state_dir()).get(&id)?;
            let network = backbone.load()?;
            let preprocessing = backbone.manifest.preprocessing;
            (Some(backbone.manifest), preprocessing, network)
        };
        let abilities = abilities(&network)?;
        Ok(Subject { id, manifest, preprocessing, network, abilities })
    }
}

impl Subject {
    fn name(&self) -> &str {
        self.manifest.as_ref().map_or("the backbone within graftd", |manifest| &manifest.name)
    }

    fn licence(&self) -> &str {
        self.manifest.as_ref().map_or("that of graftd", |manifest| &manifest.licence)
    }

    fn source(&self) -> &str {
        self.manifest.as_ref().map_or("built in", |manifest| &manifest.source)
    }

    fn object(&self) -> Value {
        let network = &self.network;
        let embedding = network.embedding();
        let classifier = network.classifier().map(|found| {
            let ending = found.ending.operator();
            json!({ "logits": found.logits, "classes": found.classes, "ending": ending })
        });
        let layers: Vec<Value> = network
            .layers()
            .iter()
            .zip(&self.abilities)
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
            "id": self.id.as_str(),
            "name": self.name(),
            "enabled": self.manifest.as_ref().is_none_or(|manifest| manifest.enabled),
            "sha256": network.digest().to_string(),
            "licence": self.licence(),
            "source": self.source(),
            "preprocessing": preprocessing(&self.preprocessing),
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

    fn print(&self) {
        let (network, report) = (&self.network, CheckReport::of(&self.network));
        let Preprocessing { resize, channels, scale, mean, std, .. } = self.preprocessing;
        let classifier = network.classifier().map_or("none".to_owned(), |classifier| {
            let ending = classifier.ending.operator();
            let ending = ending.map_or(String::new(), |operator| format!(", before a {operator}"));
            format!("{} classes at {}{ending}", classifier.classes, classifier.logits)
        });
        print::line(format_args!("{}: {}", self.id, self.name()));
        print::line(format_args!(
            "input          {} {size} x {size} x {}, {}",
            report.input,
            report.channels,
            report.layout,
            size = report.size
        ));
        print::line(format_args!(
            "preprocessing  {resize} {channels} scale {scale} mean {mean:?} std {std:?}"
        ));
        print::line(format_args!("classifier     {classifier}"));
        print::line(format_args!(
            "embedding      {} values at {}",
            report.embedding_width,
            network.embedding().tensor
        ));
        if let Some(layer) = network.last_spatial() {
            print::line(format_args!("explained at   {}", layer.name));
        }
        print::line(format_args!("licence        {}", self.licence()));
        print::line(format_args!("source         {}", self.source()));
        print::line(format_args!("sha256         {}", network.digest()));
        print::line("");
        let mut table = table(&["LAYER", "OPERATOR", "SHAPE", "WAIST", "EXPLAIN", "FINE-TUNE"]);
        for (layer, abilities) in network.layers().iter().zip(&self.abilities) {
            table.add_row(row(layer, abilities));
        }
        print::line(&table);
    }
}

fn row(layer: &Layer, abilities: &Abilities) -> [String; 6] {
    let shape: Vec<String> = layer.shape.iter().map(ToString::to_string).collect();
    let mark = |wanted: bool, can: bool| match (wanted, can) {
        (_, true) => "yes".to_owned(),
        (true, false) => {
            format!("no: {}", abilities.obstacle.as_deref().unwrap_or("not known"))
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
