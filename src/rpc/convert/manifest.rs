//! What an uploaded backbone is.

use super::field::{FieldError, Required, Within, check_length};
use crate::backbones::{BackboneError, NewBackbone, PreprocessingChoice, TensorNames};
use crate::base::name::Name;
use crate::proto::graft::{
    self as proto, BackboneManifest, ChannelOrder, Preprocessing, ResizePolicy,
};
use crate::vision::{self, VisionError};

/// Bytes of a name or a licence.
const MAXIMUM_NAME: usize = 200;
/// Bytes of a source.
const MAXIMUM_SOURCE: usize = 2000;

impl TryFrom<BackboneManifest> for NewBackbone {
    type Error = FieldError;

    fn try_from(manifest: BackboneManifest) -> Result<Self, FieldError> {
        check_length("name", &manifest.name, MAXIMUM_NAME)?;
        check_length("licence", &manifest.licence, MAXIMUM_NAME)?;
        check_length("source", &manifest.source, MAXIMUM_SOURCE)?;
        let sha256 = match manifest.sha256.as_str() {
            "" => None,
            digits => Some(digits.parse().map_err(|error| FieldError::new("sha256", error))?),
        };
        if let Some(index) = manifest.labels.iter().position(|label| label.contains('\n')) {
            let field = format!("labels[{index}]");
            return Err(FieldError::new(field, "must be a single line"));
        }
        let preprocessing = manifest.preprocessing.required("preprocessing")?;
        Ok(Self {
            id: name("id", &manifest.id)?,
            name: manifest.name,
            preprocessing: preprocessing.try_into().within("preprocessing")?,
            labels: (!manifest.labels.is_empty()).then(|| manifest.labels.join("\n")),
            licence: manifest.licence,
            source: manifest.source,
            sha256,
            size_bytes: Some(manifest.size_bytes).filter(|size| *size > 0),
            tensors: manifest.tensors.map(Into::into).unwrap_or_default(),
            replace: manifest.replace,
        })
    }
}

/// The name in field `field`.
///
/// # Errors
/// Where it is no valid name.
pub fn name(field: &str, text: &str) -> Result<Name, FieldError> {
    text.parse().map_err(|error| FieldError::new(field, error))
}

impl TryFrom<Preprocessing> for PreprocessingChoice {
    type Error = FieldError;

    fn try_from(wanted: Preprocessing) -> Result<Self, FieldError> {
        let resize = match ResizePolicy::try_from(wanted.resize) {
            Ok(ResizePolicy::Unspecified | ResizePolicy::Crop) => vision::ResizePolicy::Crop,
            Ok(ResizePolicy::Squash) => vision::ResizePolicy::Squash,
            Ok(ResizePolicy::Pad) => vision::ResizePolicy::Pad,
            Err(_) => return Err(FieldError::new("resize", "is not a resize policy")),
        };
        let channels = match ChannelOrder::try_from(wanted.channels) {
            Ok(ChannelOrder::Unspecified | ChannelOrder::Rgb) => vision::ChannelOrder::Rgb,
            Ok(ChannelOrder::Bgr) => vision::ChannelOrder::Bgr,
            Ok(ChannelOrder::Gray) => vision::ChannelOrder::Gray,
            Err(_) => return Err(FieldError::new("channels", "is not an order of channels")),
        };
        let choice = Self {
            preset: None,
            size: (wanted.size > 0).then_some(wanted.size),
            resize: Some(resize),
            channels: Some(channels),
            // Zero is what an unset number looks like.
            scale: Some(if wanted.scale == 0.0 { 1.0 } else { wanted.scale }),
            mean: Some(by_channel("mean", &wanted.mean, 0.0, channels.count())?),
            std: Some(by_channel("std", &wanted.std, 1.0, channels.count())?),
        };
        // The network's size, where it is left to it, makes sense; any other stands in for it.
        match choice.resolve(Some(1)) {
            Err(BackboneError::Preprocessing(VisionError::Preprocessing { field, reason })) => {
                Err(FieldError::new(field, reason))
            }
            Err(error) => Err(FieldError::new("", error)),
            Ok(_) => Ok(choice),
        }
    }
}

