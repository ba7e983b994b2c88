//! SHELL: this module wraps system calls that the standard library lacks in safe functions.
//!
//! This is the only file of the generator with unsafe code. It contains no other logic.
#![expect(
    unsafe_code,
    reason = "the only file that may call the system directly"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{UnshareFlags, sched_getaffinity, unshare_unsafe};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};

/// The first descriptor after standard input, output and error.
const FIRST_OWN_FD: u32 = 3;

/// Returns the time of the system's monotonic clock in nanoseconds. All processes of a machine have
/// the same monotonic clock.
#[must_use]
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// Returns the number of processors in the affinity mask of this process.
#[must_use]
pub(super) fn allowed_cpus() -> usize {
    sched_getaffinity(None).map_or(1, |set| set.count() as usize)
}

/// Raises the soft limit on descriptors to the hard limit, and returns the limit in force. If the
/// system refuses, as in a sandbox, the limit does not change.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // The result is ignored, because the next line reads the limit in force.
    let _refused = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Gives the calling thread a descriptor table of its own, in which only standard input, output and
/// error are open. The limit `RLIMIT_NOFILE` then applies to this thread alone. Also blocks all
/// signals in the thread.
///
/// # Errors
/// Returns the system's error if a call fails. The table is then still shared.
pub(super) fn unshare_descriptors() -> io::Result<()> {
    block_signals()?;
    // SAFETY: after this call, this thread uses no descriptor of the old table. A descriptor that a
    // thread opens later is never passed to another thread.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    // SAFETY: the table belongs to this thread only. The owners of these descriptors are on other
    // threads and keep their entries in the old table.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_OWN_FD, u32::MAX, 0) };
    // Kernels before 5.9 lack `close_range`. The copied descriptors then stay open, which only
    // reduces the number of available descriptors.
    debug_assert!(closed == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS));
    Ok(())
}

/// Blocks all signals in the calling thread, so that the system delivers them to other threads.
///
/// The reason is that a signal handler writes to a descriptor by its number. In this thread's own
/// table, the same number could belong to a client's socket.
fn block_signals() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid for writes of a whole set. With a valid pointer the call cannot
    // fail.
    let _always_zero = unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `sigfillset` has initialised the set. The null pointer means that the previous mask
    // is not requested.
    let refused =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
    match refused {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    /// The address to connect to.
    pub(super) target: SocketAddr,
    /// The address to connect from. If it is `None`, the system chooses an address.
    pub(super) source: Option<IpAddr>,
    /// The value of `SO_RCVBUF` in bytes. If it is `None`, the system's default applies.
    pub(super) receive_buffer_bytes: Option<usize>,
}

/// Starts to connect without blocking. When this function returns, the connection may not be
/// established yet.
///
/// # Errors
/// Returns the system's error if an address, a port or a descriptor is not available.
pub(super) fn connect(outgoing: &Outgoing) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(outgoing.target);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = outgoing.receive_buffer_bytes {
        // The buffer is set before connecting, because the handshake fixes the window scale.
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = outgoing.source {
        bind_address_only(socket.as_fd())?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&outgoing.target.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        connected => connected?,
    }
    Ok(socket.into())
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`, so that the kernel chooses the port when the socket connects.
/// Several connections to different destinations can then have the same source port. The IP-level
/// option is also valid for IPv6 sockets.
fn bind_address_only(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer refers to a value of this length, and the value outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the kernel kill the command's process when the thread that spawns the process ends for any
/// reason (`PR_SET_PDEATHSIG`, prctl(2)). The spawning thread must therefore live as long as the
/// child is used.
pub(super) fn kill_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the parent ended before the call above, the kernel sends no signal, so the closure
        // must check the parent.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            Some(_) | None => Err(io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork and exec, the closure only makes two system calls and allocates no
    // memory.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn monotonic_time_passes_as_fast_as_the_standard_library_measures() {
        let outer = Instant::now();
        let before = monotonic_ns();
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        let least = inner.elapsed();
        let passed = Duration::from_nanos(monotonic_ns() - before);
        assert!(passed >= least && passed <= outer.elapsed());
    }

    #[test]
    fn descriptor_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(raise_descriptor_limit(), hard);
    }

    #[test]
    fn unshared_table_is_empty_and_leaves_the_shared_one_alone() {
        let file = File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let is_open = move || std::fs::read_link(format!("/proc/thread-self/fd/{fd}")).is_ok();
        let seen = std::thread::spawn(move || {
            unshare_descriptors().unwrap();
            is_open()
        });
        assert!(!seen.join().unwrap());
        assert!(is_open());
    }

    #[test]
    fn thread_with_an_unshared_table_receives_no_signals() {
        let status = std::thread::spawn(|| {
            unshare_descriptors().unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = status.join().unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            assert_ne!(mask & 1 << (signal - 1), 0, "{signal} in {mask:x}");
        }
    }

    #[test]
    fn connection_comes_from_the_requested_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = IpAddr::from([127, 9, 8, 7]);
        let outgoing = Outgoing {
            target: listener.local_addr().unwrap(),
            source: Some(source),
            receive_buffer_bytes: None,
        };
        let _client = connect(&outgoing).unwrap();
        let (_accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), source);
        assert_ne!(from.port(), 0);
    }

    #[test]
    fn child_is_killed_when_its_parent_thread_ends() {
        let spawned = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            kill_with_parent(&mut command);
            command.spawn().unwrap()
        });
        let mut child = spawned.join().unwrap();
        for _ in 0..2_000 {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!status.success());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        panic!("the child still runs");
    }
}
