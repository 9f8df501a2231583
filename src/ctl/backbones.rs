//! `graftctl backbones`: the pretrained networks on a device.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::upload::Upload;
use super::{Outcome, output};
use crate::client::messages::{Backbone, BackboneState, Layer};
use crate::client::{Client, ClientError};

#[derive(Args, Debug)]
pub struct Backbones {
    /// Print one JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (the default).
    List,
    /// Show one with its layers.
    Show {
        /// The backbone's id. Default: the one that answers a request that names nothing.
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
    },
    /// Send an ONNX file to the device.
    Upload(Box<Upload>),
    /// Load one into memory, so that it answers.
    Load {
        /// The backbone's id.
        id: String,
    },
    /// Take one out of memory.
    Unload {
        /// The backbone's id.
        id: String,
    },
    /// Delete one from the device.
    Delete {
        /// The backbone's id.
        id: String,
        /// Delete the embeddings that it made of samples as well, and samples of which nothing else
        /// is stored.
        #[arg(long)]
        with_embeddings: bool,
    },
}

impl Backbones {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        match &self.action {
            None | Some(Action::List) => self.list(&client.list_backbones().await?),
            Some(Action::Show { id }) => self.show(client, id).await?,
            Some(Action::Upload(upload)) => self.one(upload.run(client).await?.as_ref()),
            Some(Action::Load { id }) => self.one(client.load_backbone(id).await?.as_ref()),
            Some(Action::Unload { id }) => self.one(client.unload_backbone(id).await?.as_ref()),
            Some(Action::Delete { id, with_embeddings: false }) => {
                client.delete_backbone(id).await?;
            }
            Some(Action::Delete { id, with_embeddings: true }) => {
                client.delete_backbone_with_embeddings(id).await?;
            }
        }
        Ok(Outcome::Complete)
    }

    fn list(&self, backbones: &[Backbone]) {
        if self.json {
            for backbone in backbones {
                output::json_line(&object(backbone));
            }
            return;
        }
        let mut table =
            output::table(&["id", "state", "classes", "embedding", "input", "size", "default"]);
        for backbone in backbones {
            let side = backbone.preprocessing.as_ref().map_or(0, |found| found.size);
            table.add_row([
                backbone.id.clone(),
                state(backbone).to_owned(),
                backbone.class_count.to_string(),
                backbone.embedding_width.to_string(),
                side.to_string(),
                if backbone.size_bytes > 0 {
                    output::bytes(backbone.size_bytes)
                } else {
                    String::new()
                },
                if backbone.default { "yes".to_owned() } else { String::new() },
            ]);
        }
        output::align_right(&mut table, &[2, 3, 4, 5]);
        output::print_table(&table);
    }

    fn one(&self, backbone: Option<&Backbone>) {
        self.list(backbone.map(std::slice::from_ref).unwrap_or_default());
    }

    async fn show(&self, client: &Client, id: &str) -> Result<(), ClientError> {
        let found = client.get_backbone(id).await?;
        let backbone = found.backbone.unwrap_or_default();
        if self.json {
            let mut object = object(&backbone);
            object["input_name"] = json!(found.input_name);
            object["explanation_layer"] = json!(found.explanation_layer);
            object["layers"] = found.layers.iter().map(layer_object).collect();
            output::json_line(&object);
            return Ok(());
        }
        self.list(std::slice::from_ref(&backbone));
        let mut table = output::table(&["layer", "operator", "shape", "notes"]);
        for layer in &found.layers {
            let shape = layer.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
            table.add_row([layer.name.clone(), layer.operator.clone(), shape, notes(layer)]);
        }
        output::print_table(&table);
        Ok(())
    }
}

fn state(backbone: &Backbone) -> &'static str {
    match backbone.state() {
        BackboneState::Loaded => "loaded",
        BackboneState::Unloaded => "unloaded",
        BackboneState::Failed => "failed",
        BackboneState::Unspecified => "unknown",
    }
}

fn notes(layer: &Layer) -> String {
    let marks = [
        (layer.spatial, "spatial"),
        (layer.waist, "waist"),
        (layer.explainable, "explainable"),
        (layer.trainable, "trainable"),
    ];
    let marks = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark);
    marks.collect::<Vec<_>>().join(", ")
}

fn object(backbone: &Backbone) -> Value {
    json!({
        "id": backbone.id,
        "name": backbone.name,
        "state": state(backbone),
        "message": backbone.state_message,
        "default": backbone.default,
        "built_in": backbone.built_in,
        "classes": backbone.class_count,
        "embedding_width": backbone.embedding_width,
        "size_bytes": backbone.size_bytes,
        "sha256": backbone.sha256,
        "licence": backbone.licence,
        "source": backbone.source,
    })
}

fn layer_object(layer: &Layer) -> Value {
    json!({
        "name": layer.name,
        "operator": layer.operator,
        "shape": layer.shape,
        "spatial": layer.spatial,
        "waist": layer.waist,
        "explainable": layer.explainable,
        "trainable": layer.trainable,
    })
}
