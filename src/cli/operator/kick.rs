//! `fanfare kick`: closes connections.

use std::io::Write;

use super::super::Failure;
use super::super::units::grouped;
use super::args::KickArgs;
use super::client::Client;
use super::{print, warn_of_silent_workers};
use fanfare::operator::answer::KickAnswer;
use fanfare::operator::request::{KickRequest, Request};

/// Closes the connections and prints their number.
///
/// # Errors
/// Returns a usage error without a filter. Returns an error if no connection matches, or if the
/// server does not answer or refuses the request.
pub(in crate::cli) fn run(args: &KickArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let filter = args.filter.filter();
    if filter.is_empty() {
        return Err(Failure::Usage(String::from(
            "kick needs a flag that selects connections: --connection, --address, --channel, \
             --sub, --transport, --behind or --unsent",
        )));
    }
    let request = Request::Kick(KickRequest {
        filter,
        code: args.code,
        reason: args.reason.clone(),
    });
    let answer = Client::new(&args.socket)?.ask::<KickAnswer>(&request)?;
    let silent = &answer.content.silent_workers;
    warn_of_silent_workers(silent, "their connections will still be closed");
    match answer.content.kicked {
        0 if silent.is_empty() => Err(Failure::Running(anyhow::anyhow!("no connection matches"))),
        kicked => print(&outcome(kicked), out),
    }
}

fn outcome(kicked: u64) -> String {
    match kicked {
        1 => String::from("1 connection is being closed\n"),
        _ => format!("{} connections are being closed\n", grouped(kicked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_has_the_number() {
        assert_eq!(outcome(1), "1 connection is being closed\n");
        assert_eq!(outcome(1_234), "1,234 connections are being closed\n");
    }
}
