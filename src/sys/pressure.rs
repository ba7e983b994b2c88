//! Measures the memory in use and compares it with its limit.
//!
//! The limit determines which memory is measured:
//! - `limits.memory_bytes`, if it is set, limits the resident memory of this process.
//! - Otherwise the cgroup's limit applies to the memory of the cgroup, without inactive file pages.
//! - If the cgroup has no limit, the machine's total memory limits the memory of all programs.
//!
//! One thread measures; the workers read a flag.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::config::limits::MEMORY_LEFT_PERCENT;

/// The mount point of cgroup version 2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The latest measurement. Before the first measurement, the use is zero and there is no limit.
#[derive(Debug, Default)]
pub struct Pressure {
    is_short: AtomicBool,
    used_bytes: AtomicU64,
    limit_bytes: AtomicU64,
}

impl Pressure {
    /// Whether more memory is used than the limit allows. While this is true, new connections are
    /// refused.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes in use when they were last known; zero if they were never known.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that may be used, or zero if there is no limit.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Stores the measured number of used bytes and the limit.
    pub fn note(&self, used_bytes: u64, limit_bytes: u64) {
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        let is_short = limit_bytes > 0 && used_bytes > limit_bytes;
        self.is_short.store(is_short, Ordering::Relaxed);
    }
}

/// The memory that is measured, and its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meter {
    /// The memory of a cgroup.
    Cgroup {
        /// The directory of the cgroup in the file system.
        folder: PathBuf,
        /// The limit on the used bytes: a part of `memory.max`.
        limit_bytes: u64,
    },
    /// The memory of the machine.
    Machine {
        /// The limit on the used bytes: a part of `MemTotal`.
        limit_bytes: u64,
    },
    /// The system does not report its memory.
    Nothing,
    /// The resident memory of this process.
    Process {
        /// The limit on the used bytes, from the configuration.
        limit_bytes: u64,
    },
}

impl Meter {
    /// Selects the memory to measure. If `memory_bytes` is not zero, it limits this process. If it
    /// is zero, the limit is the smaller of two: the cgroup's limit and the machine's total memory.
    #[must_use]
    pub fn new(memory_bytes: u64) -> Self {
        if memory_bytes > 0 {
            return Self::Process {
                limit_bytes: memory_bytes,
            };
        }
        let Some(machine) = machine_bytes() else {
            return Self::Nothing;
        };
        match own_cgroup() {
            Some((folder, bytes)) if bytes < machine.total => Self::Cgroup {
                folder,
                limit_bytes: without_reserve(bytes),
            },
            Some(_) | None => Self::Machine {
                limit_bytes: without_reserve(machine.total),
            },
        }
    }

    /// Measures once and stores the result in `pressure`. If the memory in use is unknown, the last
    /// measurement is kept. Returns false if the memory is unknown although it has a limit.
    pub fn measure(&self, pressure: &Pressure) -> bool {
        let measured = self.used_bytes();
        // A file of the system cannot be opened while no descriptor is left. The memory in use is
        // not lower for that reason, so the last measurement counts.
        let used_bytes = measured.unwrap_or_else(|| pressure.used_bytes());
        pressure.note(used_bytes, self.limit_bytes());
        measured.is_some() || *self == Self::Nothing
    }

    /// Returns the number of bytes in use now, or `None` if the system does not report the use.
    #[must_use]
    pub fn used_bytes(&self) -> Option<u64> {
        match self {
            Self::Cgroup { folder, .. } => cgroup_used(folder),
            Self::Machine { .. } => {
                machine_bytes().map(|machine| machine.total.saturating_sub(machine.available))
            }
            Self::Nothing => None,
            Self::Process { .. } => resident_bytes(),
        }
    }

    /// Returns the number of bytes that may be used, or zero if there is no limit.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Cgroup { limit_bytes, .. }
            | Self::Machine { limit_bytes }
            | Self::Process { limit_bytes } => *limit_bytes,
        }
    }
}

