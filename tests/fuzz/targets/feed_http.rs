//! Attacks HTTP on the feed; the body is `bodies/feed_http.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::feed_http::attack(bytes));
