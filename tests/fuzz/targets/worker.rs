//! Attacks a whole worker with a hostile client in it; the body is `bodies/worker.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::worker::attack(bytes));
