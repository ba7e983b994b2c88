//! The bodies of the fuzz targets: checks that must succeed for any input.
//!
//! Each body is a function of bytes that panics on a finding. It checks more than the absence of
//! panics: the result does not depend on the cuts, printed values read back the same, other
//! implementations agree, and memory stays within bounds. `tests/fuzz` compiles this file as a
//! library and gets bytes from a fuzzer. `tests/corpus.rs` compiles it as a module and gets bytes
//! from `tests/corpus` and mutations of them. A new target needs a file here, a line in
//! [`TARGETS`], and entries in `targets` and `Cargo.toml`.
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::string_slice,
    clippy::struct_excessive_bools,
    clippy::unwrap_used,
    reason = "a body panics by design, and is public for the fuzz targets alone"
)]

pub mod client_frames;
pub mod config;
pub mod conn;
pub mod feed_http;
pub mod feed_lines;
pub mod head;
pub mod ids;
pub mod memory;
pub mod patterns;
pub mod proxy;
pub mod tls;
pub mod token;
pub mod worker;

mod feed;
mod parts;
mod responses;
mod script;

// The simulation's network, and its parsers of the server's output.
#[expect(dead_code, reason = "the simulation needs more of it")]
#[path = "../../sim/net/mod.rs"]
mod net;
#[path = "../../sim/secure.rs"]
mod secure;
#[expect(dead_code, reason = "the simulation needs more of it")]
#[path = "../../sim/wire.rs"]
mod wire;

/// The function of one target.
pub type Body = fn(&[u8]);

/// All targets, with the name of each target's files and of its folder in `tests/corpus`.
pub const TARGETS: &[(&str, Body)] = &[
    ("client_frames", client_frames::attack),
    ("config", config::attack),
    ("conn", conn::attack),
    ("feed_http", feed_http::attack),
    ("feed_lines", feed_lines::attack),
    ("head", head::attack),
    ("ids", ids::attack),
    ("patterns", patterns::attack),
    ("proxy", proxy::attack),
    ("tls", tls::attack),
    ("token", token::attack),
    ("worker", worker::attack),
];
