//! Attacks tokens, their parts and their keys; the body is `bodies/token.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::token::attack(bytes));
