//! `fanfare subscribe`: prints the publications of a subscription and keeps the subscription alive.
//!
//! One loop receives publications until the connection ends. The [`End`] then determines whether
//! the command reconnects, succeeds or fails. Each transport has its own file. The [`Subscriber`]
//! has the state that outlives a connection: the last id, the number of printed publications and
//! the deadline. Publications are written to standard output, which is flushed after each line.
//! Everything else is written to standard error.

mod connection;
mod end;
mod event_stream;
mod exchange;
mod long_poll;
mod parser;
mod response_body;
mod target;
mod trust;
mod web_socket;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::SubscribeArgs;
use super::{Failure, print_error};
use connection::{Connection, check_token, read_token, tls_failure};
use end::{Backoff, End, Lost};
use fanfare::id::SINCE_FIRST;
use rustls::ClientConfig;
use target::{Scheme, Target};

/// The maximum total time to connect and to receive the response.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Subscribes until the count or timeout is reached, the server ends the stream, or `out` is
/// closed.
pub(super) fn run(args: &SubscribeArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let target = Target::parse(&args.url);
    let mut target = target.map_err(|error| Failure::Usage(format!("<URL>: {error}")))?;
    let wants_all = args.since.as_deref() == Some(SINCE_FIRST);
    if wants_all {
        target.begin_with(&format!("since={SINCE_FIRST}"));
    }
    if let Some(count) = args.last {
        target.begin_with(&format!("last={count}"));
    }
    let tls = tls_config(args, &target)?;
    let mut subscriber = Subscriber {
        args,
        token: first_token(args)?,
        tls,
        target: &target,
        out,
        deadline: args
            .timeout
            .and_then(|wait| Instant::now().checked_add(wait)),
        last_id: args.since.clone().filter(|_| !wants_all),
        printed: 0,
        was_subscribed: false,
    };
    let mut backoff = Backoff::default();
    loop {
        let end = match target.scheme {
            Scheme::EventStream => event_stream::follow(&mut subscriber),
            Scheme::Poll => long_poll::follow(&mut subscriber),
            Scheme::WebSocket => web_socket::follow(&mut subscriber),
        };
        if let End::Lost(lost) = &end {
            subscriber.was_subscribed |= lost.was_subscribed;
        }
        let lost = match end {
            End::TokenRefused(cause) if !args.no_reconnect && subscriber.has_new_token() => {
                Lost::unreached(cause)
            }
            End::Enough => return Ok(()),
            End::Failed(cause) | End::TokenRefused(cause) => return Err(failed(cause)),
            End::Finished(cause) => return subscriber.finished(&cause),
            End::Lost(lost) => lost,
            End::Output(failure) => return Err(failure),
            End::TimedOut => return Err(subscriber.timed_out()),
        };
        if args.no_reconnect {
            return subscriber.given_up(lost);
        }
        let delay = backoff.delay(&lost, fastrand::f64());
        let seconds = delay.as_secs_f64();
        print_error(&format!("{}; trying again in {seconds:.1} s", lost.cause));
        if !subscriber.sleep(delay) {
            return Err(subscriber.timed_out());
        }
    }
}

/// Returns the settings of TLS if the URL requests TLS.
fn tls_config(args: &SubscribeArgs, target: &Target) -> Result<Option<Arc<ClientConfig>>, Failure> {
    if !target.is_tls {
        return match (&args.cacert, args.insecure) {
            (None, false) => Ok(None),
            (Some(_), _) => Err(needs_tls("--cacert")),
            (None, true) => Err(needs_tls("--insecure")),
        };
    }
    if args.insecure {
        print_error(
            "warning: --insecure: the certificate of the server is not verified, so the server \
             can be an impostor",
        );
    }
    trust::client_config(args).map(Some).map_err(Failure::Usage)
}

fn needs_tls(flag: &str) -> Failure {
    Failure::Usage(format!(
        "{flag}: the URL must begin with wss:// or https://"
    ))
}

