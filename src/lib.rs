//! fanfare: a push server for one Linux machine, tuned for connection count.
#![cfg_attr(
    test,
    allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test may panic"
    )
)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod conn;
pub mod demo;
pub mod effect;
pub mod feed;
pub mod frame;
pub mod http;
pub mod hub;
pub mod id;
pub mod metrics;
pub mod server;
pub mod sys;
pub mod time;
pub mod transport;
pub mod worker;
