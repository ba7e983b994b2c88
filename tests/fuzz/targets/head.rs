//! Attacks request heads; the body is `bodies/head.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::head::attack(bytes));
