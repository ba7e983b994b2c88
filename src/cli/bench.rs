//! `fanfare bench`: runs the load generator, which is a separate crate.
//!
//! The generator does not know which channel names the server accepts, so the name is checked here.

use std::io::Write;

use super::Failure;
use fanfare::config::limits;
use fanfare::id::ChannelName;
use fanfare_generator::options::{BenchArgs, DEFLATE_BYTES_MIN};

// The generator is a separate crate with its own copy of this constant. Both values must be equal.
const _: () = assert!(DEFLATE_BYTES_MIN == limits::DEFLATE_BYTES_MIN);

/// Checks the channel's name and runs the load generator.
pub(super) fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    ChannelName::new(&args.longest_channel_name())
        .map_err(|error| Failure::Usage(format!("--channel: {error}")))?;
    fanfare_generator::run(args, out).map_err(Failure::from)
}

impl From<fanfare_generator::Failure> for Failure {
    fn from(failure: fanfare_generator::Failure) -> Self {
        match failure {
            fanfare_generator::Failure::Output(error) => Self::of_output(error),
            fanfare_generator::Failure::Running(error) => Self::Running(error),
            fanfare_generator::Failure::Unaccounted => Self::Reported,
            fanfare_generator::Failure::Usage(what) => Self::Usage(what),
        }
    }
}
