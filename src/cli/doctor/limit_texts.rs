//! PURE: this module has the texts about limits: names, values and effects.
//!
//! The names are stable, because scripts read them from the JSON. [`super::report`] is the main
//! caller.

use super::super::units::{bytes, grouped};
use super::capacity::{LimitId, Plan};
use super::cgroup::Tightest;
use super::facts::{Conntrack, Facts, Files};
use super::parse::Ceiling;

/// Returns the name of a limit, as in the documentation of the limit.
pub(super) fn name(id: LimitId) -> &'static str {
    match id {
        LimitId::ConnsKey => "limits.conns",
        LimitId::Descriptors => "RLIMIT_NOFILE",
        LimitId::NrOpen => "fs.nr_open",
        LimitId::FileMax => "fs.file-max",
        LimitId::Memory => "memory",
        LimitId::GroupMemory => "cgroup memory",
        LimitId::Commit => "commit limit",
        LimitId::TcpMem => "net.ipv4.tcp_mem",
        LimitId::Conntrack => "nf_conntrack_max",
        LimitId::EpollWatches => "epoll max_user_watches",
        LimitId::GroupTasks => "cgroup pids",
        LimitId::UserThreads => "RLIMIT_NPROC",
        LimitId::ThreadsMax => "kernel.threads-max",
    }
}

/// Describes what happens to new connections when the limit is reached.
pub(super) fn effect(id: LimitId) -> &'static str {
    match id {
        LimitId::ConnsKey => "new clients are refused with 503",
        LimitId::Descriptors | LimitId::NrOpen => {
            "a worker whose table is full refuses new clients"
        }
        LimitId::FileMax => "accept fails with ENFILE, except for root",
        LimitId::Memory => "the kernel kills the largest process",
        LimitId::GroupMemory => {
            "the kernel kills a process of the group, or slows it down at memory.high; sockets count"
        }
        LimitId::Commit => "an allocation fails and the process ends",
        LimitId::TcpMem => {
            "above the second number send buffers shrink; above the third sends wait and packets are dropped"
        }
        LimitId::Conntrack => "packets of new connections are dropped: table full",
        LimitId::EpollWatches => "epoll cannot add a socket (ENOSPC), so its connection is closed",
        LimitId::GroupTasks | LimitId::UserThreads | LimitId::ThreadsMax => {
            "the server does not start: no thread for a worker"
        }
    }
}

/// Formats the value of a limit. Adds the amount in use if this amount is known.
pub(super) fn value(id: LimitId, facts: &Facts, plan: &Plan) -> String {
    known_value(id, facts, plan).unwrap_or_else(|| String::from("not known"))
}

fn known_value(id: LimitId, facts: &Facts, plan: &Plan) -> Option<String> {
    let text = match id {
        LimitId::ConnsKey => conns_key(plan.conns_key),
        LimitId::Descriptors => per_table(facts.descriptors_hard?, plan),
        LimitId::NrOpen => per_table(Ceiling::At(facts.nr_open?), plan),
        LimitId::FileMax => open_files(facts.files?),
        LimitId::Memory => format!("{} available", bytes(facts.memory_available_bytes?)),
        LimitId::GroupMemory => group(&facts.groups.memory, facts, bytes)?,
        LimitId::Commit => commit_room(facts.commit_room_bytes?),
        LimitId::TcpMem => tcp_mem(facts.tcp_mem_pages?),
        LimitId::Conntrack => match facts.conntrack {
            Some(table) => tracked_conns(table?),
            None => String::from("not loaded"),
        },
        LimitId::EpollWatches => format!("{} per user", grouped(facts.epoll_watches?)),
        LimitId::GroupTasks => group(&facts.groups.tasks, facts, grouped)?,
        LimitId::UserThreads => for_threads(facts.user_threads?, plan),
        LimitId::ThreadsMax => for_threads(Ceiling::At(facts.threads_max?), plan),
    };
    Some(text)
}

fn conns_key(conns: u32) -> String {
    match conns {
        0 => String::from("not set"),
        conns => format!("{}, divided among workers", grouped(conns.into())),
    }
}

fn per_table(limit: Ceiling, plan: &Plan) -> String {
    match (limit, plan.workers) {
        (Ceiling::Unlimited, _) => String::from("unlimited"),
        (Ceiling::At(most), 1) => format!("{} in 1 table", grouped(most)),
        (Ceiling::At(most), workers) => format!("{} in each of {workers} tables", grouped(most)),
    }
}

fn open_files(files: Files) -> String {
    if files.max >= Files::UNLIMITED {
        return String::from("unlimited");
    }
    format!("{}, {} open", grouped(files.max), grouped(files.open))
}

fn commit_room(room: Ceiling) -> String {
    match room {
        Ceiling::At(room) => format!("{} left", bytes(room)),
        Ceiling::Unlimited => String::from("not enforced"),
    }
}

fn tcp_mem([low, pressure, high]: [u64; 3]) -> String {
    format!("{low} {pressure} {high} pages")
}

fn tracked_conns(table: Conntrack) -> String {
    let max = grouped(table.max);
    match table.count {
        0 => format!("{max}, not in use"),
        count => format!("{max}, {} tracked", grouped(count)),
    }
}

fn for_threads(limit: Ceiling, plan: &Plan) -> String {
    match limit {
        Ceiling::Unlimited => String::from("unlimited"),
        Ceiling::At(most) => format!("{} for {} threads", grouped(most), plan.threads()),
    }
}

fn group(tightest: &Tightest, facts: &Facts, shown: fn(u64) -> String) -> Option<String> {
    match tightest {
        Tightest::At(level) => Some(format!(
            "{}, {} used",
            shown(level.limit),
            shown(level.used)
        )),
        Tightest::None if facts.are_groups_known => Some(String::from("unlimited")),
        Tightest::None | Tightest::Unknown => None,
    }
}
