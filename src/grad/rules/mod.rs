//! The gradient rules, one file per family of operators.

pub mod binary;
pub mod conv;
mod depthwise;
pub mod einsum;
mod gemm;
pub mod lrn;
pub mod movement;
pub mod norm;
pub mod pool;
pub mod reduce;
pub mod select;
pub mod unary;
mod window;
