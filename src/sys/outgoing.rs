//! Connections that this process opens, from source addresses of its choice.
//!
//! A socket that is bound to an address and to no port gets its port when it connects, so that one
//! port can be used for several peers. Nothing here blocks: the connection is still being
//! established when the descriptor is returned. Only the load generator opens so many that it
//! matters.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// One connection to open.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// The peer.
    pub target: SocketAddr,
    /// The address to connect from; `None` leaves the choice to the system.
    pub source: Option<IpAddr>,
    /// `SO_RCVBUF` in bytes; `None` leaves the system's default.
    pub receive_buffer_bytes: Option<usize>,
}

/// Starts to connect.
///
/// # Errors
/// Returns the error of `socket(2)`, `setsockopt(2)`, `bind(2)` or `connect(2)`, for example if no
/// port or descriptor is free.
pub fn connect(outgoing: &Outgoing) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(outgoing.target);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = outgoing.receive_buffer_bytes {
        // Set before the connect, in which the window scale is negotiated.
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

/// `IP_BIND_ADDRESS_NO_PORT`: a socket bound to port 0 gets its port at the connect. The option has
/// level IP also for IPv6.
fn bind_address_only(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer is to a value of the given length that lives through the call.
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connection_has_the_requested_source_address() {
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
}
