//! The resources that this process uses: processor time, threads, address space and descriptors.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Returns the processor time that all threads have used, in user and system mode.
#[must_use]
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// Returns the number of threads, or `None` if `/proc` is not readable.
#[must_use]
pub fn threads() -> Option<u64> {
    Some(fs::read_dir("/proc/self/task").ok()?.count() as u64)
}

/// Returns the size of the address space in bytes: the first number of `/proc/self/statm`, in pages
/// (proc(5)).
#[must_use]
pub fn virtual_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// Returns the maximum size of the address space in bytes (`RLIMIT_AS`), or `u64::MAX` if there is
/// no limit.
#[must_use]
pub fn virtual_bytes_max() -> u64 {
    getrlimit(Resource::As).current.unwrap_or(u64::MAX)
}

/// Returns the number of open descriptors in the fullest descriptor table of this process. Returns
/// `None` if the system does not tell this number without a list of all descriptors.
///
/// Since Linux 6.2 the size of the directory `fd` is this number. Earlier systems report zero.
#[must_use]
pub fn most_descriptors() -> Option<u64> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let sizes = tasks.flatten().filter_map(|task| {
        let table = fs::metadata(task.path().join("fd")).ok()?;
        Some(table.len())
    });
    sizes.max().filter(|most| *most > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_resources_are_positive() {
        assert!(threads().unwrap() > 0);
        assert!(virtual_bytes().unwrap() > 1 << 20);
        let before = processor_time();
        let busy = std::iter::repeat_with(processor_time);
        let mut later = busy.skip_while(|now| *now == before);
        assert!(later.next().unwrap() > before);
    }

    #[test]
    fn open_descriptor_is_counted() {
        if let Some(before) = most_descriptors() {
            let held: Vec<_> = (0..200)
                .map(|_| fs::File::open("/dev/null").unwrap())
                .collect();
            // Other tests of this process open and close descriptors too.
            assert!(most_descriptors().unwrap() >= before.min(100) + 100);
            drop(held);
        }
    }
}
