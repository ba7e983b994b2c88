//! The program `fanfare`: an allocator and a call.
//!
//! Everything else is in the library, so that tests and benches can use it. The process ends by a
//! return from `main` and never by `exit`, so that sockets and files are closed by their owners.

use std::process::ExitCode;

/// Fast for many small objects of one size on few threads, which is what a server of idle
/// connections allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanfare::cli::run()
}
