//! The Open Inference Protocol, so that clients made for it, such as tritonclient, work unchanged.
//!
//! A backbone is a model and so is a head. A backbone answers its ONNX file's own output, a head
//! `logits` and `probabilities`.

mod model;
mod rows;
mod service;
mod signature;
mod tensors;

pub use service::OpenInference;
