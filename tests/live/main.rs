//! Tests of the real binary over real sockets, with one module per topic.
//!
//! `cargo test --test live tokens::` runs one topic. [`support`] has the parts that the topics
//! share.
#![allow(
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod access_log;
mod admin;
mod admission;
mod alerts;
mod attack;
mod backend;
mod bench;
mod browser_origins;
mod cli;
mod client_libraries;
mod deflate;
mod doctor;
mod drain;
mod feed;
mod guide;
mod half_closed;
mod history;
mod http;
mod journal;
mod limits;
mod logs;
mod metrics;
mod module;
mod namespaces;
mod operator;
mod page;
mod pinned_log;
mod poll;
mod proxy;
mod proxy_recipes;
mod publish;
mod refusals;
mod reload;
mod removed_files;
mod restart;
mod restore;
mod server_lag;
mod service;
mod slow_readers;
mod startup_errors;
mod strictness;
mod subscribe_tls;
mod support;
mod survival;
mod tls;
mod tokens;
mod traceparent;
mod tracing;
mod tuning;
mod websocket;
mod windows;
