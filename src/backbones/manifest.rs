//! What a backbone is, as written in its `backbone.toml`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BackboneError, as_text};
use crate::base::clock::Timestamp;
use crate::base::digest::Digest;
use crate::graph;
use crate::vision::{ChannelOrder, Preprocessing, Preset, ResizePolicy};

/// The largest manifest that is read, and so the largest that is written, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The manifest of an installed backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name for people.
    pub name: String,
    /// Whether the daemon loads it at its start.
    pub enabled: bool,
    /// SHA-256 of `model.onnx`.
    #[serde(with = "as_text")]
    pub sha256: Digest,
    /// Size of `model.onnx` in bytes.
    pub size_bytes: u64,
    /// When it was added, in microseconds since 1970-01-01T00:00:00Z.
    #[serde(with = "microseconds")]
    pub added_at: Timestamp,
    /// The licence of its weights, an SPDX expression where known; else empty.
    #[serde(default)]
    pub licence: String,
    /// Where it came from; empty where unknown.
    #[serde(default)]
    pub source: String,
    /// How a photograph becomes its input.
    pub preprocessing: Preprocessing,
    /// Overrides of what is found by the network's structure.
    #[serde(default, skip_serializing_if = "TensorNames::is_default")]
    pub tensors: TensorNames,
}

/// ONNX tensor names that override what graftd finds by structure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TensorNames {
    /// The image input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The classifier's output before softmax or sigmoid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<String>,
    /// The vector that enters the classifier, or a feature map whose mean over space does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
    /// The network has no classifier: its output is the embedding.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_classifier: bool,
    /// The only tensors at which the network may be cut; each must be a waist. Empty: all waists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waists: Vec<String>,
}

/// A manifest as a person writes it: everything may be left out. An installed `backbone.toml` is a
/// valid description.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Description {
    /// See [`Manifest::name`].
    pub name: Option<String>,
    /// See [`Manifest::enabled`].
    pub enabled: Option<bool>,
    /// Expected SHA-256 of the model, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Not used; allowed so that an installed manifest can be read.
    pub size_bytes: Option<u64>,
    /// Not used; allowed so that an installed manifest can be read.
    pub added_at: Option<i64>,
    /// See [`Manifest::licence`].
    pub licence: Option<String>,
    /// See [`Manifest::source`].
    pub source: Option<String>,
    /// See [`Manifest::preprocessing`].
    pub preprocessing: PreprocessingChoice,
    /// See [`Manifest::tensors`].
    pub tensors: TensorNames,
}

/// Preprocessing of which some parts are chosen and the rest is taken from a preset or from what a
/// backbone has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessingChoice {
    /// Where channels, scale, mean and std come from unless chosen below.
    pub preset: Option<Preset>,
    /// See [`Preprocessing::size`].
    pub size: Option<u32>,
    /// See [`Preprocessing::resize`].
    pub resize: Option<ResizePolicy>,
    /// See [`Preprocessing::channels`].
    pub channels: Option<ChannelOrder>,
    /// See [`Preprocessing::scale`].
    pub scale: Option<f32>,
    /// See [`Preprocessing::mean`].
    pub mean: Option<[f32; 3]>,
    /// See [`Preprocessing::std`].
    pub std: Option<[f32; 3]>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// A file that cannot be read or understood, with its path.
    pub fn read(path: &Path) -> Result<Self, BackboneError> {
        let manifest: Self = parse(path, &read(path)?)?;
        manifest.preprocessing.validate().map_err(|error| BackboneError::Manifest {
            origin: path.display().to_string(),
            reason: error.to_string(),
        })?;
        Ok(manifest)
    }

    /// The manifest as TOML.
    ///
    /// # Errors
    /// [`BackboneError::Mismatch`] where it has more bytes than are read. If a name cannot be
    /// expressed in TOML; this would be a fault of ours.
    pub fn to_toml(&self) -> Result<String, BackboneError> {
        let text = toml::to_string(self).map_err(|error| BackboneError::Manifest {
            origin: "backbone.toml".to_owned(),
            reason: error.to_string(),
        })?;
        if text.len() as u64 > MAX_BYTES {
            let size = text.len();
            return Err(BackboneError::Mismatch(format!(
                "the manifest would have {size} bytes, over the limit of {MAX_BYTES}: give shorter \
                 texts, or name fewer tensors"
            )));
        }
        Ok(text)
    }
}

impl TensorNames {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the same tensors are computed, wherever the network may be cut.
    pub fn computes_as(&self, other: &Self) -> bool {
        let of = |names: &Self| Self { waists: Vec::new(), ..names.clone() };
        of(self) == of(other)
    }

    /// As the loader takes them.
    pub fn overrides(&self) -> graph::Overrides {
        let Self { input, logits, embedding, no_classifier, waists } = self.clone();
        graph::Overrides { input, logits, embedding, no_classifier, waists }
    }
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// A file that cannot be read or understood, with its path.
    pub fn read(path: &Path) -> Result<Self, BackboneError> {
        parse(path, &read(path)?)
    }
}

impl PreprocessingChoice {
    /// What is chosen here, and elsewhere where nothing is chosen here.
    #[must_use]
    pub fn or(self, elsewhere: Self) -> Self {
        // A preset chosen here stands before single parts chosen elsewhere, except for the size and
        // the resize policy, of which a preset says nothing.
        let parts = if self.preset.is_some() { Self::default() } else { elsewhere };
        Self {
            preset: self.preset.or(parts.preset),
            size: self.size.or(elsewhere.size),
            resize: self.resize.or(elsewhere.resize),
            channels: self.channels.or(parts.channels),
            scale: self.scale.or(parts.scale),
            mean: self.mean.or(parts.mean),
            std: self.std.or(parts.std),
        }
    }

