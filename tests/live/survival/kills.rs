//! The server is killed at random under load, and every subscriber has everything or was told.
//!
//! `FANFARE_SURVIVAL_SUBSCRIBERS` and `FANFARE_SURVIVAL_KILLS` make it larger; the seed is printed
//! and taken from `FANFARE_SIM_SEED`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::feeder::{Feeder, Published};
use super::record::{Record, Tally};
use super::subscriber::{Diary, Subscriber};
use super::transport::Transport;
use crate::support::{Raw, Relay, Server, within};

/// Bytes after which the relay has cut every connection.
const RELAYED_BYTES_MAX: u64 = 60_000;

/// Nobody is too slow or too late, so a gap tells of a restart. `{folder}` is the server's own.
const ROOMY: &str = "[quota]\nbehind_bytes = 1073741824\nbehind_publications = 1000000\n\
                     [log]\nbytes = 1073741824\nage_ms = 3600000\n";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

struct Lives {
    diaries: Vec<Diary>,
    published: Published,
    epochs: Vec<String>,
}

/// A server that comes back on the same address and the same feed.
struct Mortal {
    folder: TempDir,
    config: String,
    server: Server,
    /// The epochs it has lived in, oldest first.
    epochs: Vec<String>,
}

impl Mortal {
    fn born(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config.replace("{folder}", folder.path().to_str().unwrap());
        let server = start(folder.path(), "127.0.0.1:0", &config);
        let epochs = vec![epoch(server.addr)];
        Self {
            folder,
            config,
            server,
            epochs,
        }
    }

    fn die(&mut self) {
        let addr = self.server.addr;
        self.server.signal("KILL");
        self.server.wait();
        self.server = start(self.folder.path(), &addr.to_string(), &self.config);
        let epoch = epoch(addr);
        if self.epochs.last() != Some(&epoch) {
            self.epochs.push(epoch);
        }
    }
}

fn start(folder: &Path, listen: &str, config: &str) -> Server {
    Server::in_folder(folder, listen, config, &[])
        .unwrap_or_else(|(status, said)| panic!("no server ({status}): {said}"))
}

fn epoch(addr: SocketAddr) -> String {
    let answer: Value = serde_json::from_slice(&Raw::get(addr, "/poll?channel=a").body).unwrap();
    let (epoch, _) = answer["id"].as_str().unwrap().split_once('-').unwrap();
    epoch.to_owned()
}

/// Subscribers over all transports, a feeder, and a server that is killed again and again.
fn live_and_let_die(config: &str) -> Lives {
    let seed = number("FANFARE_SIM_SEED", fastrand::u64(..));
    let subscribers = usize::try_from(number("FANFARE_SURVIVAL_SUBSCRIBERS", 60)).unwrap();
    let kills = number("FANFARE_SURVIVAL_KILLS", 4);
    println!("seed {seed}, {subscribers} subscribers, {kills} kills");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut mortal = Mortal::born(config);
    let addr = mortal.server.addr;
    let relay = Relay::cutting(addr, RELAYED_BYTES_MAX, rng.fork());
    let channels: Vec<_> = (0..20).map(|n| format!("channel-{n}")).collect();
    let positions: Vec<_> = (0..subscribers).map(|_| Mutex::new(None)).collect();
    let is_everybody_in = |epoch: &str| {
        let mut ids = positions.iter().map(|id| id.lock().unwrap().clone());
        ids.all(|id: Option<String>| id.is_some_and(|id| id.starts_with(epoch)))
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let lives: Vec<_> = (0..subscribers)
            .map(|index| {
                let count = rng.usize(1..4);
                let subscriber = Subscriber {
                    addr: if index % 3 == 0 { relay.addr } else { addr },
                    channels: rng
                        .choose_multiple(&channels, count)
                        .into_iter()
                        .cloned()
                        .collect(),
                    transport: Transport::ALL[index % Transport::ALL.len()],
                    rng: rng.fork(),
                    position: &positions[index],
                };
                let builder = thread::Builder::new().stack_size(256 * 1024);
                builder.spawn_scoped(scope, || subscriber.live()).unwrap()
            })
            .collect();
        let feeder = Feeder {
            path: mortal.server.feed.clone(),
            channels: channels.clone(),
            rng: rng.fork(),
            rate: 200,
        };
        let feeder = scope.spawn(|| feeder.publish(&stop));
        let await_everybody = |epoch: &str| {
            within("everybody is here", || is_everybody_in(epoch).then_some(()));
        };
        await_everybody(&mortal.epochs[0]);
        for _ in 0..kills {
            // Time to die is at random; nothing is waited for.
            thread::sleep(Duration::from_millis(rng.u64(200..2500)));
            mortal.die();
        }
        // The end may not lie in anybody's gap.
        await_everybody(&mortal.epochs[mortal.epochs.len() - 1]);
        stop.store(true, Ordering::Relaxed);
        Lives {
            published: feeder.join().unwrap(),
            diaries: lives.into_iter().map(|life| life.join().unwrap()).collect(),
            epochs: mortal.epochs,
        }
    })
}

/// Holds every diary against what was published.
fn check(lives: &Lives) -> Tally {
    let began = Instant::now();
    let record = Record::new(&lives.epochs, &lives.published);
    let mut all = Tally::default();
    let mut conns = [0; Transport::ALL.len()];
    for diary in &lives.diaries {
        let tally = record.check(diary);
        all.received += tally.received;
        all.missed += tally.missed;
        all.gaps += tally.gaps;
        for (sum, own) in conns.iter_mut().zip(diary.conns) {
            *sum += own;
        }
    }
    println!(
        "{} acknowledged ({} sent again), {all:?}, conns {:?} {conns:?}, checked in {:?}",
        lives.published.acknowledged.len(),
        lives.published.repeated,
        Transport::ALL,
        began.elapsed()
    );
    assert!(conns.iter().all(|conns| *conns > 0), "{conns:?}");
    assert!(all.received > 0);
    all
}

#[test]
fn subscribers_of_a_server_that_is_killed_are_told_all_they_missed() {
    let lives = live_and_let_die(ROOMY);
    let tally = check(&lives);
    assert!(tally.gaps > 0, "nobody noticed");
    assert!(lives.epochs.len() > 1);
}

#[test]
fn subscribers_of_a_server_with_a_journal_miss_nothing_when_it_is_killed() {
    let lives = live_and_let_die(&format!(
        "{ROOMY}[journal]\npath = \"{{folder}}/journal\"\n"
    ));
    let tally = check(&lives);
    assert_eq!((tally.gaps, tally.missed), (0, 0));
    assert_eq!(lives.epochs.len(), 1);
}
