//! PURE: this module finds ways to raise each limit: a line to copy, and the place where the line
//! belongs.
//!
//! The module is the inverse of [`super::capacity`]: it finds the value of a limit that allows a
//! given number of conns. The line suits the environment of the server: a unit, a container, a pod
//! or a shell. Settings of the whole kernel are made on the host.

use super::capacity::{LimitId, OTHER_THREADS, Plan, USER_BYTES_PER_CONN, workers_for};
use super::cgroup::Tightest;
use super::context::Context;
use super::facts::Facts;
use super::parse::Ceiling;
use fanfare::config::limits::WORKERS_MAX;

/// Descriptor limits are rounded up to a multiple of this number.
const DESCRIPTORS_ROUND: u64 = 1024;
const MIB: u64 = 1 << 20;

/// One way to raise a limit.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Remedy {
    /// The file, command or shell where the line belongs.
    pub(super) place: String,
    /// The line to copy.
    pub(super) line: String,
    /// The line for a file in `/etc/sysctl.d`, if the remedy sets a sysctl.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sysctl: Option<String>,
}

fn remedy(place: &str, line: impl Into<String>) -> Remedy {
    Remedy {
        place: place.to_owned(),
        line: line.into(),
        sysctl: None,
    }
}

/// Returns the remedy that sets a sysctl of the whole kernel.
fn sysctl(context: &Context, key: &str, value: &str) -> Remedy {
    let place = if context.is_container() {
        "on the host, as root"
    } else {
        "as root"
    };
    let is_list = value.contains(' ');
    let line = if is_list {
        format!("sysctl -w {key}=\"{value}\"")
    } else {
        format!("sysctl -w {key}={value}")
    };
    Remedy {
        sysctl: Some(format!("{key} = {value}")),
        ..remedy(place, line)
    }
}

/// Lists the ways to raise a limit until it allows this number of conns.
pub(super) fn remedies(id: LimitId, facts: &Facts, plan: &Plan, conns: u64) -> Vec<Remedy> {
    let context = &facts.context;
    match id {
        LimitId::ConnsKey => {
            let line = format!("conns = {}", plan.conns_key_for(conns));
            vec![remedy("fanfare.toml, [limits]", line)]
        }
        LimitId::Descriptors => descriptors(facts, plan, conns),
        LimitId::NrOpen => {
            let needed = table_size(plan, conns).to_string();
            let mut ways = vec![sysctl(context, "fs.nr_open", &needed)];
            ways.extend(workers(facts.nr_open, conns));
            ways
        }
        LimitId::FileMax => {
            let open = facts.files.map_or(0, |files| files.open);
            let needed = open.saturating_add(plan.files_for(conns));
            vec![sysctl(
                context,
                "fs.file-max",
                &round_up(needed, DESCRIPTORS_ROUND),
            )]
        }
        LimitId::Memory => machine_memory(facts, plan, conns),
        LimitId::GroupMemory => group_memory(facts, plan, conns),
        LimitId::Commit => {
            let table_bytes = conns.saturating_mul(USER_BYTES_PER_CONN);
            let needed = plan.fixed_bytes().saturating_add(table_bytes);
            let mebibytes = needed.div_ceil(MIB);
            let more = format!("a commit limit {mebibytes} MiB above Committed_AS");
            vec![
                sysctl(context, "vm.overcommit_memory", "0"),
                remedy("or by more swap or memory", more),
            ]
        }
        LimitId::TcpMem => tcp_mem(facts, plan, conns),
        LimitId::Conntrack => {
            let count = facts.conntrack.flatten().map_or(0, |table| table.count);
            let needed = round_up(count.saturating_add(conns), DESCRIPTORS_ROUND);
            let key = "net.netfilter.nf_conntrack_max";
            vec![
                sysctl(context, key, &needed),
                remedy(
                    "or turn off tracking",
                    "tuning/README.md, Connection tracking",
                ),
            ]
        }
        LimitId::EpollWatches => {
            let needed = round_up(plan.files_for(conns), DESCRIPTORS_ROUND);
            vec![sysctl(context, "fs.epoll.max_user_watches", &needed)]
        }
        LimitId::GroupTasks => tasks(facts, plan),
        LimitId::UserThreads => user_threads(facts, plan),
        LimitId::ThreadsMax => {
            let needed = plan.threads().saturating_mul(2).to_string();
            vec![sysctl(context, "kernel.threads-max", &needed)]
        }
    }
}

