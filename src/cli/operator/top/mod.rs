//! `fanfare top`: shows the figures of a running server again and again.
//!
//! One thread asks the server, another one receives signals. This thread prints what they send, so
//! Control+C ends the command at once, also while an answer is awaited.

mod rates;
mod screen;

use std::io::{IsTerminal as _, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::super::Failure;
use super::args::TopArgs;
use super::client::{Client, ClientError};
use super::print;
use fanfare::operator::answer::TopAnswer;
use fanfare::operator::request::{Empty, Request};
use rates::Rates;
use screen::{Screen, Size};

/// Moves the cursor to the first line and clears the screen (ECMA-48, 8.3.21 and 8.3.39).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// What this thread waits for.
enum Event {
    /// The server has answered, or there is no answer.
    Asked(Result<Box<TopAnswer>, ClientError>),
    /// A signal ends the command.
    Signal,
}

/// Shows the figures until `--count` screens were shown, or a signal arrives.
///
/// # Errors
/// Returns an error if the server does not answer the first request, or if standard output fails.
pub(in crate::cli) fn run(args: &TopArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.socket)?;
    let events = start(&client, args.interval)
        .map_err(|error| anyhow::Error::new(error).context("cannot start a thread"))?;
    let is_terminal = std::io::stdout().is_terminal();
    let mut view = View::new(client, args.interval);
    for shown in 0.. {
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
        let text = match events.recv() {
            Ok(Event::Asked(asked)) => view.show(asked, is_terminal.then(size).flatten())?,
            // The terminal has shown `^C` on the last line.
            Ok(Event::Signal) | Err(_) if is_terminal => return print("\n", out),
            Ok(Event::Signal) | Err(_) => return Ok(()),
        };
        let frame = match is_terminal {
            true => format!("{CLEAR}{text}"),
            false => format!("{text}\n"),
        };
        print(&frame, out)?;
    }
    Ok(())
}

/// Starts the threads that send events.
fn start(client: &Client, interval: Duration) -> std::io::Result<Receiver<Event>> {
    // With room for one event, the thread that asks is at most one answer ahead.
    let (sender, events) = crossbeam_channel::bounded(1);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let on_signal = sender.clone();
    thread::Builder::new()
        .name(String::from("signals"))
        .spawn(move || {
            if signals.forever().next().is_some() {
                let _main_has_ended = on_signal.send(Event::Signal);
            }
        })?;
    let client = client.clone();
    thread::Builder::new()
        .name(String::from("requests"))
        .spawn(move || ask_again_and_again(&client, interval, &sender))?;
    Ok(events)
}

fn ask_again_and_again(client: &Client, interval: Duration, sender: &Sender<Event>) {
    let mut next = Instant::now();
    loop {
        let asked = client.try_ask::<TopAnswer>(&Request::Top(Empty {}));
        let asked = asked.map(|answer| Box::new(answer.content));
        if sender.send(Event::Asked(asked)).is_err() {
            return;
        }
        // After an answer that took longer than the interval, the next request is sent at once.
        next = (next + interval).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// What was shown before, for rates and restarts.
#[derive(Debug)]
struct View {
    client: Client,
    interval: Duration,
    before: Option<Box<TopAnswer>>,
    /// Whether the server was restarted while this command has watched it.
    has_restarted: bool,
}

impl View {
    fn new(client: Client, interval: Duration) -> Self {
        Self {
            client,
            interval,
            before: None,
            has_restarted: false,
        }
    }

    /// Returns the text for an answer or an error. An error is returned if it is the first.
    fn show(
        &mut self,
        asked: Result<Box<TopAnswer>, ClientError>,
        size: Option<Size>,
    ) -> Result<String, Failure> {
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if self.before.is_none() => return Err(self.client.failure(error)),
            Err(error) => return Ok(self.outage(&error)),
        };
        let before = self.before.as_deref();
        let is_restarted = before.is_some_and(|before| rates::is_restart(before, &answer));
        self.has_restarted |= is_restarted;
        let rates = Rates::new(before.filter(|_| !is_restarted), &answer);
        let screen = Screen {
            answer: &answer,
            rates: &rates,
            has_restarted: self.has_restarted,
            now_unix_ms: unix_ms(),
        };
        let text = screen.text(size);
        self.before = Some(answer);
        Ok(text)
    }

    fn outage(&self, error: &ClientError) -> String {
        format!(
            "operator's socket {}: {error}\ntrying again every {} s\n",
            self.client.path(),
            self.interval.as_secs_f64()
        )
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn size() -> Option<Size> {
    let (width, height) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(Size {
        columns: width.0.into(),
        rows: height.0.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use clap::Parser;

    use super::super::args::SocketArgs;
    use super::*;

    #[derive(Debug, Parser)]
    struct Top {
        #[command(flatten)]
        args: TopArgs,
    }

    fn view() -> View {
        let args = Top::parse_from(["top", "--socket", "/nonexistent/admin"]).args;
        let socket = SocketArgs {
            socket: args.socket.socket,
        };
        View::new(Client::new(&socket).unwrap(), args.interval)
    }

    fn answer(uptime_ms: u64, publications_total: u64) -> Result<Box<TopAnswer>, ClientError> {
        Ok(Box::new(TopAnswer {
            uptime_ms,
            now_us: uptime_ms * 1_000,
            publications_total,
            ..TopAnswer::default()
        }))
    }

    fn refused() -> Result<Box<TopAnswer>, ClientError> {
        let error = io::ErrorKind::ConnectionRefused.into();
        Err(ClientError::NoServer { error })
    }

    #[test]
    fn first_error_ends_the_command_and_a_later_one_does_not() {
        let mut view = view();
        assert!(view.show(refused(), None).is_err());
        view.show(answer(60_000, 600), None).unwrap();
        let shown = view.show(refused(), None).unwrap();
        assert!(shown.contains("no server listens there"), "{shown}");
        assert!(shown.contains("trying again every 2 s"), "{shown}");
    }

    #[test]
    fn restart_is_named_and_rates_begin_again() {
        let mut view = view();
        let shown = view.show(answer(60_000, 600), None).unwrap();
        assert!(shown.contains("publications 10/s"), "{shown}");
        assert!(!shown.contains("restarted"), "{shown}");
        let shown = view.show(answer(62_000, 640), None).unwrap();
        assert!(shown.contains("publications 20/s"), "{shown}");
        view.show(refused(), None).unwrap();
        let shown = view.show(answer(1_000, 5), None).unwrap();
        assert!(shown.contains("restarted"), "{shown}");
        assert!(shown.contains("publications 5.0/s"), "{shown}");
    }
}