    /// The choice that is exactly `preprocessing`.
    pub fn all_of(preprocessing: &Preprocessing) -> Self {
        let Preprocessing { size, resize, channels, scale, mean, std } = *preprocessing;
        Self {
            preset: None,
            size: Some(size),
            resize: Some(resize),
            channels: Some(channels),
            scale: Some(scale),
            mean: Some(mean),
            std: Some(std),
        }
    }

    /// The preprocessing, complete. `network_size` is the side that the network fixes itself.
    ///
    /// # Errors
    /// What is missing, and values that make no sense.
    pub fn resolve(self, network_size: Option<u32>) -> Result<Preprocessing, BackboneError> {
        let missing = |what: &str| {
            BackboneError::Mismatch(format!(
                "the preprocessing is not complete: say {what} (or a preset: imagenet, tf, caffe \
                 or unit)"
            ))
        };
        let Some(size) = self.size.or(network_size) else {
            let text = "the network leaves the side of its input open: say --size";
            return Err(BackboneError::Mismatch(text.to_owned()));
        };
        let preset = self.preset.map(|preset| Preprocessing::preset(preset, size));
        let preprocessing = Preprocessing {
            size,
            resize: self.resize.unwrap_or_default(),
            channels: self.channels.or(preset.map(|p| p.channels)).unwrap_or_default(),
            scale: self.scale.or(preset.map(|p| p.scale)).ok_or_else(|| missing("--scale"))?,
            mean: self.mean.or(preset.map(|p| p.mean)).ok_or_else(|| missing("--mean"))?,
            std: self.std.or(preset.map(|p| p.std)).ok_or_else(|| missing("--std"))?,
        };
        preprocessing.validate()?;
        Ok(preprocessing)
    }
}

fn read(path: &Path) -> Result<String, BackboneError> {
    let size = std::fs::metadata(path).map_err(BackboneError::io(path))?.len();
    if size > MAX_BYTES {
        return Err(BackboneError::Manifest {
            origin: path.display().to_string(),
            reason: format!("{size} bytes are too many for a manifest"),
        });
    }
    std::fs::read_to_string(path).map_err(BackboneError::io(path))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, BackboneError> {
    toml::from_str(text).map_err(|error| BackboneError::Manifest {
        origin: path.display().to_string(),
        reason: on_one_line(&error, text),
    })
}

/// toml's own text draws the line with a caret below it, which is no use in a table or a JSON string.
fn on_one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
    format!("{}{message}", line.unwrap_or_default())
}

mod microseconds {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::base::clock::Timestamp;

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    pub(super) fn serialize<S: Serializer>(
        time: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(time.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            name: "a \"quoted\" name".to_owned(),
            enabled: true,
            sha256: Digest::of(b"model"),
            size_bytes: 5,
            added_at: Timestamp(1_700_000_000_000_000),
            licence: "MIT".to_owned(),
            source: String::new(),
            preprocessing: Preprocessing::preset(Preset::Imagenet, 224),
            tensors: TensorNames { logits: Some("fc/out".to_owned()), ..TensorNames::default() },
        }
    }

    #[test]
    fn a_manifest_comes_back_from_its_file_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backbone.toml");
        crate::base::atomic::write(&path, manifest().to_toml().unwrap().as_bytes()).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest());
        let description = Description::read(&path).unwrap();
        assert_eq!(description.preprocessing.resolve(None).unwrap(), manifest().preprocessing);
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        crate::base::atomic::write(&path, b"[preprocessing]\npreste = \"tf\"\n").unwrap();
        let message = Description::read(&path).unwrap_err().to_string();
        assert!(message.contains("mine.toml") && message.contains("preste"), "{message}");
        assert!(message.contains("line 2: ") && message.lines().count() == 1, "{message}");
    }

    #[test]
    fn single_parts_override_a_preset_and_a_preset_overrides_older_parts() {
        let older = PreprocessingChoice::all_of(&Preprocessing {
            resize: ResizePolicy::Squash,
            ..Preprocessing::preset(Preset::Caffe, 299)
        });
        let choice = PreprocessingChoice {
            preset: Some(Preset::Tf),
            channels: Some(ChannelOrder::Bgr),
            ..PreprocessingChoice::default()
        };
        let resolved = choice.or(older).resolve(None).unwrap();
        let expected = Preprocessing {
            resize: ResizePolicy::Squash,
            channels: ChannelOrder::Bgr,
            ..Preprocessing::preset(Preset::Tf, 299)
        };
        assert_eq!(resolved, expected);
    }

    #[test]
    fn an_incomplete_choice_says_what_is_missing() {
        let choice = PreprocessingChoice::default();
        assert!(choice.resolve(None).unwrap_err().to_string().contains("--size"));
        assert!(choice.resolve(Some(224)).unwrap_err().to_string().contains("--scale"));
        let preset = PreprocessingChoice { preset: Some(Preset::Unit), ..choice };
        assert_eq!(preset.resolve(Some(96)).unwrap(), Preprocessing::preset(Preset::Unit, 96));
        let bad = PreprocessingChoice { std: Some([0.0; 3]), ..preset };
        assert!(bad.resolve(Some(96)).is_err());
    }
}
