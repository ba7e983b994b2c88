//! Attacks the addresses that proxies report for their clients; the body is `bodies/proxy.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::proxy::attack(bytes));
