//! Attacks patterns of channels; the body is `bodies/patterns.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::patterns::attack(bytes));
