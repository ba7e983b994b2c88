//! The program `fanfare`: an allocator and the command line.
//!
//! The server is the library; the command line is here, since it also calls the load generator.
//! The process ends by a return from `main` and never by `exit`, so that sockets and files are
//! closed by their owners.
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

/// Fast for many small objects of one size on few threads, which is what a server of idle
/// connections allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
