//! Attacks the state machine of a connection, with events between the bytes; the body is
//! `bodies/conn.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::conn::attack(bytes));
