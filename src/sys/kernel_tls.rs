//! TLS records sealed and opened by the kernel (Documentation/networking/tls.rst).
//!
//! The kernel knows records and nothing of their meaning: handshakes are over before it is given
//! the keys, and a record that is no data it neither reads out nor passes over, but has it fetched
//! in a way of its own. [`find`] asks at start whether there is all that is needed. The worker's
//! network is the only caller of the rest.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::tls::{CryptoInfo, Offload};

// Of linux/tls.h.
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;

/// Content type of a record with an alert (RFC 8446, 5.1).
const ALERT: u8 = 21;

/// Bytes of a record that is no data of which more is not looked at. An alert has two.
const CONTROL_BYTES: usize = 64;

/// What ends a conn below the data (RFC 8446, 6): level and description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Nothing more will be sent.
    CloseNotify,
    /// A record that may not come here.
    UnexpectedMessage,
    /// A record that its key does not open.
    BadRecordMac,
    /// A record that is too long.
    RecordOverflow,
}

impl Alert {
    const fn bytes(self) -> [u8; 2] {
        match self {
            Self::CloseNotify => [1, 0],
            Self::UnexpectedMessage => [2, 10],
            Self::BadRecordMac => [2, 20],
            Self::RecordOverflow => [2, 22],
        }
    }
}

/// A record that is no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The peer sends no more (`close_notify`).
    PeerDone,
    /// The peer is about to say so (`user_canceled`).
    Passing,
    /// Any other alert: the peer has given up.
    Alert,
    /// Something else: a handshake message, most likely new keys (RFC 8446, 4.6.3).
    Other,
}

/// Whether the kernel has it, for all ciphers that a conn may come to; tried on a connection of
/// this process with itself.
///
/// # Errors
/// When it has not, with the kernel's answer. `ENOENT` is a kernel without the module `tls`, which
/// is loaded on demand only for a process with `CAP_NET_ADMIN`.
pub fn find() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    for info in CryptoInfo::samples() {
        let near = TcpStream::connect(listener.local_addr()?)?;
        take_over(near.as_fd())?;
        set(near.as_fd(), libc::SOL_TLS, TLS_TX, info.as_bytes())?;
        set(near.as_fd(), libc::SOL_TLS, TLS_RX, info.as_bytes())?;
    }
    Ok(())
}

/// Has the kernel look at what goes through a socket, which changes nothing before it has keys.
///
/// # Errors
/// When it does not, as where the peer sends no more already (`ENOTCONN`). The socket is as before.
pub fn take_over(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Has the kernel seal all that is written to a socket that it looks at, and open what is read.
///
/// # Errors
/// When it does not. The socket is of no more use then.
pub fn offload(socket: BorrowedFd<'_>, offload: &Offload) -> io::Result<()> {
    set(socket, libc::SOL_TLS, TLS_TX, offload.transmit.as_bytes())?;
    set(socket, libc::SOL_TLS, TLS_RX, offload.receive.as_bytes())
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    let pointer = value.as_ptr().cast();
    // SAFETY: the pointer is to as many bytes as are named, and they live through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A control message with one byte of data, the type of a record (cmsg(3)).
#[repr(C)]
struct RecordType {
    header: libc::cmsghdr,
    content_type: u8,
}

/// Its length without what is added for alignment.
const RECORD_TYPE_BYTES: usize = size_of::<libc::cmsghdr>() + 1;

impl RecordType {
    const fn new(cmsg_type: libc::c_int, content_type: u8) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: RECORD_TYPE_BYTES,
            cmsg_level: libc::SOL_TLS,
            cmsg_type,
        };
        Self {
            header,
            content_type,
        }
    }
}

/// A message of these bytes and this record type, for one call. Both have to outlive it.
fn message(part: &mut libc::iovec, record_type: &mut RecordType) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: part,
        msg_iovlen: 1,
        msg_control: std::ptr::from_mut(record_type).cast(),
        msg_controllen: size_of::<RecordType>(),
        msg_flags: 0,
    }
}

/// Sends an alert, behind all that was written.
///
/// # Errors
/// `WouldBlock` when there is no room for it; otherwise the conn is dead.
pub fn send_alert(socket: BorrowedFd<'_>, alert: Alert) -> io::Result<()> {
    let mut bytes = alert.bytes();
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut record_type = RecordType::new(TLS_SET_RECORD_TYPE, ALERT);
    let message = message(&mut part, &mut record_type);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message and all that it points to live through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    match sent {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that TCP was given and the peer has not acknowledged. Of a Unix socket, bytes of the
/// kernel's memory with what the peer has not read; a piece that was written at once counts until
/// its last byte is read. What the kernel has sealed and could not give to TCP is none of them; it
/// follows as soon as there is room, also when the socket is closed, but is dropped if there is
/// none then.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int to where the pointer is to (tcp(7), unix(7): SIOCOUTQ).
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u32::try_from(bytes).unwrap_or(0)
}

/// Fetches the record before which reading has stopped (`EIO`).
///
/// # Errors
/// When there is none after all, or the conn is dead.
pub fn fetch_control(socket: BorrowedFd<'_>) -> io::Result<Control> {
    let mut bytes = [0; CONTROL_BYTES];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut record_type = RecordType::new(0, 0);
    let mut message = message(&mut part, &mut record_type);
    // SAFETY: the message and all that it points to live through the call.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_negative| io::Error::last_os_error())?;
    let is_told = message.msg_controllen >= RECORD_TYPE_BYTES
        && record_type.header.cmsg_type == TLS_GET_RECORD_TYPE;
    let is_alert = is_told && record_type.content_type == ALERT;
    Ok(match bytes.get(..length) {
        Some([_, 0]) if is_alert => Control::PeerDone,
        Some([_, 90]) if is_alert => Control::Passing,
        _ if is_alert => Control::Alert,
        _ => Control::Other,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn plain_socket_takes_no_alert_and_has_no_record() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let nothing = fetch_control(near.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"data").unwrap();
        let mut got = [0; 4];
        near.peek(&mut got).unwrap();
        assert_eq!(fetch_control(near.as_fd()).unwrap(), Control::Other);
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
        drop(near);
        assert_eq!(far.read(&mut got).unwrap(), 0);
    }
}
