//! The program `fanfare`: selects an allocator and runs the command line.
//!
//! The library contains the server. The command line is in this program, because it also calls the
//! load generator. The process always ends by returning from `main`, so that the owners of sockets
//! and files close them. It never calls `exit`.
#![cfg_attr(
    test,
    allow(
        clippy::expect_used,
        clippy::format_push_string,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "a test may panic"
    )
)]

mod cli;

use std::process::ExitCode;

/// mimalloc is fast for many small objects of the same size on few threads. A server with idle
/// connections allocates such objects.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
