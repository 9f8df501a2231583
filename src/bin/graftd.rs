//! The daemon and its local commands.
fn main() {}
