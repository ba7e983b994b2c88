//! Finds the process at the other end of a Unix socket.
//!
//! The kernel reports the process id 0 for a process that this server's PID namespace does not
//! contain, for example if the server runs in a container and its peer does not.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials};

/// The process that has connected, as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProcess {
    /// The process id; `None` if the process is not in the PID namespace of the server.
    pub pid: Option<i32>,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

impl PeerProcess {
    /// Returns the process at the other end of a connected Unix socket.
    ///
    /// # Errors
    /// Returns the error of `getsockopt(2)`.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        Ok(Self::from(getsockopt(socket, PeerCredentials)?))
    }
}

impl From<UnixCredentials> for PeerProcess {
    fn from(credentials: UnixCredentials) -> Self {
        Self {
            pid: Some(credentials.pid()).filter(|pid| *pid > 0),
            uid: credentials.uid(),
            gid: credentials.gid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_is_the_process_that_has_connected() {
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = PeerProcess::of(&near).unwrap();
        assert_eq!(peer.pid, Some(std::process::id().cast_signed()));
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn process_of_another_pid_namespace_has_no_process_id() {
        let credentials = libc::ucred {
            pid: 0,
            uid: 1,
            gid: 2,
        };
        let peer = PeerProcess::from(UnixCredentials::from(credentials));
        let expected = PeerProcess {
            pid: None,
            uid: 1,
            gid: 2,
        };
        assert_eq!(peer, expected);
    }
}
