//! Counts the bytes that were written to a socket and are not yet acknowledged.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns the number of unacknowledged bytes. For TCP, these are the written bytes that the peer
/// has not acknowledged. For a Unix socket, the number is the kernel memory of writes that the peer
/// has not read. Such a write counts in full until its last byte is read.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int through the pointer (tcp(7), unix(7): SIOCOUTQ).
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    debug_assert_eq!(outcome, 0, "the call fails only for sockets that listen");
    debug_assert!(bytes >= 0, "{bytes} bytes");
    bytes.max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_count_until_the_peer_has_read_them() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
        near.write_all(b"data").unwrap();
        assert!(unacknowledged_bytes(near.as_fd()) >= 4);
        far.read_exact(&mut [0; 3]).unwrap();
        assert!(unacknowledged_bytes(near.as_fd()) >= 4);
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
    }
}
