//! The server is killed at random times under load. Every subscriber must receive each publication,
//! or a gap that covers it.
//!
//! `FANFARE_SURVIVAL_SUBSCRIBERS` and `FANFARE_SURVIVAL_KILLS` set the size of the test. The test
//! prints its seed. `FANFARE_SIM_SEED` runs the test with a printed seed.

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
use super::subscriber::{Subscriber, SubscriberLog};
use super::transport::Transport;
use crate::support::{Raw, Relay, Server, within};

/// The maximum number of bytes that the relay passes on before it cuts a connection.
const RELAYED_BYTES_MAX: u64 = 60_000;

/// Bounds that no subscriber reaches, so that every gap results from a restart.
const ROOMY: &str = "[quota]\nbehind_bytes = 1073741824\nbehind_publications = 1000000\n\
                     [log]\nbytes = 1073741824\nage_ms = 3600000\n";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

struct Outcome {
    logs: Vec<SubscriberLog>,
    published: Published,
    epochs: Vec<String>,
}

/// A server that restarts on the same address and the same feed.
struct RestartingServer {
    folder: TempDir,
    config: String,
    server: Server,
    /// The server's epochs, oldest first.
    epochs: Vec<String>,
}

impl RestartingServer {
    fn start(config: &str) -> Self {
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

    fn kill_and_restart(&mut self) {
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
        .unwrap_or_else(|(status, printed)| panic!("no server ({status}): {printed}"))
}

fn epoch(addr: SocketAddr) -> String {
    let answer: Value = serde_json::from_slice(&Raw::get(addr, "/poll?channel=a").body).unwrap();
    let (epoch, _) = answer["id"].as_str().unwrap().split_once('-').unwrap();
    epoch.to_owned()
}

/// Runs a feeder and subscribers over all transports, and kills the server several times.
fn run_with_kills(config: &str) -> Outcome {
    let seed = number("FANFARE_SIM_SEED", fastrand::u64(..));
    let subscribers = usize::try_from(number("FANFARE_SURVIVAL_SUBSCRIBERS", 60)).unwrap();
    let kills = number("FANFARE_SURVIVAL_KILLS", 4);
    println!("seed {seed}, {subscribers} subscribers, {kills} kills");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut restarting = RestartingServer::start(config);
    let addr = restarting.server.addr;
    let relay = Relay::cutting(addr, RELAYED_BYTES_MAX, rng.fork());
    let channels: Vec<_> = (0..20).map(|n| format!("channel-{n}")).collect();
    let positions: Vec<_> = (0..subscribers).map(|_| Mutex::new(None)).collect();
    let all_have_reached = |epoch: &str| {
        let mut ids = positions.iter().map(|id| id.lock().unwrap().clone());
        ids.all(|id: Option<String>| id.is_some_and(|id| id.starts_with(epoch)))
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..subscribers)
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
                builder.spawn_scoped(scope, || subscriber.run()).unwrap()
            })
            .collect();
        let feeder = Feeder {
            path: restarting.server.feed.clone(),
            channels: channels.clone(),
            rng: rng.fork(),
            rate: 200,
        };
        let feeder = scope.spawn(|| feeder.publish(&stop));
        let await_all = |epoch: &str| {
            within("a position of each subscriber", || {
                all_have_reached(epoch).then_some(())
            });
        };
        await_all(&restarting.epochs[0]);
        for _ in 0..kills {
            // This sleep waits for no condition, because the server must be killed at a random
            // time.
            thread::sleep(Duration::from_millis(rng.u64(200..2500)));
            restarting.kill_and_restart();
        }
        // Waits until all subscribers have a position in the last epoch. Therefore no gap covers
        // the last publications.
        await_all(&restarting.epochs[restarting.epochs.len() - 1]);
        stop.store(true, Ordering::Relaxed);
        Outcome {
            published: feeder.join().unwrap(),
            logs: threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect(),
            epochs: restarting.epochs,
        }
    })
}

/// Compares the messages that each subscriber recorded with the publications.
fn check(outcome: &Outcome) -> Tally {
    let began = Instant::now();
    let record = Record::new(&outcome.epochs, &outcome.published);
    let mut all = Tally::default();
    let mut conns = [0; Transport::ALL.len()];
    for log in &outcome.logs {
        let tally = record.check(log);
        all.received += tally.received;
        all.missed += tally.missed;
        all.gaps += tally.gaps;
        for (sum, own) in conns.iter_mut().zip(log.conns) {
            *sum += own;
        }
    }
    println!(
        "{} acknowledged ({} sent again), {all:?}, conns {:?} {conns:?}, checked in {:?}",
        outcome.published.acknowledged.len(),
        outcome.published.repeated,
        Transport::ALL,
        began.elapsed()
    );
    assert!(conns.iter().all(|conns| *conns > 0), "{conns:?}");
    assert!(all.received > 0);
    all
}

#[test]
fn subscribers_of_a_killed_server_receive_gaps_for_all_they_missed() {
    let outcome = run_with_kills(ROOMY);
    let tally = check(&outcome);
    assert!(tally.gaps > 0, "no gap was received");
    assert!(outcome.epochs.len() > 1);
}

#[test]
fn subscribers_of_a_killed_server_with_a_journal_miss_nothing() {
    let outcome = run_with_kills(&format!(
        "{ROOMY}[journal]\npath = \"{{folder}}/journal\"\n"
    ));
    let tally = check(&outcome);
    assert_eq!((tally.gaps, tally.missed), (0, 0));
    assert_eq!(outcome.epochs.len(), 1);
}
