//! What both programs' commands share: from names to pictures, from numbers to text.

mod inputs;

pub use inputs::{InputError, pictures, pictures_in};
