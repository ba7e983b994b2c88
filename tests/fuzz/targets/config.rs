//! Attacks configuration files; the body is `bodies/config.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::config::attack(bytes));
