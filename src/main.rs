//! The `whipgate` binary.

fn main() {}
