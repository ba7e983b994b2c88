//! PURE: this module gives advice on settings that do not limit the number of conns but affect
//! servers with many conns.
//!
//! Examples are the listen backlogs when many clients connect at once, the ports of a proxy, and
//! processor time. Each piece of advice has the numbers and, where possible, a line to copy. No
//! advice is given on unknown values.

use serde::Serialize;

use super::super::units::grouped;
use super::capacity::{OTHER_THREADS, Plan};
use super::cgroup::Tightest;
use super::context::Context;
use super::facts::{Conntrack, Facts};
use super::parse::Ceiling;
use fanfare::config::limits::LISTEN_BACKLOG;

/// The first kernel version whose `io_uring` has the modes that a worker uses.
const RING_KERNEL: (u32, u32) = (6, 1);
/// The number of memory maps of a thread: its stack, the guard page and the maps of the allocator.
const MAPS_PER_THREAD: u64 = 16;
/// The number of memory maps of the program, rounded up.
const MAPS_OF_PROGRAM: u64 = 512;

/// One piece of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Advice {
    /// The name of the setting.
    pub(super) about: &'static str,
    /// The reason for the advice.
    pub(super) why: String,
    /// A line to copy that solves the problem, if there is such a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<String>,
}

fn advice(about: &'static str, why: String, line: Option<&str>) -> Advice {
    let line = line.map(str::to_owned);
    Advice { about, why, line }
}

/// Returns all advice for a server with this number of conns.
pub(super) fn advise(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Advice> {
    let mut found = Vec::new();
    found.extend(environment(facts));
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

/// Gives advice if the kernel offers no `io_uring` to the server.
fn ring(facts: &Facts) -> Option<Advice> {
    let (why, line) = match features(facts).io_uring {
        "disabled" | "for_privileged" => (
            "is turned off",
            Some("sysctl -w kernel.io_uring_disabled=0"),
        ),
        "too_old" => ("of this kernel is too old (Linux 6.1 is needed)", None),
        _ => return None,
    };
    let why = format!("{why}, so each delivery is a system call and takes up to twice the time");
    Some(advice("io_uring", why, line))
}

fn environment(facts: &Facts) -> Vec<Advice> {
    let mut found = Vec::new();
    if let Context::Shell { has_systemd: true } = facts.context {
        let why = "these are the limits of this shell; those of a unit may differ. Examine the unit \
                   while it runs";
        let line = "fanfare doctor --pid $(systemctl show -P MainPID fanfare)";
        found.push(advice("unit", why.to_owned(), Some(line)));
    }
    if facts.may_raise == Some(false) && !matches!(facts.context, Context::Unit(_)) {
        let why = "this process may not raise hard limits (CAP_SYS_RESOURCE is missing); raise them \
                   where it is started, or use more workers";
        found.push(advice("hard limits", why.to_owned(), None));
    }
    found
}

/// Gives advice on the backlogs of connections that are not yet accepted. The backlog of half-open
/// connections matters only without SYN cookies (tcp(7), `tcp_syncookies`).
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
            "each of the {} listeners can queue {} connections that are {state}, {} together; the server \
             requests {}. In a storm, connections above that are dropped and retried after a second",
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

/// Returns the line that sets a sysctl of a network namespace.
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

/// Gives advice on local ports. Only the connecting side, such as a proxy or a load generator,
/// needs a port for each connection.
fn ports(facts: &Facts, conns: u64) -> Option<Advice> {
    let [first, last] = facts.ports?;
    let count = last.checked_sub(first)?.checked_add(1)?;
    if conns <= count {
        return None;
    }
    let why = format!(
        "remote clients use no local ports, but a proxy or a load generator with this range has {} \
         ports for each pair of its own address and an address and port of the server: {} connections \
         through it need {} such pairs",
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
        "connection tracking is loaded and tracks nothing now; a firewall or NAT rule that uses it \
         would limit the host to {} connections",
        grouped(max)
    );
    let line = format!("sysctl -w net.netfilter.nf_conntrack_max={conns}");
    Some(advice("nf_conntrack_max", why, Some(&line)))
}

/// Gives advice on orphans: closed sockets that the kernel keeps because of unacknowledged bytes.
fn orphans(facts: &Facts, plan: &Plan, conns: u64) -> Option<Advice> {
    let most = facts.orphans_max?;
    let stalled = conns.saturating_mul(plan.stalled_percent.into()) / 100;
    if stalled <= most {
        return None;
    }
    let why = format!(
        "if the server closes {} connections with unsent bytes, the kernel finishes {} of them; the \
         others are reset and lose those bytes",
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
        "the cgroup allows the time of {share} processors for {} workers: when it is used up, all of \
         them stop until the end of the period, which adds up to 100 ms to latencies",
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
            "{name} has {queues} receive queue{} for {processors} processors, so a few of them process \
             all packets; ethtool -l {name} shows whether it can have more queues, and RPS distributes \
             the packets of one: tuning/README.md",
            if queues == 1 { "" } else { "s" }
        );
        found.push(advice("network queues", why, None));
    }
    found
}

/// Kernel features that the server uses if they are available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Features {
    /// Whether the kernel offers `io_uring(7)` with the modes that workers use: `available`,
    /// `for_privileged`, `disabled`, `too_old` (the kernel) or `unknown`. A container's seccomp
    /// filter may still forbid `io_uring`.
    pub(super) io_uring: &'static str,
    /// Whether the limit on locked memory suffices for `io_uring`: `enough`, `little` or `unknown`.
    /// The memory of rings counts as locked memory only before Linux 5.12.
    pub(super) locked_memory: &'static str,
}

