//! What can be asked of each layer of a network besides its value.

use super::BackboneError;
use crate::grad::{GradError, Reverse};
use crate::graph::{Layer, Network, View};

/// What a layer can be used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// An explanation by gradients can look here: the layer is spatial and every operator between it
    /// and the logits (or the embedding, where there are none) has a derivative.
    pub explainable: bool,
    /// The network can be fine-tuned from here: the layer is a waist and every operator between it
    /// and the logits (or the embedding, where there are none) has a derivative.
    pub trainable: bool,
    /// Where one of these fails for want of a derivative: the operator and node that lacks it.
    pub obstacle: Option<String>,
}

/// The abilities of all layers, in the order of [`Network::layers`].
///
/// # Errors
/// If the network's file has changed or tract cannot prepare it.
pub fn abilities(network: &Network) -> Result<Vec<Abilities>, BackboneError> {
    let layers = network.layers();
    // A network without a classifier is explained and trained through the heads on its embedding.
    let end = network.classifier().map_or(network.embedding().tensor.clone(), |found| found.logits);
    let matters = |layer: &&Layer| layer.spatial || layer.waist;
    let mut names = vec![end.as_str()];
    names.extend(layers.iter().filter(matters).map(|layer| layer.name.as_str()));
    names.dedup();
    let view = network.view(&names)?;
    layers
        .iter()
        .map(|layer| {
            if !matters(&layer) {
                return Ok(Abilities::default());
            }
            let obstacle = obstacle(&view, &end, &layer.name)?;
            Ok(Abilities {
                explainable: layer.spatial && obstacle.is_none(),
                trainable: layer.waist && obstacle.is_none(),
                obstacle,
            })
        })
        .collect()
}

/// What stands between the derivative of `of` and `by`, if anything does.
fn obstacle(view: &View, of: &str, by: &str) -> Result<Option<String>, BackboneError> {
    let (of, by) = (view.tap(of)?.outlet, view.tap(by)?.outlet);
    match Reverse::new(view.model(), of, &[by]) {
        Ok(_) => Ok(None),
        Err(GradError::Missing { operator, node, .. }) => Ok(Some(format!("{operator} {node}"))),
        Err(error @ (GradError::Graph { .. } | GradError::Values(_))) => {
            Ok(Some(error.to_string()))
        }
    }
}
