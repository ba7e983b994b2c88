//! Listening sockets for clients, one per worker on the same address.
//!
//! Options that an accepted socket inherits are set here once, so that accepting costs no further
//! call.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::limits::LISTEN_BACKLOG;
use crate::config::{Config, Quota};

/// What every accepted socket inherits from its listener.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `SO_SNDBUF`, in bytes.
    pub send_buffer_bytes: u32,
    /// `TCP_NOTSENT_LOWAT`, in bytes.
    pub notsent_lowat_bytes: u32,
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged before the kernel gives up.
    pub user_timeout: Duration,
}

impl SocketOptions {
    /// The options that follow from the configuration. A peer that acknowledges nothing for two
    /// heartbeats is gone.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let Quota {
            send_buffer_bytes,
            notsent_lowat_bytes,
            ..
        } = config.quota;
        let user_timeout = config.heartbeat.interval() * 2;
        Self {
            send_buffer_bytes,
            notsent_lowat_bytes,
            user_timeout,
        }
    }
}

/// Says whether the address is free. Sockets with `SO_REUSEPORT` would quietly share it with
/// another process, so this asks without.
///
/// # Errors
/// `AddrInUse` when somebody listens there, or whatever else keeps us from binding.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Binding is not enough: `SO_REUSEADDR` lets two sockets bind, but only one listen.
    socket.listen(1)
}

/// Binds one of several listeners that share an address.
///
/// # Errors
/// When the address cannot be bound or an option is refused.
pub fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_options(&SockRef::from(&socket), socket.as_fd(), options)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options that accepted sockets inherit on a listener that was bound by somebody else.
///
/// # Errors
/// When an option is refused.
pub fn adopt(listener: &TcpListener, options: SocketOptions) -> io::Result<()> {
    set_options(&SockRef::from(listener), listener.as_fd(), options)
}

fn set_options(socket: &SockRef<'_>, fd: BorrowedFd<'_>, options: SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(options.send_buffer_bytes as usize)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    set_notsent_lowat(fd, options.notsent_lowat_bytes)
}

fn set_notsent_lowat(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(0);
    // SAFETY: the pointer is to a value of the length that is given, and lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            std::ptr::from_ref(&bytes).cast(),
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
    use std::net::TcpStream;

    use super::*;

    fn options() -> SocketOptions {
        SocketOptions::new(&Config::default())
    }

    fn notsent_lowat(fd: BorrowedFd<'_>) -> u32 {
        let mut bytes = 0u32;
        let mut length = libc::socklen_t::try_from(size_of::<u32>()).unwrap();
        // SAFETY: both pointers are to live values, and the length is that of the first.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NOTSENT_LOWAT,
                std::ptr::from_mut(&mut bytes).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        bytes
    }

    #[test]
    fn accepted_sockets_inherit_what_the_listener_was_given() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), options()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(50))
        );
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * 65_536);
        assert_eq!(notsent_lowat(accepted.as_fd()), 16_384);
    }

    #[test]
    fn address_in_use_is_seen_although_listeners_could_share_it() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), options()).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        probe(address).unwrap();
    }
}