impl From<proto::TensorNames> for TensorNames {
    fn from(named: proto::TensorNames) -> Self {
        let unless_empty = |name: String| Some(name).filter(|name| !name.is_empty());
        Self {
            input: unless_empty(named.input),
            logits: unless_empty(named.logits),
            embedding: unless_empty(named.embedding),
            no_classifier: named.no_classifier,
            waists: named.waists,
        }
    }
}

/// One number a channel, or none for `default` in each.
fn by_channel(
    field: &str,
    numbers: &[f32],
    default: f32,
    channels: usize,
) -> Result<[f32; 3], FieldError> {
    if numbers.is_empty() {
        return Ok([default; 3]);
    }
    if numbers.len() != channels {
        let problem = format!("must have {channels} numbers, one a channel, not {}", numbers.len());
        return Err(FieldError::new(field, problem));
    }
    Ok(std::array::from_fn(|channel| numbers.get(channel).copied().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> BackboneManifest {
        let preprocessing = Preprocessing { mean: vec![1.0, 2.0, 3.0], ..Default::default() };
        BackboneManifest {
            id: "net".into(),
            preprocessing: Some(preprocessing),
            ..BackboneManifest::default()
        }
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        let new = NewBackbone::try_from(manifest()).unwrap();
        let preprocessing = new.preprocessing.resolve(Some(64)).unwrap();
        assert_eq!((preprocessing.size, preprocessing.scale.to_bits()), (64, 1_f32.to_bits()));
        assert_eq!((preprocessing.mean, preprocessing.std), ([1.0, 2.0, 3.0], [1.0; 3]));
        assert_eq!((new.labels, new.sha256), (None, None));
    }

    #[test]
    fn names_of_tensors_are_taken_over_and_empty_ones_name_nothing() {
        let tensors = proto::TensorNames {
            logits: "fc".into(),
            waists: vec!["layer4".into()],
            ..proto::TensorNames::default()
        };
        let sent = BackboneManifest { tensors: Some(tensors), replace: true, ..manifest() };
        let new = NewBackbone::try_from(sent).unwrap();
        let expected = TensorNames {
            logits: Some("fc".into()),
            waists: vec!["layer4".into()],
            ..TensorNames::default()
        };
        assert_eq!((new.tensors, new.replace), (expected, true));
    }

    #[test]
    fn every_bad_field_is_named() {
        let path = |change: fn(&mut BackboneManifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            NewBackbone::try_from(manifest).unwrap_err().path().to_owned()
        };
        assert_eq!(path(|m| m.id = "../x".into()), "id");
        assert_eq!(path(|m| m.id = "x".repeat(300)), "id");
        assert_eq!(path(|m| m.id = "a\0".into()), "id");
        assert_eq!(path(|m| m.name = "x".repeat(201)), "name");
        assert_eq!(path(|m| m.sha256 = "12".into()), "sha256");
        assert_eq!(path(|m| m.labels = vec!["a".into(), "b\nc".into()]), "labels[1]");
        assert_eq!(path(|m| m.preprocessing = None), "preprocessing");
        let std = |m: &mut BackboneManifest| {
            m.preprocessing.as_mut().unwrap().std = vec![1.0];
        };
        assert_eq!(path(std), "preprocessing.std");
        for (field, change) in [
            ("scale", (|p| p.scale = -1.0) as fn(&mut Preprocessing)),
            ("scale", |p| p.scale = f32::NAN),
            ("size", |p| p.size = 4097),
            ("mean", |p| p.mean = vec![0.0, f32::INFINITY, 0.0]),
            ("std", |p| p.std = vec![1.0, 0.0, 1.0]),
            ("resize", |p| p.resize = 9),
        ] {
            let mut manifest = manifest();
            change(manifest.preprocessing.as_mut().unwrap());
            let error = NewBackbone::try_from(manifest).unwrap_err();
            assert_eq!(error.path(), format!("preprocessing.{field}"));
        }
    }
}
