//! `fanfare kick`: closes connections.

use std::io::Write;

use super::super::Failure;
use super::super::units::grouped;
use super::args::KickArgs;
use super::client::Client;
use super::text::list_numbers;
use super::{print, warn_of_silent_workers};
use fanfare::operator::answer::KickAnswer;
use fanfare::operator::request::{KickRequest, Request};

/// Closes the connections and prints their number.
///
/// # Errors
/// Returns a usage error without a filter. Returns an error if no connection matches, if a worker
/// could not receive the request, or if the server does not answer or refuses the request.
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
    report(&answer.content, out)
}

/// Prints the number of connections, and returns an error if not all of them are being closed.
fn report(answer: &KickAnswer, out: &mut dyn Write) -> Result<(), Failure> {
    let KickAnswer {
        kicked,
        silent_workers,
        unreached_workers,
    } = answer;
    warn_of_silent_workers(silent_workers, "their connections will still be closed");
    let unreached = list_numbers(unreached_workers);
    if *kicked == 0 && silent_workers.is_empty() && unreached.is_none() {
        return Err(Failure::Running(anyhow::anyhow!("no connection matches")));
    }
    print(&outcome(*kicked), out)?;
    match unreached {
        None => Ok(()),
        Some(workers) => Err(Failure::Running(anyhow::anyhow!(
            "{workers} could not receive the request, because too many requests wait; run the \
             command again to close their connections"
        ))),
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
    fn worker_without_the_request_is_a_failure_that_names_it() {
        let report = |kicked, unreached: &[u16], silent: &[u16]| {
            let mut printed = Vec::new();
            let answer = KickAnswer {
                kicked,
                silent_workers: silent.to_vec(),
                unreached_workers: unreached.to_vec(),
            };
            let failure = report(&answer, &mut printed).err();
            let failure = failure.map(|failure| match failure {
                Failure::Running(error) => error.to_string(),
                other => panic!("{other:?}"),
            });
            (String::from_utf8(printed).unwrap(), failure)
        };
        let (printed, failure) = report(2, &[1, 3], &[]);
        assert_eq!(printed, "2 connections are being closed\n");
        let failure = failure.unwrap();
        assert!(
            failure.starts_with("workers 1, 3 could not receive the request"),
            "{failure}"
        );
        assert!(report(0, &[1], &[]).1.is_some());
        assert_eq!(report(0, &[], &[1]).1, None);
        assert_eq!(report(1, &[], &[]).1, None);
        let none = report(0, &[], &[]);
        let expected = Some(String::from("no connection matches"));
        assert_eq!(none, (String::new(), expected));
    }

    #[test]
    fn outcome_has_the_number() {
        assert_eq!(outcome(1), "1 connection is being closed\n");
        assert_eq!(outcome(1_234), "1,234 connections are being closed\n");
    }
}
