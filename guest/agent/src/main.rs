//! PID 1 of a Plimsoll microVM.

fn main() {}
