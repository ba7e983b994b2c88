//! PURE: what does not bound the number of conns and yet stops an operator on the way there.
//!
//! Rates of a connect storm, ports of a proxy, processor time: each with the sum that
//! makes it matter for so many conns, and a line where there is one. Nothing is said of what is
//! not known.

use serde::Serialize;

use super::capacity::{OTHER_THREADS, Plan};
use super::cgroup::Tightest;
use super::context::Context;
use super::facts::{Conntrack, Facts};
use super::limit_texts::grouped;
use super::parse::Ceiling;
use fanfare::config::limits::LISTEN_BACKLOG;

/// The first kernel whose rings have the modes that a worker asks for.
const RING_KERNEL: (u32, u32) = (6, 1);
/// Memory maps of a thread: its stack, the guard below it and what the allocator has for it.
const MAPS_PER_THREAD: u64 = 16;
/// Memory maps of the program itself, rounded up.
const MAPS_OF_PROGRAM: u64 = 512;

/// One thing to consider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Advice {
    /// What it is about.
    pub(super) about: &'static str,
    /// Why.
    pub(super) why: String,
    /// A line that helps, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<String>,
}

fn advice(about: &'static str, why: String, line: Option<&str>) -> Advice {
    let line = line.map(str::to_owned);
    Advice { about, why, line }
}

