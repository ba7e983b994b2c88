//! Lists the processors that this process may use, and pins a thread to one of them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Returns the numbers of the processors that this process may use. A cgroup can restrict them.
///
/// # Errors
/// Returns the error of `sched_getaffinity(2)`, for example on a machine with more than 1,024
/// processors.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    let cpus = 0..CpuSet::MAX_CPU;
    Ok(cpus.filter(|cpu| set.is_set(*cpu)).collect())
}

/// Pins the calling thread to one processor.
///
/// # Errors
/// Returns the error of `sched_setaffinity(2)`. After an error, the thread is not pinned.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_thread_may_use_one_processor_only() {
        let cpu = *allowed().unwrap().first().unwrap();
        let left = std::thread::spawn(move || {
            pin(cpu).unwrap();
            allowed().unwrap()
        });
        assert_eq!(left.join().unwrap(), [cpu]);
    }
}
