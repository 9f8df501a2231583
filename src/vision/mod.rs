//! Pixels: from the bytes of a photograph to the input tensor of a network, and from a network's
//! heat map back onto the photograph.
//!
//! ```text
//! bytes --decode--> Picture --preprocess--> input tensor + Placement
//!            heat map --Placement, ColorMap, overlay--> Picture --encode--> PNG or JPEG
//! ```
//!
//! Coordinates are continuous: pixel `i` covers `[i, i + 1)`, its centre lies at `i + 0.5`.

mod augment;
mod colormap;
mod decode;
mod encode;
mod error;
mod frame;
mod guard;
mod jpeg;
mod orient;
mod overlay;
mod picture;
mod placement;
mod preprocess;
mod preprocessing;
mod quality;
mod resize;

pub use augment::augmented;
pub use colormap::ColorMap;
pub use decode::{decode, size};
pub use encode::{ImageFormat, encode};
pub use error::VisionError;
pub use frame::{PixelFormat, RawFrame};
pub use overlay::{DEFAULT_STRENGTH, HeatMap, overlay};
pub use picture::{Limits, Picture};
pub use placement::{BoundingBox, Placement};
pub use preprocess::{Preprocessor, preprocess};
pub use preprocessing::{
    ChannelOrder, Preprocessing, Preset, ResizePolicy, TensorLayout, UnknownName,
};

pub use quality::{Quality, quality};

#[cfg(test)]
mod parity;
