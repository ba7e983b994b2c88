//! The known limits of a host.
//!
//! [`Facts::gather`] reads files of a [`Tree`] and stores their numbers. This module computes
//! nothing, so that [`super::capacity`] can be tested with facts alone. `None` always means "not
//! known". "No limit" is expressed by a separate type.

use super::cgroup::{self, Groups};
use super::context::Context;
use super::parse::{self, Ceiling};
use super::tree::{Note, Tree};
use fanfare::certain;

/// The capability that allows a process to raise hard limits (capabilities(7)).
const CAP_SYS_RESOURCE: u32 = 24;
/// The page size in bytes that is assumed if the host does not report its page size.
const PAGE_BYTES: u64 = 4096;

/// Fill level of the `nf_conntrack` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conntrack {
    /// The maximum number of tracked connections.
    pub(super) max: u64,
    /// The number of connections that are tracked now.
    pub(super) count: u64,
}

/// The number of open files of the whole host, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// The maximum number of open files.
    pub(super) max: u64,
    /// The number of files that are open now.
    pub(super) open: u64,
}

impl Files {
    /// If `fs.file-max` has this value or a larger value, there is no limit.
    pub(super) const UNLIMITED: u64 = 1 << 62;
}

/// A network device, and how its packets are distributed over processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// The name of the device.
    pub(super) name: String,
    /// The number of receive queues.
    pub(super) receive_queues: u32,
    /// Whether the kernel distributes the packets of a queue over processors (RPS).
    pub(super) is_spread: bool,
}

