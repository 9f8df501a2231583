//! The backbone that is part of the program: small, without a classifier of its own, made by
//! `models/builtin`.

use std::borrow::Cow;

use super::BackboneError;
use crate::graph::{Network, Options, Overrides, Source};
use crate::vision::{Preprocessing, Preset};

/// Its id; no other backbone can have it.
pub const BUILT_IN: &str = "builtin";

/// Side of its square input, in pixels.
const SIZE: u32 = 128;

/// 16-bit weights, each cast to 32 bits when the network is loaded.
const MODEL: &[u8] = include_bytes!("../../models/builtin/builtin.onnx");

/// How it wants its photographs: RGB, pixels to [-1, 1], central crop.
pub fn built_in_preprocessing() -> Preprocessing {
    Preprocessing::preset(Preset::Tf, SIZE)
}

/// Loads it.
///
/// # Errors
/// Only if the program was built with another file than the tests were run with.
pub fn load_built_in() -> Result<Network, BackboneError> {
    let overrides = Overrides { no_classifier: true, ..Overrides::default() };
    let options = Options { size: Some(SIZE), overrides, ..Options::default() };
    Ok(Network::load(Source::Bytes(Cow::Borrowed(MODEL)), &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_backbone_is_small_loads_and_pools_its_last_feature_map() {
        assert!(MODEL.len() <= 2 << 20, "{} bytes", MODEL.len());
        let network = load_built_in().unwrap();
        assert!(network.classifier().is_none());
        let map = &network.last_spatial().unwrap().name;
        assert_eq!(network.embedding().pooled_from.as_ref(), Some(map));
        let input = vec![0.1; built_in_preprocessing().tensor_len()];
        let outputs = network.plan().run(&input).unwrap();
        assert_eq!(outputs[0].values().len(), network.embedding().width);
        assert!(outputs[0].values().iter().all(|value| value.is_finite()));
    }
}
