//! PURE: this module computes how many conns each limit allows.
//!
//! The input is the facts about a machine and the plan of a server; the result is a list of limits.
//! The limit that allows the fewest conns decides how many conns fit. A limit whose fact is not
//! known is [`Allows::Unknown`] and is ignored. The memory of a conn is defined here, with its
//! sources. [`super::remedies`] computes the inverse: for a number of conns, values of the limits
//! that are large enough.

use super::cgroup::Tightest;
use super::facts::{Conntrack, Facts, Files};
use super::parse::Ceiling;
use fanfare::config::Config;
use fanfare::config::limits::{BATCH_BYTES_MAX, DESCRIPTORS_KEPT, INBOX_BATCHES_MAX};

/// Kernel memory of one established TCP socket in an epoll set, in bytes. The objects of 2368
/// (TCP), 832 (socket inode), 192 (file), 192 (dentry) and 128 bytes (epoll item) add up to 3712,
/// by `/proc/slabinfo` of Linux 6.18 on x86-64. The item's entry in the socket's wait queue has 56
/// bytes. Unused space in the slabs, a memory-cgroup pointer per object and the entry in the
/// descriptor table raise the sum to 4010. The constant is rounded up to a page, to allow for other
/// kernels.
pub(super) const KERNEL_BYTES_PER_CONN: u64 = 4096;
/// User-space memory of one idle conn with one subscription, in bytes. Memory tests enforce this
/// bound.
pub(super) const USER_BYTES_PER_CONN: u64 = 256;
/// Memory of the program, its allocator and all threads except workers, in bytes; rounded up.
const PROCESS_BYTES: u64 = 16 << 20;
/// Memory of a worker, in bytes: read buffer, stack, timer wheel, poll; rounded up.
const WORKER_BYTES: u64 = 1 << 20;
/// The number of descriptors that the process opens once, and not once for each worker; rounded up.
const DESCRIPTORS_SHARED: u64 = 64;
/// The maximum number of threads that are not workers. They are the threads for main, signals,
/// feed, admin, memory measurement, log and demo. A journal adds two threads.
pub(super) const OTHER_THREADS: u64 = 9;
/// The ratio of a descriptor table's size to the worker's equal share of conns. The kernel
/// distributes clients over workers by a hash, so the shares are uneven: a table whose share is ten
/// conns needs room for eleven.
const SPREAD: (u64, u64) = (11, 10);

/// The configuration values of the planned server that affect its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The number of worker threads.
    pub(super) workers: u32,
    /// The value of `limits.conns`; zero means no limit.
    pub(super) conns_key: u32,
    /// The value of `quota.send_buffer_bytes`.
    pub(super) send_buffer_bytes: u32,
    /// The value of `log.bytes`.
    pub(super) log_bytes: u64,
    /// The value of `log.pinned_bytes`.
    pub(super) pinned_bytes: u64,
    /// The percentage of conns whose send buffers are full at the same time.
    pub(super) stalled_percent: u8,
}

impl Plan {
    /// Creates a plan from a configuration and a number of workers.
    pub(super) fn new(config: &Config, workers: u32, stalled_percent: u8) -> Self {
        Self {
            workers: workers.max(1),
            conns_key: config.limits.conns,
            send_buffer_bytes: config.quota.send_buffer_bytes,
            log_bytes: config.log.bytes,
            pinned_bytes: config.log.pinned_bytes(),
            stalled_percent,
        }
    }

    /// Returns the memory of full send buffers per conn, in bytes. This is the total size of these
    /// buffers, divided by the number of all conns.
    pub(super) fn buffer_bytes_per_conn(&self, facts: &Facts) -> u64 {
        let requested = u64::from(self.send_buffer_bytes);
        let granted = facts
            .send_buffer_bytes_max
            .map_or(requested, |max| requested.min(max));
        // The kernel doubles the requested size (socket(7), SO_SNDBUF).
        granted * 2 * u64::from(self.stalled_percent) / 100
    }

    /// Returns the memory of one conn, in the kernel and in the process, in bytes.
    pub(super) fn bytes_per_conn(&self, facts: &Facts) -> u64 {
        KERNEL_BYTES_PER_CONN + USER_BYTES_PER_CONN + self.buffer_bytes_per_conn(facts)
    }

    /// Returns the memory of a server without conns, in bytes. The log counts once, because all
    /// workers share one log.
    pub(super) fn fixed_bytes(&self) -> u64 {
        let inbox = BATCH_BYTES_MAX.saturating_mul(INBOX_BATCHES_MAX as u64);
        PROCESS_BYTES
            .saturating_add(inbox)
            .saturating_add(self.log_bytes)
            .saturating_add(self.pinned_bytes)
            .saturating_add(WORKER_BYTES.saturating_mul(self.workers.into()))
    }

    /// Returns the number of threads of the whole process.
    pub(super) fn threads(&self) -> u64 {
        u64::from(self.workers) + OTHER_THREADS
    }

