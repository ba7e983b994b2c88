//! What was written to a socket and is still on its way.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that TCP was given and the peer has not acknowledged. Of a Unix socket, bytes of the
/// kernel's memory with what the peer has not read; a piece that was written at once counts until
/// its last byte is read.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int to where the pointer is to (tcp(7), unix(7): SIOCOUTQ).
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u32::try_from(bytes).unwrap_or(0)
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