/// Determines from the facts which kernel features are available.
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
        // The sysctl `kernel.io_uring_disabled` exists in Linux 6.6 and later. In earlier versions,
        // only the kernel's build configuration decides whether `io_uring` is available.
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

    fn subjects(facts: &Facts, conns: u64) -> Vec<&'static str> {
        let plan = Plan::new(&Config::default(), 2, 1);
        let found = advise(facts, &plan, conns);
        found.into_iter().map(|advice| advice.about).collect()
    }

    #[test]
    fn unknown_values_cause_no_advice() {
        let nothing: [&str; 0] = [];
        assert_eq!(subjects(&Facts::default(), u64::MAX), nothing);
    }

    #[test]
    fn small_backlogs_and_few_ports_cause_advice() {
        let facts = Facts {
            somaxconn: Some(128),
            syn_backlog: Some(1024),
            syn_cookies: Some(1),
            ports: Some([32_768, 60_999]),
            ..Facts::default()
        };
        assert_eq!(subjects(&facts, 28_232), ["net.core.somaxconn"]);
        let both = ["net.core.somaxconn", "net.ipv4.ip_local_port_range"];
        assert_eq!(subjects(&facts, 28_233), both);
        let found = ports(&facts, 1_000_000).unwrap();
        assert!(found.why.contains("28,232") && found.why.contains("need 36 such"));
    }

    #[test]
    fn kernel_without_rings_causes_advice_with_the_sysctl_if_there_is_one() {
        let found = |kernel: &str, io_uring_disabled| {
            ring(&Facts {
                kernel: Some(kernel.to_owned()),
                io_uring_disabled,
                ..Facts::default()
            })
        };
        assert_eq!(found("6.18.1", Some(0)), None);
        assert_eq!(found("6.18.1", None), None, "not known");
        assert_eq!(found("5.15.0", None).unwrap().line, None);
        let line = found("6.18.1", Some(2)).unwrap().line.unwrap();
        assert_eq!(line, "sysctl -w kernel.io_uring_disabled=0");
    }

    #[test]
    fn idle_conntrack_table_causes_advice_if_it_is_too_small() {
        let facts = Facts {
            conntrack: Some(Some(Conntrack { max: 100, count: 0 })),
            ..Facts::default()
        };
        assert_eq!(subjects(&facts, 101), ["nf_conntrack_max"]);
        assert!(subjects(&facts, 100).is_empty());
    }

    #[test]
    fn half_a_processor_for_two_workers_causes_advice() {
        let mut facts = Facts::default();
        facts.groups.processor = Tightest::At(Level {
            path: String::from("cpu.max"),
            limit: 500,
            used: 0,
        });
        assert_eq!(subjects(&facts, 1), ["cgroup cpu"]);
    }

    #[test]
    fn single_queue_causes_advice_unless_it_is_distributed() {
        let mut facts = Facts {
            processors: Some(4),
            devices: vec![Device {
                name: String::from("eth0"),
                receive_queues: 1,
                is_spread: false,
            }],
            ..Facts::default()
        };
        assert_eq!(subjects(&facts, 1), ["network queues"]);
        for device in &mut facts.devices {
            device.is_spread = true;
        }
        assert!(subjects(&facts, 1).is_empty());
    }

    #[test]
    fn io_uring_is_detected_by_its_sysctl_or_the_kernel_version() {
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
