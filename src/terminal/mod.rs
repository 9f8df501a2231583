//! What both programs' commands share: from names to pictures, from answers to
//! standard output.

mod confusion;
mod inputs;
pub mod print;
mod scores;
pub mod sheet;

pub use confusion::confusion_matrix;
pub use inputs::{InputError, pictures, pictures_in};
pub use scores::{ClassLine, scores_text};