/// Everything worth saying to somebody who wants so many conns.
pub(super) fn advise(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Advice> {
    let mut found = Vec::new();
    found.extend(surroundings(facts));
    found.extend(storms(facts, plan));
    found.extend(ports(facts, conns));
    found.extend(idle_conntrack(facts, conns));
    found.extend(orphans(facts, plan, conns));
    found.extend(processor_time(facts, plan));
    found.extend(maps(facts, plan));
    found.extend(devices(facts));
    found.extend(ring(facts));
    found
}

/// Publications without a ring to send them through.
fn ring(facts: &Facts) -> Option<Advice> {
    let (why, line) = match features(facts).io_uring {
        "disabled" | "for_privileged" => (
            "is switched off",
            Some("sysctl -w kernel.io_uring_disabled=0"),
        ),
        "too_old" => (
            "of this kernel is too old; Linux 6.1 has what is needed",
            None,
        ),
        _ => return None,
    };
    let why = format!("{why}, so each delivery is a system call, at up to twice the time");
    Some(advice("io_uring", why, line))
}

fn surroundings(facts: &Facts) -> Vec<Advice> {
    let mut found = Vec::new();
    if let Context::Shell { has_systemd: true } = facts.context {
        let why = "these are the limits of this shell, and those of a unit are its own; once the unit \
                   runs, ask for it";
        let line = "fanfare doctor --pid $(systemctl show -P MainPID fanfare)";
        found.push(advice("unit", why.to_owned(), Some(line)));
    }
    if facts.may_raise == Some(false) && !matches!(facts.context, Context::Unit(_)) {
        let why = "this process may not raise hard limits (CAP_SYS_RESOURCE is missing), so they are \
                   lifted by whoever starts it, or got round with more workers";
        found.push(advice("hard limits", why.to_owned(), None));
    }
    found
}

/// Places for connections that nobody has accepted yet. The backlog of half-open ones counts only
/// where there are no cookies in its stead (tcp(7), `tcp_syncookies`).
fn storms(facts: &Facts, plan: &Plan) -> Vec<Advice> {
    let wanted = LISTEN_BACKLOG.unsigned_abs().into();
    let half_open = facts.syn_backlog.filter(|_| facts.syn_cookies == Some(0));
    let cases = [
        ("net.core.somaxconn", facts.somaxconn, "not yet accepted"),
        ("net.ipv4.tcp_max_syn_backlog", half_open, "half open"),
    ];
    let mut found = Vec::new();
    for (key, value, state) in cases {
        let Some(most) = value.filter(|most| *most < wanted) else {
            continue;
        };
        let why = format!(
            "each of the {} listeners has room for {} connections {state}, {} together, and asks for \
             {}; those that come in a storm when it is full are dropped and come again after a second",
            plan.workers,
            grouped(most),
            grouped(most.saturating_mul(plan.workers.into())),
            grouped(wanted),
        );
        let line = network_line(&facts.context, key, &wanted.to_string());
        found.push(advice(key, why, Some(&line)));
    }
    found
}

/// The line for a sysctl that every network namespace has for itself.
fn network_line(context: &Context, key: &str, value: &str) -> String {
    match context {
        Context::Docker => format!("docker run --sysctl \"{key}={value}\""),
        Context::Podman => format!("podman run --sysctl \"{key}={value}\""),
        Context::Kubernetes => {
            format!("securityContext.sysctls: {{name: {key}, value: \"{value}\"}}")
        }
        Context::Container | Context::Unit(_) | Context::Shell { .. } | Context::Unknown => {
            format!("sysctl -w {key}=\"{value}\"")
        }
    }
}

/// Only who connects needs a port for each connection: a proxy before us, or a load generator.
fn ports(facts: &Facts, conns: u64) -> Option<Advice> {
    let [first, last] = facts.ports?;
    let count = last.checked_sub(first)?.checked_add(1)?;
    if conns <= count {
        return None;
    }
    let why = format!(
        "clients that come from elsewhere need none of our ports, but a proxy or a load generator on a \
         host like this has {} for each pair of its own address and an address and port of ours: {} \
         conns through it take {} such pairs",
        grouped(count),
        grouped(conns),
        conns.div_ceil(count),
    );
    let key = "net.ipv4.ip_local_port_range";
    let line = (first > 1024).then(|| network_line(&facts.context, key, "1024 65535"));
    Some(advice(key, why, line.as_deref()))
}

fn idle_conntrack(facts: &Facts, conns: u64) -> Option<Advice> {
    let Some(Some(Conntrack { max, count: 0 })) = facts.conntrack else {
        return None;
    };
    if max >= conns {
        return None;
    }
    let why = format!(
        "connection tracking is loaded and tracks nothing now; as soon as a firewall or NAT rule asks \
         for it, {} connections are the most",
        grouped(max)
    );
    let line = format!("sysctl -w net.netfilter.nf_conntrack_max={conns}");
    Some(advice("nf_conntrack_max", why, Some(&line)))
}

/// Sockets that are closed before everything in them was acknowledged live on without an owner.
fn orphans(facts: &Facts, plan: &Plan, conns: u64) -> Option<Advice> {
    let most = facts.orphans_max?;
    let stalled = conns.saturating_mul(plan.stalled_percent.into()) / 100;
    if stalled <= most {
        return None;
    }
    let why = format!(
        "when the server closes {} conns that still owe bytes, {} of them may go on; the others are \
         reset and lose what was not yet sent",
        grouped(stalled),
        grouped(most),
    );
    let line = format!("sysctl -w net.ipv4.tcp_max_orphans={stalled}");
    Some(advice("net.ipv4.tcp_max_orphans", why, Some(&line)))
}

fn processor_time(facts: &Facts, plan: &Plan) -> Option<Advice> {
    let Tightest::At(level) = &facts.groups.processor else {
        return None;
    };
    if level.limit >= u64::from(plan.workers) * 1000 {
        return None;
    }
    let share = format!("{}.{:03}", level.limit / 1000, level.limit % 1000);
    let why = format!(
        "the cgroup gives {share} processors' time to {} workers: when it is used up all of them stand \
         still until the period is over, and latency has gaps of up to 100 ms",
        plan.workers
    );
    Some(advice("cgroup cpu", why, None))
}

fn maps(facts: &Facts, plan: &Plan) -> Option<Advice> {
    let most = facts.maps_max?;
    let threads = u64::from(plan.workers) + OTHER_THREADS;
    let needed = threads * MAPS_PER_THREAD + MAPS_OF_PROGRAM;
    if most >= needed {
        return None;
    }
    let why = format!("{threads} threads may need {} memory maps", grouped(needed));
    Some(advice(
        "vm.max_map_count",
        why,
        Some("sysctl -w vm.max_map_count=65530"),
    ))
}

fn devices(facts: &Facts) -> Vec<Advice> {
    let Some(processors) = facts.processors else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for device in &facts.devices {
        let queues = device.receive_queues;
        if device.is_spread || queues >= processors {
            continue;
        }
        let name = &device.name;
        let why = format!(
            "{name} has {queues} receive queue{} for {processors} processors, so some do the network's \
             work for all; ethtool -l {name} says whether it can have more, and RPS spreads what it \
             has: tuning/README.md",
            if queues == 1 { "" } else { "s" }
        );
        found.push(advice("network queues", why, None));
    }
    found
}

/// What a kernel can do that a server may make use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Features {
    /// `io_uring(7)` as the workers need it: `available`, `for_privileged`, `disabled`, `too_old`
    /// or `unknown`. A container's filter on system calls may refuse it all the same.
    pub(super) io_uring: &'static str,
    /// Memory that may be locked, of which rings take before Linux 5.12: `enough`, `little` or
    /// `unknown`.
    pub(super) locked_memory: &'static str,
}

