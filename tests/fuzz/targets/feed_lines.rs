//! Attacks lines on the feed; the body is `bodies/feed_lines.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::feed_lines::attack(bytes));
