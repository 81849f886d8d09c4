//! The command `surefault`.

fn main() {}
