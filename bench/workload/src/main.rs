//! the fixed pieces of work that Plimsoll measures.

fn main() {}
