//! ONNX in, tract graph out: check, describe, find the parts of a classifier, optimise, run.
//!
//! The way of a file: `file` reads it, `onnx` decodes and distrusts it, `topology` orders it and finds
//! waists, `input` finds the image, `layout` learns which axes are height and width, `anatomy` finds the
//! ending, the classifier and the embedding, `layer` lists what lies between, `network` puts these
//! together, `view` declares tensors by name on the tract graph, `plan` runs it, with `kernels` of our
//! own where tract is slow. Everything a user sees is described by ONNX tensor names; nobody outside
//! needs to know what tract makes of them.

mod anatomy;
mod constants;
mod error;
mod export;
mod file;
mod input;
mod kernels;
mod layer;
mod layout;
mod network;
mod onnx;
mod plan;
mod topology;
mod view;

pub use anatomy::{Ending, Overrides};
pub use constants::Constants;
pub use error::GraphError;
pub use export::{EMBEDDING, Extension};
pub use file::Source;
pub use input::Input;
pub use layer::Layer;
pub use network::{Classifier, Embedding, Network, Options, Part};
pub use plan::{Plan, Tensor};
pub use view::{Tap, View};
