//! A client that comes back, over any transport, from the last id it was told.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::END;
use super::transport::{Conn, Told, Transport};

/// The longest that a subscriber goes without a publication.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one subscriber was told.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    pub(crate) channels: Vec<String>,
    /// Where it began.
    pub(crate) start: Option<String>,
    /// Gaps and publications as they came.
    pub(crate) told: Vec<Told>,
    /// Connections it had, by transport.
    pub(crate) conns: [u32; Transport::ALL.len()],
}

/// A subscriber with its dice.
pub(crate) struct Subscriber<'a> {
    pub(crate) addr: SocketAddr,
    pub(crate) channels: Vec<String>,
    pub(crate) transport: Transport,
    pub(crate) rng: fastrand::Rng,
    /// The last id it was told.
    pub(crate) position: &'a Mutex<Option<String>>,
}

impl Subscriber<'_> {
    /// Lives until it has seen the end of all its channels.
    pub(crate) fn live(mut self) -> Diary {
        let mut diary = Diary {
            channels: self.channels.clone(),
            ..Diary::default()
        };
        let mut ends = 0;
        let mut last_news = Instant::now();
        while ends < self.channels.len() {
            let since = self.position.lock().unwrap().clone();
            assert!(last_news.elapsed() < PATIENCE, "no news at {since:?}");
            let opened = Conn::open(self.transport, self.addr, &self.channels, since.as_deref());
            if let Ok(mut stream) = opened {
                diary.conns[self.transport as usize] += 1;
                // Some stay, and some are off again soon.
                let mut patience = self.rng.choice([3, 30, 300, u32::MAX]).unwrap();
                while ends < self.channels.len() && patience > 0 && last_news.elapsed() < PATIENCE {
                    let Ok(told) = stream.next() else { break };
                    for told in told {
                        if matches!(told, Told::Publication(_)) {
                            last_news = Instant::now();
                        }
                        ends += usize::from(self.note(told, &mut diary));
                    }
                    patience -= 1;
                }
            }
            if self.rng.bool() {
                self.transport = self.rng.choice(Transport::ALL).unwrap();
            }
            // All who were cut off do not come back in the same instant.
            thread::sleep(Duration::from_millis(self.rng.u64(5..150)));
        }
        diary
    }

    /// Notes what it was told, and says whether that was the end of a channel.
    fn note(&self, told: Told, diary: &mut Diary) -> bool {
        let (id, is_end) = match &told {
            Told::Gap(_) => (None, false),
            Told::Position(id) => (Some(id.clone()), false),
            Told::Publication(publication) => {
                let id = publication["id"].as_str().unwrap();
                (Some(id.to_owned()), publication["data"]["number"] == END)
            }
        };
        if let Some(id) = id {
            diary.start.get_or_insert_with(|| id.clone());
            *self.position.lock().unwrap() = Some(id);
        }
        diary.told.push(told);
        is_end
    }
}
