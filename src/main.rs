//! The program `fanfare`: selects an allocator and runs the command line.
//!
//! The server is in the library. The command line is in this binary, because it also calls the load
//! generator. The process ends by a return from `main` and never by `exit`, so that the owners of
//! sockets and files close them.
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

/// Chosen because it is fast for many small objects of equal size on few threads. A server with
/// idle connections allocates such objects.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