/// Reads the features out of the facts.
pub(super) fn features(facts: &Facts) -> Features {
    const RING_BYTES: u64 = 8 << 20;
    let version = facts
        .kernel
        .as_deref()
        .and_then(super::parse::kernel_version);
    let io_uring = match (facts.io_uring_disabled, version) {
        (Some(0), _) => "available",
        (Some(1), _) => "for_privileged",
        (Some(2), _) => "disabled",
        // The switch came with 6.6; before it there was only the configuration of the kernel.
        (None, Some(version)) if (RING_KERNEL..(6, 6)).contains(&version) => "available",
        (None, Some(version)) if version < RING_KERNEL => "too_old",
        (Some(_) | None, _) => "unknown",
    };
    let locked_memory = match (version, facts.locked_bytes) {
        (Some(version), _) if version >= (5, 12) => "enough",
        (_, Some(Ceiling::Unlimited)) => "enough",
        (_, Some(Ceiling::At(most))) if most >= RING_BYTES => "enough",
        (Some(_), Some(Ceiling::At(_))) => "little",
        (_, None) | (None, _) => "unknown",
    };
    Features {
        io_uring,
        locked_memory,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Level;
    use super::super::facts::Device;
    use super::*;
    use fanfare::config::Config;

    fn told_of(facts: &Facts, conns: u64) -> Vec<&'static str> {
        let plan = Plan::new(&Config::default(), 2, 1);
        let found = advise(facts, &plan, conns);
        found.into_iter().map(|advice| advice.about).collect()
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known() {
        let nothing: [&str; 0] = [];
        assert_eq!(told_of(&Facts::default(), u64::MAX), nothing);
    }

    #[test]
    fn small_backlogs_and_few_ports_are_told() {
        let facts = Facts {
            somaxconn: Some(128),
            syn_backlog: Some(1024),
            syn_cookies: Some(1),
            ports: Some([32_768, 60_999]),
            ..Facts::default()
        };
        assert_eq!(told_of(&facts, 28_232), ["net.core.somaxconn"]);
        let both = ["net.core.somaxconn", "net.ipv4.ip_local_port_range"];
        assert_eq!(told_of(&facts, 28_233), both);
        let found = ports(&facts, 1_000_000).unwrap();
        assert!(found.why.contains("28,232") && found.why.contains("take 36 such"));
    }

    #[test]
    fn kernel_without_rings_is_told_with_the_switch_where_there_is_one() {
        let told = |kernel: &str, io_uring_disabled| {
            ring(&Facts {
                kernel: Some(kernel.to_owned()),
                io_uring_disabled,
                ..Facts::default()
            })
        };
        assert_eq!(told("6.18.1", Some(0)), None);
        assert_eq!(told("6.18.1", None), None, "nobody knows");
        assert_eq!(told("5.15.0", None).unwrap().line, None);
        let line = told("6.18.1", Some(2)).unwrap().line.unwrap();
        assert_eq!(line, "sysctl -w kernel.io_uring_disabled=0");
    }

    #[test]
    fn table_that_tracks_nothing_is_told_when_it_is_too_small() {
        let facts = Facts {
            conntrack: Some(Some(Conntrack { max: 100, count: 0 })),
            ..Facts::default()
        };
        assert_eq!(told_of(&facts, 101), ["nf_conntrack_max"]);
        assert!(told_of(&facts, 100).is_empty());
    }

    #[test]
    fn half_a_processor_for_two_workers_is_told() {
        let mut facts = Facts::default();
        facts.groups.processor = Tightest::At(Level {
            path: String::from("cpu.max"),
            limit: 500,
            used: 0,
        });
        assert_eq!(told_of(&facts, 1), ["cgroup cpu"]);
    }

    #[test]
    fn single_queue_is_told_unless_it_is_spread() {
        let mut facts = Facts {
            processors: Some(4),
            devices: vec![Device {
                name: String::from("eth0"),
                receive_queues: 1,
                is_spread: false,
            }],
            ..Facts::default()
        };
        assert_eq!(told_of(&facts, 1), ["network queues"]);
        for device in &mut facts.devices {
            device.is_spread = true;
        }
        assert!(told_of(&facts, 1).is_empty());
    }

    #[test]
    fn io_uring_is_told_by_its_switch_or_by_the_kernels_age() {
        let io_uring = |kernel: &str, disabled| {
            let facts = Facts {
                kernel: Some(kernel.to_owned()),
                io_uring_disabled: disabled,
                ..Facts::default()
            };
            features(&facts).io_uring
        };
        assert_eq!(io_uring("6.18.1", Some(0)), "available");
        assert_eq!(io_uring("6.18.1", Some(2)), "disabled");
        assert_eq!(io_uring("6.18.1", None), "unknown");
        assert_eq!(io_uring("6.1.0-18", None), "available");
        assert_eq!(io_uring("5.15.0-91", None), "too_old");
    }
}
