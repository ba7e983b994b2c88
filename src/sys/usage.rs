//! The resources that this process uses: processor time, threads, address space and descriptors.
//! Also the time at which the process started.

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

/// Returns the time since the process started, or `None` if `/proc` is not readable. The system
/// stores the start in clock ticks, usually 10 ms.
#[must_use]
pub fn age() -> Option<Duration> {
    let started = start_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let started_ms = started.checked_mul(1000)?.checked_div(ticks_per_second)?;
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    Some(now.saturating_sub(Duration::from_millis(started_ms)))
}

/// Returns the field `starttime` of `/proc/self/stat`, in clock ticks since the boot (proc(5)). It
/// is the 20th field after the name of the program, which is in parentheses and may contain spaces
/// and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_name, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
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
    fn age_grows_from_the_start_of_the_process() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("7 (a) S 1 2"), None);
        let old = age().unwrap();
        assert!(old < Duration::from_secs(86_400), "{old:?}");
        let step = Duration::from_millis(50);
        std::thread::sleep(step);
        assert!(age().unwrap() >= old + step);
    }

    #[test]
    fn open_descriptors_are_counted() {
        let Some(before) = most_descriptors() else {
            // Before Linux 6.2 the size of the directory is zero.
            assert_eq!(fs::metadata("/proc/self/fd").unwrap().len(), 0);
            return;
        };
        // Other tests of this process open and close descriptors too. So this test holds more
        // descriptors than the whole process had before.
        let count = before + 50;
        let held: Vec<_> = (0..count)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        assert!(most_descriptors().unwrap() >= count);
        drop(held);
    }
}
