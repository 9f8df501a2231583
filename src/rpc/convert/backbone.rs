//! Backbones.

use crate::engine::{Answerer, LiveBackbone, Origin};
use crate::graph;
use crate::proto::graft::{
    Backbone, BackboneState, ChannelOrder, GetBackboneResponse, Layer, Preprocessing, ResizePolicy,
};
use crate::vision;

/// A loaded backbone. `default` is what answers a request that names nothing.
pub fn loaded(live: &LiveBackbone, default: Option<&Answerer>) -> Backbone {
    let network = &live.network;
    let added = match live.origin {
        Origin::BuiltIn => None,
        Origin::Added(time) => Some(time.to_system_time().into()),
    };
    Backbone {
        id: live.name.to_string(),
        name: live.name.to_string(),
        state: BackboneState::Loaded.into(),
        built_in: live.origin == Origin::BuiltIn,
        default: default.is_some_and(|found| found.backbone.name == live.name),
        sha256: network.digest().to_string(),
        preprocessing: Some(live.preprocessing.into()),
        class_count: network.classifier().map_or(0, |classifier| classifier.classes as u32),
        embedding_width: network.embedding().width as u32,
        added_time: added,
        ..Backbone::default()
    }
}

/// A loaded backbone in full.
pub fn in_full(live: &LiveBackbone, default: Option<&Answerer>) -> GetBackboneResponse {
    let network = &live.network;
    GetBackboneResponse {
        backbone: Some(loaded(live, default)),
        layers: network.layers().iter().map(Layer::from).collect(),
        labels: (0..live.labels.len()).map(|index| live.labels.get(index).text).collect(),
        input_name: network.input().name.clone(),
        explanation_layer: network
            .last_spatial()
            .map(|layer| layer.name.clone())
            .unwrap_or_default(),
    }
}

impl From<&graph::Layer> for Layer {
    fn from(layer: &graph::Layer) -> Self {
        Self {
            name: layer.name.clone(),
            operator: layer.operator.clone(),
            shape: layer.shape.iter().skip(1).map(|&extent| extent as u64).collect(),
            spatial: layer.spatial,
            waist: layer.waist,
            explainable: false,
            trainable: false,
        }
    }
}

impl From<vision::Preprocessing> for Preprocessing {
    fn from(found: vision::Preprocessing) -> Self {
        let (channels, count) = match found.channels {
            vision::ChannelOrder::Rgb => (ChannelOrder::Rgb, 3),
            vision::ChannelOrder::Bgr => (ChannelOrder::Bgr, 3),
            vision::ChannelOrder::Gray => (ChannelOrder::Gray, 1),
        };
        let resize = match found.resize {
            vision::ResizePolicy::Crop => ResizePolicy::Crop,
            vision::ResizePolicy::Squash => ResizePolicy::Squash,
            vision::ResizePolicy::Pad => ResizePolicy::Pad,
        };
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
