//! Attacks a whole worker with hostile clients; the body is `bodies/worker.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::worker::attack(bytes));
