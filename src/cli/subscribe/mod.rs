//! `fanfare subscribe`: prints what a subscriber receives, and stays subscribed.
//!
//! One loop: follow a stream until it ends, and do what its [`End`] asks. The transports know how
//! to follow; what outlives a conn is in the [`Connection`]: the last id, the count, the
//! deadline. Publications go to standard output, a line each, flushed; everything else to standard
//! error.

mod end;
mod event_stream;
mod exchange;
mod long_poll;
mod parser;
mod response_body;
mod socket;
mod target;
mod web_socket;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::args::SubscribeArgs;
use super::{Failure, tell};
use end::{Backoff, End, Lost};
use fanfare::id::SINCE_FIRST;
use target::{Scheme, Target};

/// How long a server may take to accept and to answer the request.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Subscribes until the arguments, the server or the reader of `out` say that it is enough.
pub(super) fn run(args: &SubscribeArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let target = Target::parse(&args.url);
    let mut target = target.map_err(|error| Failure::Usage(format!("<URL>: {error}")))?;
    let asks_for_all = args.since.as_deref() == Some(SINCE_FIRST);
    if asks_for_all {
        target.begin_with(&format!("since={SINCE_FIRST}"));
    }
    if let Some(count) = args.last {
        target.begin_with(&format!("last={count}"));
    }
    let mut connection = Connection {
        args,
        target: &target,
        out,
        deadline: args
            .timeout
            .and_then(|wait| Instant::now().checked_add(wait)),
        last_id: args.since.clone().filter(|_| !asks_for_all),
        printed: 0,
        was_joined: false,
    };
    let mut backoff = Backoff::default();
    loop {
        let end = match target.scheme {
            Scheme::EventStream => event_stream::follow(&mut connection),
            Scheme::Poll => long_poll::follow(&mut connection),
            Scheme::WebSocket => web_socket::follow(&mut connection),
        };
        if let End::Lost(lost) = &end {
            connection.was_joined |= lost.was_joined;
        }
        let lost = match end {
            End::Enough => return Ok(()),
            End::Failed(cause) => return Err(failed(cause)),
            End::Finished(cause) => return connection.finished(&cause),
            End::Lost(lost) => lost,
            End::Output(failure) => return Err(failure),
            End::TimedOut => return Err(connection.timed_out()),
        };
        if args.no_reconnect {
            return connection.given_up(lost);
        }
        let delay = backoff.delay(&lost, fastrand::f64());
        let seconds = delay.as_secs_f64();
        tell(&format!("{}; trying again in {seconds:.1} s", lost.cause));
        if !connection.sleep(delay) {
            return Err(connection.timed_out());
        }
    }
}

fn failed(cause: impl Into<String>) -> Failure {
    Failure::Running(anyhow::Error::msg(cause.into()))
}

/// What outlives a conn.
struct Connection<'a> {
    args: &'a SubscribeArgs,
    target: &'a Target,
    out: &'a mut dyn Write,
    /// When the user's patience is over.
    deadline: Option<Instant>,
    /// Behind which id to resume.
    last_id: Option<String>,
    /// Publications printed so far.
    printed: u64,
    /// Whether there was a stream before.
    was_joined: bool,
}

impl Connection<'_> {
    /// Prints one publication, and ends the matter with the last one wanted.
    fn publication(&mut self, id: &str, line: &str) -> Result<(), End> {
        let text = match self.args.ids {
            true => format!("{id}\t{line}\n"),
            false => format!("{line}\n"),
        };
        let written = self.out.write_all(text.as_bytes());
        written
            .and_then(|()| self.out.flush())
            .map_err(|error| End::Output(Failure::of_output(error)))?;
        self.printed += 1;
        match self.args.count {
            Some(count) if self.printed >= count => Err(End::Enough),
            Some(_) | None => Ok(()),
        }
    }

    /// Says something that only the curious want to know.
    fn note(&self, text: &str) {
        if self.args.verbose {
            tell(text);
        }
    }

    /// By when the conn has to be made and the request answered.
    fn handshake_deadline(&self) -> Instant {
        let limit = Instant::now() + HANDSHAKE;
        self.deadline.map_or(limit, |deadline| deadline.min(limit))
    }

    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// What an error before the stream was ours means.
    fn unreached(&self, error: &io::Error) -> End {
        if self.is_over() {
            return End::TimedOut;
        }
        let authority = &self.target.authority;
        match error.kind() {
            // An unknown host is a mistake in the URL, unless it was reached before.
            io::ErrorKind::NotFound if !self.was_joined => {
                End::Failed(format!("cannot reach {authority}: {error}"))
            }
            io::ErrorKind::TimedOut => End::unreached(format!("no answer from {authority}")),
            _ => End::unreached(format!("cannot reach {authority}: {error}")),
        }
    }

    /// What an error on the stream means.
    fn broken(&self, error: &io::Error, asked: Option<Duration>) -> End {
        if self.is_over() {
            return End::TimedOut;
        }
        End::broken(format!("the connection broke: {error}"), asked)
    }

    fn finished(&self, cause: &str) -> Result<(), Failure> {
        // Whoever counts has got fewer than wanted: the last one would have ended it before.
        if self.args.count.is_some() {
            return Err(failed(cause));
        }
        self.note(cause);
        Ok(())
    }

    fn given_up(&self, lost: Lost) -> Result<(), Failure> {
        if lost.is_orderly {
            return self.finished(&lost.cause);
        }
        Err(failed(lost.cause))
    }

    fn timed_out(&self) -> Failure {
        let seconds = self.args.timeout.unwrap_or_default().as_secs_f64();
        failed(match self.printed {
            0 => format!("no publication within {seconds} s"),
            printed => format!("{printed} publications within {seconds} s"),
        })
    }

    /// Waits; false when patience is over first.
    fn sleep(&self, delay: Duration) -> bool {
        let left = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        std::thread::sleep(left.map_or(delay, |left| left.min(delay)));
        !self.is_over()
    }
}

#[cfg(test)]
mod tests;
