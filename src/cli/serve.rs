//! `fanfare serve`: runs the server.
//!
//! Loads the configuration and hands it on.

use super::args::ServeArgs;
use super::{Failure, tell};
use crate::config::file;

/// Runs the server until it is told to stop.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let loaded = file::load(
        args.config.as_deref(),
        file::process_environment(),
        &args.overrides(),
    )?;
    for warning in &loaded.warnings {
        tell(&format!("warning: {warning}"));
    }
    Err(Failure::Running(anyhow::anyhow!("not built yet")))
}
