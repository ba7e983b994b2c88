//! Attacks ids and names in the places where clients send them; the body is `bodies/ids.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::ids::attack(bytes));
