//! The program `fanfare`: an allocator and a call.
//!
//! Everything else is in the library, so that tests and benches reach it. Ends by returning, never
//! by leaving from within, so that sockets and files are closed by their owners.

use std::process::ExitCode;

/// Many small objects of one size and few threads are what it is best at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanfare::cli::run()
}
