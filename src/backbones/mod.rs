//! Backbones on the device: folders, manifests, labels, catalogue, download.

mod labels;

pub use labels::{Label, LabelError, Labels};