/// Returns the minimum number of workers that together hold this number of conns, with the current
/// limits on descriptors.
pub(super) fn enough_workers(facts: &Facts, conns: u64) -> Option<u32> {
    let table = [
        facts.descriptors_hard.and_then(Ceiling::bound),
        facts.nr_open,
    ]
    .into_iter()
    .flatten()
    .min()?;
    let workers = workers_for(conns, table);
    u32::try_from(workers)
        .ok()
        .filter(|workers| *workers <= WORKERS_MAX)
}

fn workers(table: Option<u64>, conns: u64) -> Option<Remedy> {
    let workers = workers_for(conns, table?);
    let line = format!("fanfare serve --workers {workers}");
    (workers <= WORKERS_MAX.into()).then(|| remedy("or without privileges", line))
}

fn table_size(plan: &Plan, conns: u64) -> u64 {
    let needed = plan.descriptors_for(conns);
    needed
        .checked_next_multiple_of(DESCRIPTORS_ROUND)
        .unwrap_or(needed)
}

fn round_up(number: u64, step: u64) -> String {
    number
        .checked_next_multiple_of(step)
        .unwrap_or(number)
        .to_string()
}

fn descriptors(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Remedy> {
    let needed = table_size(plan, conns);
    let unit = format!("LimitNOFILE={needed}");
    let flag = format!("--ulimit nofile={needed}:{needed}");
    let mut ways = match &facts.context {
        Context::Docker => vec![remedy("docker run", flag)],
        Context::Podman => vec![remedy("podman run", flag)],
        Context::Kubernetes => vec![remedy(
            "on the node, the container runtime's unit, [Service]",
            unit,
        )],
        Context::Container => vec![remedy("on the host, the container's unit, [Service]", unit)],
        Context::Unit(name) => vec![remedy(&format!("{name}, [Service]"), unit)],
        Context::Shell { has_systemd } => {
            let mut ways = vec![remedy(
                "as root, in the shell that starts it",
                format!("ulimit -Hn {needed} && ulimit -Sn {needed}"),
            )];
            if *has_systemd {
                ways.push(remedy("or fanfare.service, [Service]", unit));
            }
            ways
        }
        Context::Unknown => vec![remedy("fanfare.service, [Service]", unit)],
    };
    if facts.nr_open.is_some_and(|most| most < needed) {
        // The hard limit cannot exceed `fs.nr_open`, so `fs.nr_open` must be raised first.
        ways.insert(0, sysctl(&facts.context, "fs.nr_open", &needed.to_string()));
    }
    let table = facts.descriptors_hard.and_then(Ceiling::bound);
    ways.extend(workers(table, conns));
    ways
}

fn machine_memory(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Remedy> {
    let needed = memory_needed(facts, plan, conns);
    let available = facts.memory_available_bytes.unwrap_or(0);
    let more = needed.saturating_sub(available).div_ceil(MIB);
    vec![remedy("the machine", format!("{more} MiB more memory"))]
}

fn memory_needed(facts: &Facts, plan: &Plan, conns: u64) -> u64 {
    conns
        .saturating_mul(plan.bytes_per_conn(facts))
        .saturating_add(plan.fixed_bytes())
}

fn group_memory(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Remedy> {
    let Tightest::At(level) = &facts.groups.memory else {
        return Vec::new();
    };
    let needed = memory_needed(facts, plan, conns).saturating_add(level.used);
    let mebibytes = needed.div_ceil(MIB);
    // Above `memory.high`, the kernel slows down the processes of the group. Above `memory.max`,
    // the kernel kills a process of the group.
    let (property, file) = if level.path.ends_with("memory.high") {
        ("MemoryHigh", "memory.high")
    } else {
        ("MemoryMax", "memory.max")
    };
    match &facts.context {
        Context::Docker => vec![remedy("docker run", format!("--memory={mebibytes}m"))],
        Context::Podman => vec![remedy("podman run", format!("--memory={mebibytes}m"))],
        Context::Kubernetes => vec![remedy(
            "pod, container's resources.limits",
            format!("memory: {mebibytes}Mi"),
        )],
        Context::Container | Context::Unit(_) | Context::Shell { .. } | Context::Unknown => {
            vec![group(
                &level.path,
                property,
                &format!("{mebibytes}M"),
                needed,
                file,
            )]
        }
    }
}

/// Returns the remedy for a limit of a cgroup: a setting of its systemd unit, or else a write to
/// its file.
fn group(path: &str, property: &str, amount: &str, number: u64, file: &str) -> Remedy {
    let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
    let name = folder.rsplit('/').next().unwrap_or(folder);
    if name.ends_with(".service") {
        return remedy(
            &format!("{name}, [Service]"),
            format!("{property}={amount}"),
        );
    }
    if name.ends_with(".slice") || name.ends_with(".scope") {
        let line = format!("systemctl set-property {name} {property}={amount}");
        return remedy("as root", line);
    }
    let is_v1 = path.ends_with("_in_bytes");
    let file = if is_v1 { "memory.limit_in_bytes" } else { file };
    remedy("as root", format!("echo {number} > /{folder}/{file}"))
}

fn tcp_mem(facts: &Facts, plan: &Plan, conns: u64) -> Vec<Remedy> {
    let bytes = conns.saturating_mul(plan.buffer_bytes_per_conn(facts));
    let used = facts.tcp_mem_used_pages.unwrap_or(0);
    let pressure = bytes
        .div_ceil(facts.page_bytes.max(1))
        .saturating_add(used)
        .saturating_add(1);
    // The three values (low, pressure, high) have the same proportions as the kernel's defaults.
    let (low, high) = (pressure / 4 * 3, pressure.saturating_add(pressure / 2));
    let value = format!("{low} {pressure} {high}");
    vec![sysctl(&facts.context, "net.ipv4.tcp_mem", &value)]
}

fn tasks(facts: &Facts, plan: &Plan) -> Vec<Remedy> {
    let Tightest::At(level) = &facts.groups.tasks else {
        return Vec::new();
    };
    let needed = level.used.saturating_add(plan.threads());
    let first = match &facts.context {
        Context::Docker => remedy("docker run", format!("--pids-limit={needed}")),
        Context::Podman => remedy("podman run", format!("--pids-limit={needed}")),
        Context::Kubernetes => remedy(
            "on the node, kubelet's configuration",
            format!("podPidsLimit: {needed}"),
        ),
        Context::Container | Context::Unit(_) | Context::Shell { .. } | Context::Unknown => group(
            &level.path,
            "TasksMax",
            &needed.to_string(),
            needed,
            "pids.max",
        ),
    };
    let mut ways = vec![first];
    ways.extend(fewer_workers(level.room()));
    ways
}

fn user_threads(facts: &Facts, plan: &Plan) -> Vec<Remedy> {
    let needed = plan.threads();
    let first = match &facts.context {
        Context::Unit(name) => remedy(
            &format!("{name}, [Service]"),
            format!("LimitNPROC={needed}"),
        ),
        Context::Docker => remedy("docker run", format!("--ulimit nproc={needed}:{needed}")),
        Context::Podman => remedy("podman run", format!("--ulimit nproc={needed}:{needed}")),
        Context::Kubernetes | Context::Container | Context::Shell { .. } | Context::Unknown => {
            remedy("in the shell that starts it", format!("ulimit -u {needed}"))
        }
    };
    let mut ways = vec![first];
    let room = facts.user_threads.and_then(Ceiling::bound);
    ways.extend(room.and_then(fewer_workers));
    ways
}

/// Suggests the largest number of workers that the limit on threads allows.
fn fewer_workers(threads: u64) -> Option<Remedy> {
    let workers = threads
        .checked_sub(OTHER_THREADS)
        .filter(|count| *count > 0)?;
    let line = format!("fanfare serve --workers {workers}");
    Some(remedy("or with fewer workers", line))
}
