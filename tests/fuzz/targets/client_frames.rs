//! Attacks the bytes that a client sends on a WebSocket; the body is `bodies/client_frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::client_frames::attack(bytes));