fn without_reserve(bytes: u64) -> u64 {
    bytes - bytes / 100 * MEMORY_LEFT_PERCENT
}

/// Returns the resident memory of this process. It is the second number of `/proc/self/statm`, in
/// pages (proc(5)).
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    total: u64,
    available: u64,
}

fn machine_bytes() -> Option<Machine> {
    parse_machine(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_machine(text: &str) -> Option<Machine> {
    let of = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.strip_suffix(" kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    let total = of("MemTotal:")?;
    let available = of("MemAvailable:")?.min(total);
    Some(Machine { total, available })
}

/// Returns the lowest `memory.max` of this process's cgroup and its ancestors, with the directory
/// of that cgroup.
fn own_cgroup() -> Option<(PathBuf, u64)> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new(CGROUPS).join(path);
    let folders = own.ancestors().take_while(|up| up.starts_with(CGROUPS));
    let limits = folders.filter_map(|folder| {
        let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
        Some((folder.to_path_buf(), limit.trim().parse().ok()?))
    });
    limits.min_by_key(|(_, bytes)| *bytes)
}

fn cgroup_used(folder: &Path) -> Option<u64> {
    let current = fs::read_to_string(folder.join("memory.current")).ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    Some(current.saturating_sub(droppable_bytes(&stat)))
}

/// Returns the size of inactive file pages, which the kernel reclaims before all other pages.
fn droppable_bytes(stat: &str) -> u64 {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_above_its_limit_and_never_without_one() {
        let pressure = Pressure::default();
        assert!(!pressure.is_short());
        for (used, limit, expected) in [(10, 10, false), (11, 10, true), (11, 0, false)] {
            pressure.note(used, limit);
            assert_eq!(pressure.is_short(), expected);
        }
    }

    #[test]
    fn configured_limit_applies_to_the_process() {
        let (tight, wide) = (Meter::new(1), Meter::new(1 << 50));
        let pressure = Pressure::default();
        assert!(tight.measure(&pressure));
        assert!(pressure.is_short());
        assert!(pressure.used_bytes() > 1 << 20);
        assert!(wide.measure(&pressure));
        assert!(!pressure.is_short());
        assert_eq!(pressure.limit_bytes(), 1 << 50);
    }

    #[test]
    fn unknown_use_is_reported_and_the_last_measurement_counts() {
        let meter = Meter::Cgroup {
            folder: PathBuf::from("/nowhere"),
            limit_bytes: 10,
        };
        for used_bytes in [9, 11] {
            let pressure = Pressure::default();
            assert!(!meter.measure(&pressure));
            assert_eq!((pressure.used_bytes(), pressure.is_short()), (0, false));
            pressure.note(used_bytes, 10);
            assert!(!meter.measure(&pressure));
            assert_eq!(pressure.used_bytes(), used_bytes);
            assert_eq!(pressure.is_short(), used_bytes > 10);
        }
    }

    #[test]
    fn files_of_the_system_are_parsed() {
        let text = "MemTotal:       24676560 kB\nMemFree: 1 kB\nMemAvailable:   23000000 kB\n";
        let machine = parse_machine(text).unwrap();
        assert_eq!(machine.total, 24_676_560 * 1024);
        assert_eq!(machine.available, 23_000_000 * 1024);
        assert_eq!(parse_machine("MemTotal: 5 kB\n"), None);
        assert_eq!(parse_machine("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
        assert_eq!(droppable_bytes("anon 5\ninactive_file 77\nfile 9\n"), 77);
        assert_eq!(droppable_bytes(""), 0);
        assert_eq!(without_reserve(1000), 900);
    }

    #[test]
    fn meter_without_a_configured_limit_finds_one_of_the_system() {
        let pressure = Pressure::default();
        let meter = Meter::new(0);
        assert!(meter.measure(&pressure));
        assert!(meter == Meter::Nothing || pressure.limit_bytes() > 0);
    }
}
