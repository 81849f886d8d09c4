//! Handshakes of anybody: `cargo +nightly fuzz run handshake`, in `crates/serve`.
#![no_main]

#[path = "../handshake_holds.rs"]
mod handshake_holds;

libfuzzer_sys::fuzz_target!(|input: &[u8]| handshake_holds::check(input));
