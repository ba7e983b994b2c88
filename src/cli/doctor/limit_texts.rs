//! PURE: the limits in words: their names, what was read of them, and what happens at them.
//!
//! Also how numbers are written. The names are stable, since the JSON has them and scripts will
//! look for them. [`super::report`] is the only caller.

use super::capacity::{LimitId, Plan};
use super::cgroup::Tightest;
use super::facts::{Conntrack, Facts, Files};
use super::parse::Ceiling;

/// The name of a limit, as its documentation has it.
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

/// What happens to those who come when the limit is reached.
pub(super) fn effect(id: LimitId) -> &'static str {
    match id {
        LimitId::ConnsKey => "new clients are refused with 503",
        LimitId::Descriptors | LimitId::NrOpen => {
            "a worker whose table is full refuses new clients"
        }
        LimitId::FileMax => "accept fails with ENFILE for everybody but root",
        LimitId::Memory => "the kernel ends the largest process",
        LimitId::GroupMemory => {
            "the kernel ends a process of the group, or slows it down at memory.high; sockets count"
        }
        LimitId::Commit => "the process gets no more memory and ends",
        LimitId::TcpMem => {
            "above the second number send buffers shrink; above the third sends wait and packets are dropped"
        }
        LimitId::Conntrack => "packets of new connections are dropped: table full",
        LimitId::EpollWatches => "a socket cannot be watched (ENOSPC), so its client is dropped",
        LimitId::GroupTasks | LimitId::UserThreads | LimitId::ThreadsMax => {
            "the server does not start: no thread for a worker"
        }
    }
}

/// What was read of a limit.
pub(super) fn reading(id: LimitId, facts: &Facts, plan: &Plan) -> String {
    let unknown = || String::from("not known");
    match id {
        LimitId::ConnsKey => match plan.conns_key {
            0 => String::from("not set"),
            conns => format!("{}, shared out", grouped(conns.into())),
        },
        LimitId::Descriptors => per_worker(facts.descriptors_hard, plan),
        LimitId::NrOpen => per_worker(facts.nr_open.map(Ceiling::At), plan),
        LimitId::FileMax => match facts.files {
            None => unknown(),
            Some(files) if files.max >= Files::UNLIMITED => String::from("unlimited"),
            Some(files) => format!("{}, {} open", grouped(files.max), grouped(files.open)),
        },
        LimitId::Memory => facts
            .memory_available_bytes
            .map_or_else(unknown, |room| format!("{} available", bytes(room))),
        LimitId::GroupMemory => group(&facts.groups.memory, facts, bytes),
        LimitId::Commit => match facts.commit_room_bytes {
            Some(Ceiling::At(room)) => format!("{} left", bytes(room)),
            Some(Ceiling::Unlimited) => String::from("not enforced"),
            None => unknown(),
        },
        LimitId::TcpMem => facts
            .tcp_mem_pages
            .map_or_else(unknown, |[low, pressure, high]| {
                format!("{low} {pressure} {high} pages")
            }),
        LimitId::Conntrack => match facts.conntrack {
            None => String::from("not loaded"),
            Some(None) => unknown(),
            Some(Some(Conntrack { max, count: 0 })) => format!("{}, not in use", grouped(max)),
            Some(Some(Conntrack { max, count })) => {
                format!("{}, {} tracked", grouped(max), grouped(count))
            }
        },
        LimitId::EpollWatches => facts
            .epoll_watches
            .map_or_else(unknown, |most| format!("{} per user", grouped(most))),
        LimitId::GroupTasks => group(&facts.groups.tasks, facts, grouped),
        LimitId::UserThreads => for_threads(facts.user_threads, plan),
        LimitId::ThreadsMax => for_threads(facts.threads_max.map(Ceiling::At), plan),
    }
}

fn per_worker(limit: Option<Ceiling>, plan: &Plan) -> String {
    let workers = plan.workers;
    match limit {
        None => String::from("not known"),
        Some(Ceiling::Unlimited) => String::from("unlimited"),
        Some(Ceiling::At(most)) if workers == 1 => format!("{} in 1 table", grouped(most)),
        Some(Ceiling::At(most)) => format!("{} in each of {workers} tables", grouped(most)),
    }
}

fn for_threads(limit: Option<Ceiling>, plan: &Plan) -> String {
    match limit {
        None => String::from("not known"),
        Some(Ceiling::Unlimited) => String::from("unlimited"),
        Some(Ceiling::At(most)) => {
            format!("{} for {} threads", grouped(most), plan.threads())
        }
    }
}

fn group(tightest: &Tightest, facts: &Facts, shown: fn(u64) -> String) -> String {
    match tightest {
        Tightest::At(level) => format!("{}, {} used", shown(level.limit), shown(level.used)),
        Tightest::None if facts.are_groups_known => String::from("unlimited"),
        Tightest::None | Tightest::Unknown => String::from("not known"),
    }
}

/// A number with a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a whole number, with one decimal.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if number >= size {
            let tenths = u128::from(number) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{number} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        let shown = [0, 12, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_have_the_unit_that_suits_them() {
        let shown = [0, 1023, 1536, 5 << 20, 23_019_642_880].map(bytes);
        assert_eq!(
            shown,
            ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "21.4 GiB"]
        );
        assert_eq!(bytes(u64::MAX), "17179869183.9 GiB");
    }
}
