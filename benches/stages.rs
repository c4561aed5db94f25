//! Criterion benches of the stages of a check.

fn main() {}
