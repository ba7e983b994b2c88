//! A client that reconnects over any transport and resumes from the last id that it received.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::END;
use super::transport::{Conn, Received, Transport};

/// The longest time without a publication.
const PATIENCE: Duration = Duration::from_secs(60);

/// The messages of one subscriber.
#[derive(Debug, Default)]
pub(crate) struct SubscriberLog {
    pub(crate) channels: Vec<String>,
    /// The subscriber's first position.
    pub(crate) start: Option<String>,
    /// Positions, gaps and publications in the order of their arrival.
    pub(crate) messages: Vec<Received>,
    /// The number of connections, by transport.
    pub(crate) conns: [u32; Transport::ALL.len()],
}

/// A subscriber with a random number generator of its own.
pub(crate) struct Subscriber<'a> {
    pub(crate) addr: SocketAddr,
    pub(crate) channels: Vec<String>,
    pub(crate) transport: Transport,
    pub(crate) rng: fastrand::Rng,
    /// The last id that the subscriber received.
    pub(crate) position: &'a Mutex<Option<String>>,
}

impl Subscriber<'_> {
    /// Runs until the subscriber has received the last publication of each channel.
    pub(crate) fn run(mut self) -> SubscriberLog {
        let mut log = SubscriberLog {
            channels: self.channels.clone(),
            ..SubscriberLog::default()
        };
        let mut ends = 0;
        let mut last_news = Instant::now();
        while ends < self.channels.len() {
            let since = self.position.lock().unwrap().clone();
            assert!(last_news.elapsed() < PATIENCE, "no news at {since:?}");
            let opened = Conn::open(self.transport, self.addr, &self.channels, since.as_deref());
            if let Ok(mut stream) = opened {
                log.conns[self.transport as usize] += 1;
                // Some connections are kept open, and others are closed after a few messages.
                let mut patience = self.rng.choice([3, 30, 300, u32::MAX]).unwrap();
                while ends < self.channels.len() && patience > 0 && last_news.elapsed() < PATIENCE {
                    let Ok(messages) = stream.next() else { break };
                    for message in messages {
                        if matches!(message, Received::Publication(_)) {
                            last_news = Instant::now();
                        }
                        ends += usize::from(self.note(message, &mut log));
                    }
                    patience -= 1;
                }
            }
            if self.rng.bool() {
                self.transport = self.rng.choice(Transport::ALL).unwrap();
            }
            // A random pause spreads the reconnects of all subscribers.
            thread::sleep(Duration::from_millis(self.rng.u64(5..150)));
        }
        log
    }

    /// Records a message. Returns true if it was the last publication of a channel.
    fn note(&self, message: Received, log: &mut SubscriberLog) -> bool {
        let (id, is_end) = match &message {
            Received::Gap(_) => (None, false),
            Received::Position(id) => (Some(id.clone()), false),
            Received::Publication(publication) => {
                let id = publication["id"].as_str().unwrap();
                (Some(id.to_owned()), publication["data"]["number"] == END)
            }
        };
        if let Some(id) = id {
            log.start.get_or_insert_with(|| id.clone());
            *self.position.lock().unwrap() = Some(id);
        }
        log.messages.push(message);
        is_end
    }
}
