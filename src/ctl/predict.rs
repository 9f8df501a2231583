//! `graftctl predict`: what pictures show.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::batch::Batch;
use super::{Model, Outcome, output};
use crate::client::messages::{PredictRequest, PredictResponse};
use crate::client::{Client, ClientError};

#[derive(Args, Debug)]
pub struct Predict {
    #[command(flatten)]
    batch: Batch,
    #[command(flatten)]
    model: Model,
    /// How many classes to show, the most probable first.
    #[arg(long, default_value_t = 5)]
    top_k: u32,
}

impl Predict {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let (head, backbone, top_k) = (self.model.head(), self.model.backbone(), Some(self.top_k));
        let call = move |client: Client, picture| {
            let (head, backbone) = (head.clone(), backbone.clone());
            let image = Some(crate::client::messages::Image::from(picture));
            async move {
                let request = PredictRequest { image, head, backbone, top_k, explain: None };
                client.predict(request).await
            }
        };
        let show = |path: &Path, answer: PredictResponse| {
            if self.batch.json {
                output::json_line(&object(path, &answer));
            } else {
                text(path, &answer);
            }
            Ok(())
        };
        self.batch.run(client, call, show).await
    }
}

/// An answer as the command contract's JSON object.
pub fn object(path: &Path, answer: &PredictResponse) -> Value {
    let mut object = json!({
        "image": path.to_string_lossy(),
        "backbone": answer.backbone,
        "predictions": output::predictions(&answer.predictions),
        "timings_ms": output::timings(answer.timings.as_ref()),
    });
    output::add_head(&mut object, answer.head.as_ref(), answer.novelty.as_ref());
    object
}

/// An answer for people: the picture, then a line a class.
pub fn text(path: &Path, answer: &PredictResponse) {
    let unknown = answer.novelty.as_ref().is_some_and(|novelty| novelty.unknown);
    let note = if unknown { "  unknown; the nearest classes are" } else { "" };
    output::line(format!("{}{note}", path.display()));
    for prediction in &answer.predictions {
        let name = output::class_name(prediction);
        output::line(format!("  {:5.1} %  {name}", f64::from(prediction.probability) * 100.0));
    }
}
