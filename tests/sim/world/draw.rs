//! The random settings of a run, drawn before the run begins: the configuration, its limits, and
//! the faults.

use fanfare::config::{ClientPublish, Config, Namespace, Overflow};

use crate::net::Faults;
use crate::tokens;

/// Returns a random number of workers: one in half of the runs, two to four in the others.
pub(super) fn draw_workers(random: &mut fastrand::Rng) -> usize {
    [1, 1, 1, 2, 3, 4][random.usize(0..6)]
}

/// Returns a random chance, in thousandths, that the feed acts when a worker makes a system call.
pub(super) fn draw_acts_in_turns(random: &mut fastrand::Rng) -> u32 {
    [0, 1, 10, 100][random.usize(0..4)]
}

/// Returns the pause between two actions of a quiet peer. The pause is so short that several
/// actions fit in a heartbeat interval and in the shortest poll.
pub(super) fn quiet_pause_us(config: &Config) -> u64 {
    (config.heartbeat.interval_ms * 100).min(200_000)
}

pub(super) fn draw_config(random: &mut fastrand::Rng) -> Config {
    let mut config = Config::default();
    let mut pick = |choices: &[u64]| choices[random.usize(0..choices.len())];
    config.heartbeat.interval_ms = pick(&[400, 700, 2000]);
    config.limits.request_head_ms = pick(&[500, 2000]);
    config.tls.handshake_ms = config.limits.request_head_ms;
    config.limits.request_head_bytes = pick(&[1024, 8192]) as u32;
    config.limits.client_message_bytes = pick(&[1000, 65_536]) as u32;
    config.limits.channels_per_conn = pick(&[1, 3, 128]) as u32;
    config.limits.poll_timeout_ms = pick(&[300, 2_000, 4_000]);
    config.quota.behind_bytes = pick(&[10, 300, 5_000, 65_536]);
    config.quota.behind_publications = pick(&[1, 3, 20, 256]);
    config.quota.write_bytes_per_turn = pick(&[200, 4096, 65_536]) as u32;
    config.quota.overflow =
        [Overflow::Skip, Overflow::Conflate, Overflow::Close][pick(&[0, 0, 1, 1, 2]) as usize];
    config.log.bytes = pick(&[8_000, 40_000, 1 << 26, 1 << 26]);
    config.log.entries = pick(&[1, 10, 100, 1_000_000, 1_000_000]);
    config.log.age_ms = pick(&[30, 1_000, 60_000, 60_000]);
    config.drain.window_ms = pick(&[0, 60, 500, 3_000]);
    config.drain.retry_ms = pick(&[0, 1, 30_000]);
    config.deflate.enabled = pick(&[0, 1, 1]) == 1;
    if pick(&[0, 0, 0, 1]) == 1 {
        tokens::require(&mut config);
    }
    draw_namespaces(&mut config, random);
    config
}

/// Sets random limits that a well-behaved peer reaches only in a crowded run. Also decides at
/// random whether the peers are trusted proxies with several clients each.
pub(super) fn draw_limits(config: &mut Config, is_crowded: bool, random: &mut fastrand::Rng) {
    let limits = &mut config.limits;
    match (random.u32(0..6), is_crowded) {
        (0..=1, false) => limits.conns_per_source = 1000,
        (0..=1, true) => limits.conns_per_source = 1,
        (2..=5, true) => limits.connects_per_second_per_source = 1,
        _ => {}
    }
    if random.u32(0..2) == 0 {
        limits.first_subscribe_ms = 300;
    }
    if random.u32(0..4) == 0 {
        limits.client_frames_per_second = 10;
        limits.client_bytes_per_second = 3_000;
    }
    if random.u32(0..3) == 0 {
        config.proxy.trusted = vec!["::/0".parse().expect("a network")];
    }
}

/// Sets random namespaces with bounds of their own. Most of these bounds are tiny.
fn draw_namespaces(config: &mut Config, random: &mut fastrand::Rng) {
    let mut patterns = ["*", "c*", "c0", "c1", "c1*", "c2", "c3"];
    random.shuffle(&mut patterns);
    let count = [0, 0, 1, 3][random.usize(0..4)];
    let mut pick = |choices: &[u64], most: u64| {
        let choice = choices[random.usize(0..choices.len())];
        (choice > 0).then_some(choice.min(most))
    };
    for pattern in patterns.into_iter().take(count) {
        let log_entries = pick(&[0, 0, 1, 2, 9], config.log.entries);
        let log_bytes = pick(&[0, 0, 1, 300, 3_000], config.log.bytes);
        let log_age_ms = pick(&[0, 0, 0, 20, 500], config.log.age_ms);
        let overflow = pick(&[0, 0, 1, 2, 3, 3], 3);
        config.namespace.push(Namespace {
            pattern: pattern.into(),
            log_entries,
            log_bytes,
            log_age_ms,
            overflow: overflow.map(|choice| {
                [Overflow::Skip, Overflow::Close, Overflow::Conflate][choice as usize - 1]
            }),
            client_publish: pick(&[0, 1, 1, 2], 2).map(|choice| {
                [ClientPublish::Broadcast, ClientPublish::Consume][choice as usize - 1]
            }),
            client_presence: pick(&[0, 1], 1).map(|_| true),
            anonymous_subscribe: None,
            subscribe: None,
            publish: None,
        });
    }
}

pub(super) fn draw_faults(random: &mut fastrand::Rng) -> Faults {
    let mut rate = |most: u32| {
        if random.bool() {
            random.u32(0..=most)
        } else {
            0
        }
    };
    Faults {
        read_short: rate(500),
        read_blocks: rate(300),
        interrupted: rate(200),
        write_short: rate(500),
        spurious: rate(500),
        stale: rate(300),
        reset: rate(8),
        accept_exhausted: rate(200),
        accept_failed: rate(100),
        register_failed: rate(100),
        walk_waits: rate(300),
        pause: rate(3),
        stop: rate(30),
        unacknowledged: rate(200),
        delay_us: [0, 100, 30_000, 400_000][random.usize(0..4)],
        write_us: [0, 20, 400][random.usize(0..3)],
        // A worker stops reading after 10 ms of a turn. A few reads of up to 6 ms reach this limit.
        read_us: [0, 0, 6_000][random.usize(0..3)],
    }
}