/// All known values of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The environment of the examined process.
    pub(super) context: Context,
    /// The kernel's release.
    pub(super) kernel: Option<String>,
    /// The number of processors that the process may use.
    pub(super) processors: Option<u32>,
    /// Whether the process may raise hard limits.
    pub(super) may_raise: Option<bool>,
    /// The hard limit on descriptors. The server raises its soft limit to this value.
    pub(super) descriptors_hard: Option<Ceiling>,
    /// The soft limit on the number of the user's threads. The limit does not apply to root.
    pub(super) user_threads: Option<Ceiling>,
    /// Hard limit on locked memory, in bytes.
    pub(super) locked_bytes: Option<Ceiling>,
    /// `fs.nr_open`: the largest hard limit on descriptors.
    pub(super) nr_open: Option<u64>,
    /// `fs.file-max`, and the number of files that are open now.
    pub(super) files: Option<Files>,
    /// `net.ipv4.tcp_mem`, in pages: low, pressure, high.
    pub(super) tcp_mem_pages: Option<[u64; 3]>,
    /// The number of pages that TCP uses now.
    pub(super) tcp_mem_used_pages: Option<u64>,
    /// The size of a page, in bytes.
    pub(super) page_bytes: u64,
    /// `MemAvailable` of `/proc/meminfo`, in bytes.
    pub(super) memory_available_bytes: Option<u64>,
    /// The number of bytes that can still be committed; unlimited if the host over-commits memory.
    pub(super) commit_room_bytes: Option<Ceiling>,
    /// Limits of the process's cgroups.
    pub(super) groups: Groups,
    /// Whether the cgroups of the process could be read.
    pub(super) are_groups_known: bool,
    /// The value of `fs.epoll.max_user_watches`.
    pub(super) epoll_watches: Option<u64>,
    /// The value of `kernel.threads-max`.
    pub(super) threads_max: Option<u64>,
    /// The `nf_conntrack` table. `None` means that the module is not loaded. `Some(None)` means
    /// that the table exists but cannot be read.
    pub(super) conntrack: Option<Option<Conntrack>>,
    /// `net.core.wmem_max`: the maximum size of a send buffer.
    pub(super) send_buffer_bytes_max: Option<u64>,
    /// The value of `net.core.somaxconn`.
    pub(super) somaxconn: Option<u64>,
    /// The value of `net.ipv4.tcp_max_syn_backlog`.
    pub(super) syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_syncookies`; zero means off.
    pub(super) syn_cookies: Option<u64>,
    /// The value of `net.ipv4.ip_local_port_range`: the first and the last port.
    pub(super) ports: Option<[u64; 2]>,
    /// The value of `net.ipv4.tcp_max_orphans`.
    pub(super) orphans_max: Option<u64>,
    /// The value of `vm.max_map_count`.
    pub(super) maps_max: Option<u64>,
    /// The value of `kernel.io_uring_disabled`. Linux before 6.6 does not have this sysctl.
    pub(super) io_uring_disabled: Option<u64>,
    /// The hardware network devices.
    pub(super) devices: Vec<Device>,
}

impl Facts {
    /// Reads all facts of a host. The report lists the values that are read.
    pub(super) fn gather(tree: &Tree) -> Self {
        let mut facts = Self {
            kernel: tree.expect("proc/sys/kernel/osrelease", |text| {
                Some(text.trim().to_owned())
            }),
            ..Self::default()
        };
        facts.take_process(tree);
        facts.take_files(tree);
        facts.take_memory(tree);
        facts.take_network(tree);
        facts.take_kernel(tree);
        facts
    }

    /// Reads the facts of `/proc/PID`, where PID is the examined process.
    fn take_process(&mut self, tree: &Tree) {
        let limits = tree.process_text("limits").unwrap_or_default();
        let limit = |name: &str| {
            let found = parse::resource_limit(&limits, name);
            let shown = found.map(|[soft, hard]| format!("{} {}", word(soft), word(hard)));
            tree.note(&format!("limits: {name}"), shown.as_deref());
            found
        };
        self.descriptors_hard = limit("Max open files").map(|[_, hard]| hard);
        self.user_threads = limit("Max processes").map(|[soft, _]| soft);
        self.locked_bytes = limit("Max locked memory").map(|[_, hard]| hard);

        let status = tree.process_text("status").unwrap_or_default();
        let list = parse::field(&status, "Cpus_allowed_list");
        self.processors = list.and_then(parse::list_length);
        tree.note("status: Cpus_allowed_list", list);
        let capabilities = parse::field(&status, "CapEff");
        self.may_raise = capabilities.and_then(|set| parse::has_capability(set, CAP_SYS_RESOURCE));

        let smaps = tree.process_text("smaps").unwrap_or_default();
        let page = smaps
            .split("VmFlags:")
            .next()
            .and_then(|first| parse::kibibytes(first, "KernelPageSize"));
        self.page_bytes = page.filter(|bytes| *bytes > 0).unwrap_or(PAGE_BYTES);

        let membership = tree.process_text("cgroup");
        tree.note("cgroup", membership.as_deref());
        self.are_groups_known = membership.is_some();
        let membership = membership.unwrap_or_default();
        self.groups = cgroup::read(tree, &membership);
        self.context = Context::of(tree, &membership);
    }

    fn take_files(&mut self, tree: &Tree) {
        self.nr_open = tree.expect("proc/sys/fs/nr_open", parse::number);
        let max = tree.expect("proc/sys/fs/file-max", parse::number);
        // The file has three numbers: allocated, unused, maximum. Since Linux 2.6, the second
        // number is always zero.
        let open = tree.expect("proc/sys/fs/file-nr", |text| {
            let [allocated, unused, _] = parse::numbers(text)?;
            allocated.checked_sub(unused)
        });
        self.files = max.zip(open).map(|(max, open)| Files { max, open });
        self.epoll_watches = tree.expect("proc/sys/fs/epoll/max_user_watches", parse::number);
    }

    fn take_memory(&mut self, tree: &Tree) {
        let text = tree.text("proc/meminfo").unwrap_or_default();
        self.memory_available_bytes = parse::kibibytes(&text, "MemAvailable");
        tree.note(
            "proc/meminfo: MemAvailable",
            parse::field(&text, "MemAvailable"),
        );
        let limit = parse::kibibytes(&text, "CommitLimit");
        let committed = parse::kibibytes(&text, "Committed_AS");
        let mode = tree.expect("proc/sys/vm/overcommit_memory", parse::number);
        self.commit_room_bytes = match mode {
            Some(2) => limit
                .zip(committed)
                .map(|(limit, committed)| Ceiling::At(limit.saturating_sub(committed))),
            Some(_) => Some(Ceiling::Unlimited),
            None => None,
        };
        self.maps_max = tree.expect("proc/sys/vm/max_map_count", parse::number);
    }

    fn take_network(&mut self, tree: &Tree) {
        self.tcp_mem_pages = tree.expect("proc/sys/net/ipv4/tcp_mem", parse::numbers);
        let sockets = tree.text("proc/net/sockstat").unwrap_or_default();
        let tcp = parse::field(&sockets, "TCP");
        tree.note("proc/net/sockstat: TCP", tcp);
        self.tcp_mem_used_pages = tcp.and_then(|line| parse::number(line.split_once(" mem ")?.1));
        self.send_buffer_bytes_max = tree.expect("proc/sys/net/core/wmem_max", parse::number);
        self.somaxconn = tree.expect("proc/sys/net/core/somaxconn", parse::number);
        self.syn_backlog = tree.expect("proc/sys/net/ipv4/tcp_max_syn_backlog", parse::number);
        self.syn_cookies = tree.expect("proc/sys/net/ipv4/tcp_syncookies", parse::number);
        self.ports = tree.expect("proc/sys/net/ipv4/ip_local_port_range", parse::numbers);
        self.orphans_max = tree.expect("proc/sys/net/ipv4/tcp_max_orphans", parse::number);
        let folder = "proc/sys/net/netfilter";
        let max = format!("{folder}/nf_conntrack_max");
        if tree.exists(&max) {
            let max = tree.expect(&max, parse::number);
            let count = tree.expect(&format!("{folder}/nf_conntrack_count"), parse::number);
            let table = max.zip(count).map(|(max, count)| Conntrack { max, count });
            self.conntrack = Some(table);
        }
        self.devices = devices(tree);
    }

    fn take_kernel(&mut self, tree: &Tree) {
        self.threads_max = tree.expect("proc/sys/kernel/threads-max", parse::number);
        self.io_uring_disabled = tree.probe("proc/sys/kernel/io_uring_disabled", parse::number);
    }
}

/// The facts of a host, and the values from which they were derived.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) facts: Facts,
    /// All values, in the order in which they were read.
    pub(super) notes: Vec<Note>,
}

/// Lists the devices that are on a bus and have receive queues.
fn devices(tree: &Tree) -> Vec<Device> {
    const FOLDER: &str = "sys/class/net";
    let mut devices = Vec::new();
    for name in tree.names(FOLDER) {
        if name == "lo" {
            continue;
        }
        let queues = format!("{FOLDER}/{name}/queues");
        let receive: Vec<String> = tree
            .names(&queues)
            .into_iter()
            .filter(|queue| queue.starts_with("rx-"))
            .collect();
        // Virtual devices, such as a bridge, a tunnel or a bond, only forward packets that a
        // hardware device has received.
        if receive.is_empty() || !tree.exists(&format!("{FOLDER}/{name}/device/uevent")) {
            continue;
        }
        let mut is_spread = false;
        for queue in &receive {
            let mask = tree.text(&format!("{queues}/{queue}/rps_cpus"));
            is_spread |=
                mask.is_some_and(|mask| mask.bytes().any(|b| b.is_ascii_hexdigit() && b != b'0'));
        }
        let receive_queues = certain::to_u32(receive.len());
        devices.push(Device {
            name,
            receive_queues,
            is_spread,
        });
    }
    devices
}

fn word(ceiling: Ceiling) -> String {
    ceiling
        .bound()
        .map_or_else(|| String::from("unlimited"), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn gathered(files: &[(&str, &str)]) -> Facts {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Facts::gather(&Tree::new(folder.path(), None))
    }

    #[test]
    fn host_without_files_has_no_facts() {
        let facts = gathered(&[]);
        let expected = Facts {
            page_bytes: PAGE_BYTES,
            ..Facts::default()
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn commit_limit_applies_only_without_over_commit() {
        let meminfo = "CommitLimit: 100 kB\nCommitted_AS: 40 kB\n";
        let room = |mode: &str| {
            let mode = ("proc/sys/vm/overcommit_memory", mode);
            gathered(&[("proc/meminfo", meminfo), mode]).commit_room_bytes
        };
        assert_eq!(room("2\n"), Some(Ceiling::At(60 * 1024)));
        assert_eq!(room("0\n"), Some(Ceiling::Unlimited));
        assert_eq!(room("?"), None);
    }

    #[test]
    fn conntrack_is_absent_or_unreadable_or_known() {
        let max = ("proc/sys/net/netfilter/nf_conntrack_max", "10");
        let count = ("proc/sys/net/netfilter/nf_conntrack_count", "3");
        assert_eq!(gathered(&[]).conntrack, None);
        assert_eq!(gathered(&[max]).conntrack, Some(None));
        let table = Conntrack { max: 10, count: 3 };
        assert_eq!(gathered(&[max, count]).conntrack, Some(Some(table)));
    }

    #[test]
    fn only_hardware_devices_are_listed() {
        let facts = gathered(&[
            ("sys/class/net/lo/queues/rx-0/rps_cpus", "0"),
            ("sys/class/net/br0/queues/rx-0/rps_cpus", "0"),
            ("sys/class/net/eth0/device/uevent", ""),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00,0000000f\n"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0"),
        ]);
        let expected = Device {
            name: String::from("eth0"),
            receive_queues: 1,
            is_spread: true,
        };
        assert_eq!(facts.devices, [expected]);
    }

    proptest! {
        #[test]
        fn garbage_in_any_file_is_no_panic(text in "\\PC{0,40}|[0-9 max:-]{0,40}") {
            gathered(&[
                ("proc/self/limits", &text),
                ("proc/self/status", &text),
                ("proc/self/smaps", &text),
                ("proc/self/cgroup", &text),
                ("proc/meminfo", &text),
                ("proc/net/sockstat", &text),
                ("proc/sys/fs/file-nr", &text),
                ("proc/sys/net/ipv4/tcp_mem", &text),
            ]);
        }
    }
}
