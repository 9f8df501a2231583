//! How a network wants its photographs: size, crop, channel order and normalisation, as data.

use serde::{Deserialize, Serialize};

use super::VisionError;

/// How a photograph becomes the input of a network: resized to a square of side `size` by
/// `resize`, its channels brought into the order `channels`, then
/// `normalised = (pixel * scale - mean) / std` with pixels from 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Side S of the square input, 1 to [`Preprocessing::MAX_SIZE`].
    pub size: u32,
    /// How a photograph of any shape fills the square.
    #[serde(default)]
    pub resize: ResizePolicy,
    /// Order and number of channels.
    #[serde(default)]
    pub channels: ChannelOrder,
    /// Factor on pixels before the mean is taken off, above zero, usually 1/255, 1/127.5 or 1.
    pub scale: f32,
    /// Taken off each channel, in the model's channel order. A grey model uses the first.
    pub mean: [f32; 3],
    /// Divides each channel, in the model's channel order; never zero.
    pub std: [f32; 3],
}

/// How a photograph of any shape fills a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizePolicy {
    /// The shorter side becomes `round(S / 0.875)`, then the central S x S is cut out: the usual
    /// evaluation on ImageNet (256 and 224).
    #[default]
    Crop,
    /// Both sides become S; the photograph is distorted, nothing is lost.
    Squash,
    /// The longer side becomes S; the rest is filled with the mean colour (normalised zero).
    Pad,
}

/// Order and number of the channels of a network's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as Caffe has it.
    Bgr,
    /// One channel, the luma of ITU-R BT.601 as Pillow's mode `L` computes it.
    Gray,
}

/// Order of the axes of the input tensor, with one image in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorLayout {
    /// Channels, height, width: ONNX from PyTorch, Caffe and MXNet.
    Nchw,
    /// Height, width, channels: ONNX from TensorFlow.
    Nhwc,
}

/// Well-known normalisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// PyTorch and MXNet: 1/255, mean .485 .456 .406, std .229 .224 .225, RGB.
    Imagenet,
    /// TensorFlow's "inception" way: pixels to [-1, 1], RGB.
    Tf,
    /// Caffe: pixels as they are less mean 104, 117, 123, BGR.
    Caffe,
    /// Pixels to [0, 1], RGB.
    Unit,
}

impl Preprocessing {
    /// The largest side accepted: a larger one is a mistake or an attack.
    pub const MAX_SIZE: u32 = 4096;

    /// A preset at side `size`, with the crop policy.
    pub fn preset(preset: Preset, size: u32) -> Self {
        let (channels, scale, mean, std) = match preset {
            Preset::Imagenet => {
                (ChannelOrder::Rgb, 1.0 / 255.0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            }
            Preset::Tf => (ChannelOrder::Rgb, 1.0 / 127.5, [1.0; 3], [1.0; 3]),
            Preset::Caffe => (ChannelOrder::Bgr, 1.0, [104.0, 117.0, 123.0], [1.0; 3]),
            Preset::Unit => (ChannelOrder::Rgb, 1.0 / 255.0, [0.0; 3], [1.0; 3]),
        };
        Self { size, resize: ResizePolicy::Crop, channels, scale, mean, std }
    }

    /// Values of the input tensor: `size * size * channels`.
    pub fn tensor_len(&self) -> usize {
        (self.size as usize).pow(2) * self.channels.count()
    }

    /// Checks that every field makes sense.
    ///
    /// # Errors
    /// [`VisionError::Preprocessing`] naming the field: a size outside 1 to
    /// [`Self::MAX_SIZE`], a number that is not finite, a zero `std`, a `scale` that is not above zero.
    pub fn validate(&self) -> Result<(), VisionError> {
        let fault = |field, reason: String| Err(VisionError::Preprocessing { field, reason });
        if !(1..=Self::MAX_SIZE).contains(&self.size) {
            return fault("size", format!("{} is not from 1 to {}", self.size, Self::MAX_SIZE));
        }
        if !self.scale.is_normal() || self.scale < 0.0 {
            return fault("scale", format!("{} is not a finite number above zero", self.scale));
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return fault("mean", format!("{mean} is not a finite number"));
        }
        if let Some(std) = self.std.iter().find(|std| !std.is_normal()) {
            return fault("std", format!("{std} is not a finite number other than zero"));
        }
        Ok(())
    }
}

impl ChannelOrder {
    /// 3, or 1 for grey.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Gray => 1,
        }
    }
}

/// A word that names none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is none of {choices}")]
pub struct UnknownName {
    /// What was given.
    pub given: String,
    /// The choices, separated by commas.
    pub choices: String,
}

/// `FromStr`, `Display` and the list of all values, from one table of names.
macro_rules! named {
    ($type:ty { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it in files, flags and messages.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::vision::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    $crate::vision::UnknownName {
                        given: text.chars().take(80).collect(),
                        choices: [$($name),+].join(", "),
                    }
                })
            }
        }
    };
}
pub(super) use named;

named!(ResizePolicy { Crop = "crop", Squash = "squash", Pad = "pad" });
named!(ChannelOrder { Rgb = "rgb", Bgr = "bgr", Gray = "gray" });
named!(TensorLayout { Nchw = "nchw", Nhwc = "nhwc" });
named!(Preset { Imagenet = "imagenet", Tf = "tf", Caffe = "caffe", Unit = "unit" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_choices_parse_back_and_match_their_serialised_form() {
        for policy in ResizePolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(*policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.name());
        }
        for order in ChannelOrder::ALL {
            assert_eq!(order.name().parse(), Ok(*order));
            assert_eq!(serde_json::to_value(order).unwrap(), order.name());
        }
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(*preset));
        }
        assert_eq!(
            "stretch".parse::<ResizePolicy>().unwrap_err().to_string(),
            "`stretch` is none of crop, squash, pad"
        );
    }

    #[test]
    fn validation_names_the_field_at_fault() {
        let good = Preprocessing::preset(Preset::Imagenet, 224);
        good.validate().unwrap();
        let message = |bad: Preprocessing| bad.validate().unwrap_err().to_string();
        assert!(message(Preprocessing { size: 0, ..good }).starts_with("preprocessing.size"));
        assert!(message(Preprocessing { size: 5000, ..good }).starts_with("preprocessing.size"));
        for scale in [0.0, -1.0, f32::INFINITY] {
            assert!(message(Preprocessing { scale, ..good }).starts_with("preprocessing.scale"));
        }
        assert!(
            message(Preprocessing { mean: [0.0, f32::NAN, 0.0], ..good })
                .starts_with("preprocessing.mean")
        );
        assert!(
            message(Preprocessing { std: [1.0, 0.0, 1.0], ..good })
                .starts_with("preprocessing.std")
        );
    }
}
