//! Where a network looked: class activation maps and saliency, and how good they are.
//!
//! An [`Explainer`] is compiled once for a network and its layers; [`explain`] runs it for one
//! input. The way of one explanation: forward run -> [`Score`] of the class -> its cotangent back
//! to the layer ([`crate::grad`]) -> a method's weights ([`cam`]) -> [`HeatMap`](Explanation) with
//! peak, box and energy ([`map`]). `docs/gradients.md` states every convention.

pub mod audit;
pub mod cam;
mod eigen;
mod error;
mod explainer;
mod feature;
pub mod map;
mod occlusion;
pub mod quality;
mod rank;
mod request;
mod run;
mod saliency;
pub mod sanity;
mod score;

pub use error::ExplainError;
pub use explainer::{Demand, Explainer, Forward};
pub use feature::FeatureMap;
pub use map::{Evidence, Map, Region, Scaling};
pub use rank::spearman;
pub use request::{ClassName, ClassSpec, Method, Request, SmoothGrad};
pub use run::{Explanation, explain};
pub use score::{Judge, Score, ScoreKind};
