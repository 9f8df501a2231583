//! Backbones on the device: folders, manifests, labels, catalogue, download.
//!
//! `STATE/backbones/<id>/` holds `model.onnx`, `backbone.toml` ([`Manifest`]) and, where the network
//! has classes with names, `labels.txt` ([`Labels`]). [`Backbones`] lists, installs and removes such
//! folders; nothing is installed before [`Checker`] has loaded and run it once in a child process.
//! [`Catalog`] knows what can be downloaded, [`Download`] fetches it. One backbone needs no folder:
//! the built-in one is part of the program.

mod abilities;
mod as_text;
mod built_in;
mod catalog;
mod check;
mod download;
mod error;
mod folder;
mod incoming;
mod labels;
mod manifest;

pub use abilities::{Abilities, abilities};
pub use built_in::{BUILT_IN, built_in_preprocessing, load_built_in};
pub use catalog::{Catalog, CatalogEntry};
pub use check::{CheckReport, Checker, check_here};
pub use download::{Download, Progress};
pub use error::BackboneError;
pub use folder::{Backbone, Backbones, Listed, Prepared, read_labels};
pub use incoming::{Incoming, NewBackbone};
pub use labels::{Label, LabelError, Labels};
pub use manifest::{Description, Manifest, PreprocessingChoice, TensorNames};
