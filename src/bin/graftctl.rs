//! The client command.
fn main() {}
