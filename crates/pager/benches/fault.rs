//! What a fault costs.
fn main() {}