/// Returns the token of the arguments, or the token in the file that they name.
fn first_token(args: &SubscribeArgs) -> Result<Option<String>, Failure> {
    let has_header = args
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("Authorization"));
    match (&args.token, &args.token_file) {
        (None, None) => Ok(None),
        _ if has_header => Err(Failure::Usage(String::from(
            "--header: Authorization cannot be combined with --token or --token-file",
        ))),
        (Some(token), _) => match check_token(token) {
            Ok(()) => Ok(Some(token.clone())),
            Err(reason) => Err(Failure::Usage(format!("--token: {reason}"))),
        },
        (None, Some(path)) => read_token(path).map(Some).map_err(Failure::Usage),
    }
}

fn failed(cause: impl Into<String>) -> Failure {
    Failure::Running(anyhow::Error::msg(cause.into()))
}

/// The state of a subscription that outlives a single connection.
struct Subscriber<'a> {
    args: &'a SubscribeArgs,
    target: &'a Target,
    out: &'a mut dyn Write,
    /// The token of the current connection.
    token: Option<String>,
    /// The settings of TLS, if the URL requests TLS.
    tls: Option<Arc<ClientConfig>>,
    /// The time at which `--timeout` ends the subscription.
    deadline: Option<Instant>,
    /// The last id that was received. The next connection resumes after this id.
    last_id: Option<String>,
    /// The number of publications printed so far.
    printed: u64,
    /// Whether the stream had begun on an earlier connection.
    was_subscribed: bool,
}

impl Subscriber<'_> {
    /// Connects to the server, with the token that the file of `--token-file` has now.
    fn connect(&mut self) -> Result<Connection, End> {
        if let Some(path) = &self.args.token_file {
            self.token = Some(read_token(path).map_err(End::unreached)?);
        }
        Connection::open(self.target, self.tls.as_ref(), self.handshake_deadline())
            .map_err(|error| self.unreached(&error))
    }

    /// Returns the value of the `Authorization` field.
    fn authorization(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("Bearer {token}"))
    }

    /// Whether the file of `--token-file` has another token than the current connection.
    fn has_new_token(&self) -> bool {
        let path = self.args.token_file.as_deref();
        path.and_then(|path| read_token(path).ok())
            .is_some_and(|token| self.token.as_ref() != Some(&token))
    }

    /// Prints one publication. Returns [`End::Enough`] when `--count` publications have been
    /// printed.
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

    /// Prints a line on standard error if `--verbose` is set.
    fn note(&self, text: &str) {
        if self.args.verbose {
            print_error(text);
        }
    }

    /// Returns the deadline for connecting and for receiving the response.
    fn handshake_deadline(&self) -> Instant {
        let limit = Instant::now() + HANDSHAKE;
        self.deadline.map_or(limit, |deadline| deadline.min(limit))
    }

    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns the [`End`] for an error that occurred before the response was received.
    fn unreached(&self, error: &io::Error) -> End {
        if self.is_over() {
            return End::TimedOut;
        }
        let authority = &self.target.authority;
        if let Some(cause) = tls_failure(authority, error) {
            // As with an unknown host: if the server was reached before, a reconnect may succeed.
            return match self.was_subscribed {
                true => End::unreached(cause),
                false => End::Failed(cause),
            };
        }
        match error.kind() {
            // An unknown host is an error in the URL, so a reconnect would fail too. But if the
            // host was reached before, a reconnect may succeed.
            io::ErrorKind::NotFound if !self.was_subscribed => {
                End::Failed(format!("cannot reach {authority}: {error}"))
            }
            io::ErrorKind::TimedOut => End::unreached(format!("no answer from {authority}")),
            _ => End::unreached(format!("cannot reach {authority}: {error}")),
        }
    }

    /// Returns the [`End`] for an error that occurred after the stream had begun.
    fn broken(&self, error: &io::Error, retry_after: Option<Duration>) -> End {
        if self.is_over() {
            return End::TimedOut;
        }
        End::broken(format!("the connection broke: {error}"), retry_after)
    }

    fn finished(&self, cause: &str) -> Result<(), Failure> {
        // With `--count`, the server has ended the stream too early: fewer publications than
        // requested were printed. Otherwise the command would already have ended with
        // `End::Enough`.
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

    /// Sleeps for the delay or until the deadline. Returns false if the deadline has passed.
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
