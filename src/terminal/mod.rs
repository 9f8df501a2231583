//! What both programs' commands share: from names to pictures, from answers to
//! standard output.

mod confusion;
mod inputs;
mod overlays;
pub mod print;
pub mod sheet;

pub use confusion::confusion_matrix;
pub use inputs::{InputError, pictures, pictures_in};
pub use overlays::{Overlays, strength};