    /// Returns the number of conns that the descriptor tables of all workers hold together, if each
    /// table has `descriptors` entries.
    pub(super) fn conns_in_tables(&self, descriptors: u64) -> u64 {
        let usable = usable(descriptors, self.workers.into());
        if self.workers == 1 {
            return usable;
        }
        let (spread, whole) = SPREAD;
        let all = usable.saturating_mul(self.workers.into());
        if all == u64::MAX {
            return all;
        }
        all.saturating_mul(whole) / spread
    }

    /// Returns the smallest value of `limits.conns` that allows this number of conns.
    pub(super) fn conns_key_for(&self, conns: u64) -> u64 {
        if self.workers == 1 {
            return conns;
        }
        with_spread(conns)
    }

    /// Returns the smallest size of each worker's descriptor table that allows this number of
    /// conns.
    pub(super) fn descriptors_for(&self, conns: u64) -> u64 {
        self.conns_key_for(conns)
            .div_ceil(self.workers.into())
            .saturating_add(DESCRIPTORS_KEPT + u64::from(self.workers))
    }

    /// Returns the number of files that the whole process has open with this number of conns.
    pub(super) fn files_for(&self, conns: u64) -> u64 {
        conns.saturating_add(self.files_kept())
    }

    fn files_kept(&self) -> u64 {
        // The descriptor tables of the workers mostly contain duplicates of the same descriptors.
        // All duplicates of a descriptor count as one open file.
        DESCRIPTORS_SHARED + DESCRIPTORS_KEPT / 4 * u64::from(self.workers)
    }
}

/// Returns the minimum number of workers that together hold `conns` conns, if the descriptor table
/// of each worker has `descriptors` entries.
pub(super) fn workers_for(conns: u64, descriptors: u64) -> u64 {
    let mut workers = 1;
    // The number is found by iteration, because each additional worker needs a descriptor in the
    // table of every worker.
    loop {
        let usable = usable(descriptors, workers);
        let needed = if conns <= usable {
            1
        } else {
            with_spread(conns).div_ceil(usable.max(1))
        };
        if needed <= workers {
            return workers;
        }
        workers = needed;
    }
}

/// Returns the number of descriptors in one worker's table that are free for conns.
fn usable(descriptors: u64, workers: u64) -> u64 {
    let kept = DESCRIPTORS_KEPT.saturating_add(workers);
    descriptors - kept.min(descriptors / 2)
}

fn with_spread(conns: u64) -> u64 {
    let (spread, whole) = SPREAD;
    conns.saturating_mul(spread).div_ceil(whole)
}

/// A limit of a host or of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LimitId {
    /// The configuration key `limits.conns`.
    ConnsKey,
    /// `RLIMIT_NOFILE`. Each worker has a descriptor table of its own, to which the limit applies.
    Descriptors,
    /// The sysctl `fs.nr_open`.
    NrOpen,
    /// The sysctl `fs.file-max`.
    FileMax,
    /// The available memory of the machine.
    Memory,
    /// The available memory of the cgroup.
    GroupMemory,
    /// The limit on committed memory.
    Commit,
    /// The sysctl `net.ipv4.tcp_mem`.
    TcpMem,
    /// The sysctl `net.netfilter.nf_conntrack_max`.
    Conntrack,
    /// The sysctl `fs.epoll.max_user_watches`.
    EpollWatches,
    /// The limit of the `pids` cgroup.
    GroupTasks,
    /// The limit `RLIMIT_NPROC`.
    UserThreads,
    /// The sysctl `kernel.threads-max`.
    ThreadsMax,
}

/// The number of conns that a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allows {
    /// At most this number of conns.
    Conns(u64),
    /// Any number of conns.
    AnyNumber,
    /// An unknown number of conns.
    Unknown,
}

impl Allows {
    /// Whether the limit is known, and allows fewer than `conns` conns.
    pub(super) fn refuses(self, conns: u64) -> bool {
        matches!(self, Self::Conns(most) if most < conns)
    }
}

/// A limit with the number of conns that it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) id: LimitId,
    /// The number of conns that the limit allows.
    pub(super) allows: Allows,
}

/// Computes how many conns each limit allows. The limits are in the order of the report.
pub(super) fn limits(facts: &Facts, plan: &Plan) -> Vec<Limit> {
    use LimitId as Id;
    let descriptors = ceiling(facts.descriptors_hard, |most| plan.conns_in_tables(most));
    let table = [
        (Id::ConnsKey, conns_key(plan)),
        (Id::Descriptors, descriptors),
        (
            Id::NrOpen,
            known(facts.nr_open, |most| plan.conns_in_tables(most)),
        ),
        (Id::FileMax, file_max(facts.files, plan)),
        (
            Id::Memory,
            known(facts.memory_available_bytes, |bytes| {
                in_memory(facts, plan, bytes)
            }),
        ),
        (Id::GroupMemory, group_memory(facts, plan)),
        (
            Id::Commit,
            ceiling(facts.commit_room_bytes, |bytes| {
                bytes.saturating_sub(plan.fixed_bytes()) / USER_BYTES_PER_CONN
            }),
        ),
        (Id::TcpMem, tcp_mem(facts, plan)),
        (Id::Conntrack, conntrack(facts)),
        (
            Id::EpollWatches,
            known(facts.epoll_watches, |most| {
                most.saturating_sub(plan.files_kept())
            }),
        ),
        (Id::GroupTasks, group_tasks(facts, plan)),
        (Id::UserThreads, user_threads(facts, plan)),
        (
            Id::ThreadsMax,
            facts
                .threads_max
                .map_or(Allows::Unknown, |most| threads(plan, most)),
        ),
    ];
    table.map(|(id, allows)| Limit { id, allows }).into()
}

