//! What both programs' commands share: from names to pictures, from answers to
//! standard output.

mod answers;
mod boxes;
mod confusion;
mod inputs;
mod numbers;
mod overlays;
pub mod print;
mod scores;
pub mod sheet;

pub use answers::{milliseconds, of_picture};
pub use boxes::{Edges, boxes};
pub use confusion::confusion_matrix;
pub use inputs::{InputError, explained, pictures, pictures_in, pictures_of_folder};
pub use numbers::{fraction, triple};
pub use overlays::{Overlays, strength};
pub use scores::{ClassLine, scores_text};
