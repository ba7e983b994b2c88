//! Attacks the TLS filter; the body is `bodies/tls.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::tls::attack(bytes));