/// Returns the limit that allows the fewest conns, and the number of conns that it allows.
pub(super) fn binding(limits: &[Limit]) -> Option<(LimitId, u64)> {
    limits
        .iter()
        .filter_map(|limit| match limit.allows {
            Allows::Conns(conns) => Some((limit.id, conns)),
            Allows::AnyNumber | Allows::Unknown => None,
        })
        .min_by_key(|(_, conns)| *conns)
}

fn known<T>(fact: Option<T>, conns: impl FnOnce(T) -> u64) -> Allows {
    fact.map_or(Allows::Unknown, |fact| Allows::Conns(conns(fact)))
}

fn ceiling(fact: Option<Ceiling>, conns: impl FnOnce(u64) -> u64) -> Allows {
    match fact {
        Some(Ceiling::At(most)) => Allows::Conns(conns(most)),
        Some(Ceiling::Unlimited) => Allows::AnyNumber,
        None => Allows::Unknown,
    }
}

fn conns_key(plan: &Plan) -> Allows {
    match plan.conns_key {
        0 => Allows::AnyNumber,
        conns if plan.workers == 1 => Allows::Conns(conns.into()),
        // Each worker may serve an equal share of `limits.conns`, but the kernel distributes
        // clients unevenly.
        conns => Allows::Conns(u64::from(conns) * SPREAD.1 / SPREAD.0),
    }
}

fn file_max(files: Option<Files>, plan: &Plan) -> Allows {
    match files {
        None => Allows::Unknown,
        Some(files) if files.max >= Files::UNLIMITED => Allows::AnyNumber,
        Some(files) => Allows::Conns(
            files
                .max
                .saturating_sub(files.open)
                .saturating_sub(plan.files_kept()),
        ),
    }
}

fn in_memory(facts: &Facts, plan: &Plan, bytes: u64) -> u64 {
    bytes.saturating_sub(plan.fixed_bytes()) / plan.bytes_per_conn(facts)
}

fn group_memory(facts: &Facts, plan: &Plan) -> Allows {
    match &facts.groups.memory {
        Tightest::At(level) => Allows::Conns(in_memory(facts, plan, level.room())),
        Tightest::None if facts.are_groups_known => Allows::AnyNumber,
        Tightest::None | Tightest::Unknown => Allows::Unknown,
    }
}

/// Only full send buffers use many of the pages that `tcp_mem` limits.
fn tcp_mem(facts: &Facts, plan: &Plan) -> Allows {
    let Some([_, pressure, _]) = facts.tcp_mem_pages else {
        return Allows::Unknown;
    };
    let free = pressure.saturating_sub(facts.tcp_mem_used_pages.unwrap_or(0));
    free.saturating_mul(facts.page_bytes)
        .checked_div(plan.buffer_bytes_per_conn(facts))
        .map_or(Allows::AnyNumber, Allows::Conns)
}

/// If connection tracking has no entries, it is assumed to be unused. Then it does not limit the
/// number of conns.
fn conntrack(facts: &Facts) -> Allows {
    match facts.conntrack {
        None | Some(Some(Conntrack { count: 0, .. })) => Allows::AnyNumber,
        Some(None) => Allows::Unknown,
        Some(Some(Conntrack { max, count })) => Allows::Conns(max.saturating_sub(count)),
    }
}

fn group_tasks(facts: &Facts, plan: &Plan) -> Allows {
    match &facts.groups.tasks {
        Tightest::At(level) => threads(plan, level.room()),
        Tightest::None if facts.are_groups_known => Allows::AnyNumber,
        Tightest::None | Tightest::Unknown => Allows::Unknown,
    }
}

fn user_threads(facts: &Facts, plan: &Plan) -> Allows {
    match facts.user_threads {
        Some(Ceiling::At(most)) => threads(plan, most),
        Some(Ceiling::Unlimited) => Allows::AnyNumber,
        None => Allows::Unknown,
    }
}

/// The limit does not depend on the number of conns. But if it is lower than the number of the
/// server's threads, the server cannot start.
fn threads(plan: &Plan, most: u64) -> Allows {
    if most < plan.threads() {
        return Allows::Conns(0);
    }
    Allows::AnyNumber
}
