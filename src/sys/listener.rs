//! Listening sockets for clients: one socket for each worker and address.
//!
//! Accepted sockets inherit the options that are set here, so accepting needs no further system
//! call.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::limits::LISTEN_BACKLOG;
use crate::config::{Config, Quota};

/// Options that accepted sockets inherit from their listener.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// The value of `SO_SNDBUF`, in bytes.
    pub send_buffer_bytes: u32,
    /// The value of `TCP_NOTSENT_LOWAT`, in bytes.
    pub notsent_lowat_bytes: u32,
    /// The value of `TCP_USER_TIMEOUT`: the time for which sent bytes may stay unacknowledged
    /// before the kernel resets the connection.
    pub user_timeout: Duration,
}

impl SocketOptions {
    /// Returns the options for a configuration. A peer that acknowledges nothing during two
    /// heartbeat intervals counts as lost.
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

/// Checks that an address is free. With `SO_REUSEPORT`, a listener would share the address with
/// another process without an error. So the socket for this check does not set this option.
///
/// # Errors
/// Returns `AddrInUse` if another socket listens on the address, or another error of `bind(2)`.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // With `SO_REUSEADDR`, two sockets can bind an address, but only one of them can listen.
    socket.listen(1)
}

/// Checks that an address can be bound although this process listens on an overlapping address, for
/// example on `0.0.0.0` with the same port. The socket for this check does not listen, because the
/// kernel would assign new connections to it and reset them at the end of the check.
///
/// # Errors
/// Returns `AddrInUse` if a socket without `SO_REUSEPORT` or of another user listens on the
/// address, or another error of `bind(2)`.
pub fn probe_overlapping(address: SocketAddr) -> io::Result<()> {
    shared_socket(address)?.bind(&address.into())
}

/// Binds a listener to an address. Several listeners can share the address.
///
/// # Errors
/// Returns the error of `setsockopt(2)`, `bind(2)` or `listen(2)`.
pub fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = shared_socket(address)?;
    set_options(&SockRef::from(&socket), options)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn shared_socket(address: SocketAddr) -> io::Result<Socket> {
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
    Ok(socket)
}

/// Sets the options on a listener that this process inherited.
///
/// # Errors
/// Returns the error of `setsockopt(2)`.
pub fn adopt(listener: &TcpListener, options: SocketOptions) -> io::Result<()> {
    set_options(&SockRef::from(listener), options)
}

/// Changes `TCP_USER_TIMEOUT` of a listener. Only sockets that are accepted later inherit it.
///
/// # Errors
/// Returns the error of `setsockopt(2)`.
pub fn set_user_timeout(listener: impl AsFd, options: SocketOptions) -> io::Result<()> {
    SockRef::from(&listener).set_tcp_user_timeout(Some(options.user_timeout))
}

fn set_options(socket: &SockRef<'_>, options: SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(options.send_buffer_bytes as usize)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    socket.set_tcp_notsent_lowat(options.notsent_lowat_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn options() -> SocketOptions {
        SocketOptions::new(&Config::default())
    }

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
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
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16_384);
    }

    #[test]
    fn probe_finds_an_address_in_use_although_listeners_could_share_it() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), options()).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        probe(address).unwrap();
    }

    #[test]
    fn probe_of_an_overlapping_address_takes_no_connection() {
        let all = bind("0.0.0.0:0".parse().unwrap(), options()).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], all.local_addr().unwrap().port()));
        assert_eq!(probe(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let probed = shared_socket(address).unwrap();
        probed.bind(&address.into()).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let accepted = all.accept().unwrap().1;
        assert_eq!(accepted, client.local_addr().unwrap());
    }
}
