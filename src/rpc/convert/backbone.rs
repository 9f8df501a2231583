//! Backbones.

use crate::backbones::{Abilities, BUILT_IN};
use crate::engine::{KeptBackbone, LiveBackbone};
use crate::graph;
use crate::proto::graft::{
    Backbone, BackboneState, ChannelOrder, GetBackboneResponse, Layer, Preprocessing, ResizePolicy,
};
use crate::vision;

/// A backbone on the device. `default` is the id of the one that answers a request that names
/// nothing.
pub fn described(kept: &KeptBackbone, default: Option<&str>) -> Backbone {
    let state = match (&kept.live, &kept.damage) {
        (Some(_), _) => BackboneState::Loaded,
        (None, Some(_)) => BackboneState::Failed,
        (None, None) => BackboneState::Unloaded,
    };
    let mut backbone = Backbone {
        id: kept.id.to_string(),
        name: kept.id.to_string(),
        state: state.into(),
        state_message: kept.damage.clone().unwrap_or_default(),
        built_in: kept.id.as_str() == BUILT_IN,
        default: default == Some(kept.id.as_str()),
        ..Backbone::default()
    };
    if let Some(manifest) = &kept.manifest {
        backbone.name.clone_from(&manifest.name);
        backbone.sha256 = manifest.sha256.to_string();
        backbone.size_bytes = manifest.size_bytes;
        backbone.preprocessing = Some(manifest.preprocessing.into());
        backbone.licence.clone_from(&manifest.licence);
        backbone.source.clone_from(&manifest.source);
        backbone.added_time = Some(manifest.added_at.to_system_time().into());
    }
    if let Some(live) = &kept.live {
        let network = &live.network;
        backbone.sha256 = network.digest().to_string();
        backbone.preprocessing = Some(live.preprocessing.into());
        backbone.class_count = network.classifier().map_or(0, |found| found.classes as u32);
        backbone.embedding_width = network.embedding().width as u32;
    }
    backbone
}

/// A backbone in full; `abilities` has an entry for each of its layers.
pub fn in_full(
    kept: &KeptBackbone,
    default: Option<&str>,
    abilities: &[Abilities],
) -> GetBackboneResponse {
    let mut response = GetBackboneResponse {
        backbone: Some(described(kept, default)),
        ..GetBackboneResponse::default()
    };
    if let Some(live) = &kept.live {
        describe_network(&mut response, live, abilities);
    }
    response
}

fn describe_network(
    response: &mut GetBackboneResponse,
    live: &LiveBackbone,
    abilities: &[Abilities],
) {
    let network = &live.network;
    let layers = network.layers().iter().zip(abilities);
    response.layers = layers.map(|(layer, abilities)| described_layer(layer, abilities)).collect();
    response.labels = (0..live.labels.len()).map(|index| live.labels.get(index).text).collect();
    response.input_name.clone_from(&network.input().name);
    if let Some(layer) = network.last_spatial() {
        response.explanation_layer.clone_from(&layer.name);
    }
}

fn described_layer(layer: &graph::Layer, abilities: &Abilities) -> Layer {
    Layer {
        name: layer.name.clone(),
        operator: layer.operator.clone(),
        shape: layer.shape.iter().skip(1).map(|&extent| extent as u64).collect(),
        spatial: layer.spatial,
        waist: layer.waist,
        explainable: abilities.explainable,
        trainable: abilities.trainable,
    }
}

impl From<vision::Preprocessing> for Preprocessing {
    fn from(found: vision::Preprocessing) -> Self {
        let channels = match found.channels {
            vision::ChannelOrder::Rgb => ChannelOrder::Rgb,
            vision::ChannelOrder::Bgr => ChannelOrder::Bgr,
            vision::ChannelOrder::Gray => ChannelOrder::Gray,
        };
        let resize = match found.resize {
            vision::ResizePolicy::Crop => ResizePolicy::Crop,
            vision::ResizePolicy::Squash => ResizePolicy::Squash,
            vision::ResizePolicy::Pad => ResizePolicy::Pad,
        };
        let count = found.channels.count();
        Self {
            size: found.size,
            resize: resize.into(),
            channels: channels.into(),
            scale: found.scale,
            mean: found.mean[..count].to_vec(),
            std: found.std[..count].to_vec(),
        }
    }
}
