//! `graftctl embed`: the vectors that enter the classifier.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::batch::Batch;
use super::{Model, Outcome, output};
use crate::client::messages::{EmbedRequest, EmbedResponse, Image};
use crate::client::{Client, ClientError};

#[derive(Args, Debug)]
pub struct Embed {
    #[command(flatten)]
    batch: Batch,
    #[command(flatten)]
    model: Model,
}

impl Embed {
    pub async fn run(self, client: &Client) -> Result<Outcome, ClientError> {
        let (head, backbone) = (self.model.head(), self.model.backbone());
        let call = move |client: Client, picture| {
            let (head, backbone) = (head.clone(), backbone.clone());
            let image = Some(Image::from(picture));
            async move { client.embed(EmbedRequest { image, head, backbone }).await }
        };
        let show = |path: &Path, answer: EmbedResponse| {
            if self.batch.json {
                let mut object = json!({
                    "image": path.to_string_lossy(),
                    "backbone": answer.backbone,
                    "embedding": answer.embedding,
                    "timings_ms": output::timings(answer.timings.as_ref()),
                });
                output::add_head(&mut object, answer.head.as_ref(), None);
                output::json_line(&object);
            } else {
                let norm = answer.embedding.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let width = answer.embedding.len();
                output::line(format!(
                    "{}  {width} wide, length {:.3} (--json prints the vector)",
                    path.display(),
                    norm.sqrt()
                ));
            }
            Ok(())
        };
        self.batch.run(client, call, show).await
    }
}
