//! What both programs' commands share: from names to pictures, from numbers to text.

mod confusion;
mod inputs;

pub use confusion::confusion_matrix;
pub use inputs::{InputError, pictures, pictures_in};
