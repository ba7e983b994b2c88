//! Sockets that the service manager has opened for this process (socket activation,
//! `sd_listen_fds(3)`).
//!
//! TCP sockets are listeners for clients, and a Unix socket is the feed. The name of a TCP socket
//! in the unit (`FileDescriptorName=`) selects the protocols. The names `tls` and `tls-proxy`
//! select TLS. With the names `proxy` and `tls-proxy`, connections begin with a PROXY header.

use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use socket2::SockRef;

use crate::config::Listen;

/// The sockets that this process inherited.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The listeners for clients.
    pub tcp: Vec<InheritedListener>,
    /// The listeners for feeders.
    pub unix: Vec<UnixListener>,
}

/// An inherited listener for clients.
#[derive(Debug)]
pub struct InheritedListener {
    /// The listening socket.
    pub listener: TcpListener,
    /// Whether the socket is for TLS.
    pub is_tls: bool,
    /// Whether connections begin with a PROXY header.
    pub is_proxied: bool,
}

impl InheritedListener {
    /// Whether connections to a configured address reach this socket and use the configured
    /// protocols.
    #[must_use]
    pub fn covers(&self, wanted: &Listen) -> bool {
        let Ok(own) = self.listener.local_addr() else {
            return false;
        };
        let is_dual = || {
            SockRef::from(&self.listener)
                .only_v6()
                .is_ok_and(|only| !only)
        };
        let is_reached = own.ip() == wanted.address.ip()
            || own.ip().is_unspecified()
                && (own.is_ipv4() == wanted.address.is_ipv4() || own.is_ipv6() && is_dual());
        is_reached
            && own.port() == wanted.address.port()
            && self.is_tls == wanted.is_tls
            && self.is_proxied == wanted.is_proxied
    }
}

/// The names of sockets for TLS, and the names of sockets with the PROXY protocol.
const TLS_NAMES: [&str; 2] = ["tls", "tls-proxy"];
const PROXIED_NAMES: [&str; 2] = ["proxy", "tls-proxy"];

/// Returns the inherited sockets, if any. Call it once, before any other descriptor is opened.
///
/// # Errors
/// Returns an error if `LISTEN_FDS` or `LISTEN_FDNAMES` do not describe open sockets, or if one of
/// the sockets is neither TCP nor Unix.
pub fn inherited() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    // An empty variable counts as unset, because the library would return an error for an empty
    // variable.
    if ["LISTEN_PID", "LISTEN_FDS"]
        .iter()
        .any(|name| variable(name).is_none())
    {
        return Ok(inherited);
    }
    let fds = sd_notify::listen_fds()?;
    let names = variable("LISTEN_FDNAMES");
    let names: Vec<&str> = match &names {
        Some(names) => names.split(':').collect(),
        None => vec![""; fds.len()],
    };
    // The name of a socket determines whether it uses TLS, so each socket needs a name.
    if fds.len() > 0 && names.len() != fds.len() {
        let (names, fds) = (names.len(), fds.len());
        let message = format!("LISTEN_FDNAMES has {names} names for {fds} sockets");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (number, name) in fds.zip(names) {
        let (fd, family) = take(number)?;
        match family {
            AddressFamily::UNIX => inherited.unix.push(UnixListener::from(fd)),
            AddressFamily::INET | AddressFamily::INET6 => inherited.tcp.push(InheritedListener {
                listener: TcpListener::from(fd),
                is_tls: TLS_NAMES.contains(&name),
                is_proxied: PROXIED_NAMES.contains(&name),
            }),
            _ => {
                let text = format!("descriptor {number} is neither a TCP nor a Unix socket");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
    }
    Ok(inherited)
}

/// Returns the value of a variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn take(fd: RawFd) -> io::Result<(OwnedFd, AddressFamily)> {
    // SAFETY: the service manager opened the descriptor, and nothing has closed the descriptor. The
    // descriptor is borrowed for one call only.
    let family = socket_domain(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: this process inherited the descriptor, and `inherited` is called once, so the
    // descriptor has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_covers_an_address_that_it_serves_as_configured() {
        for (bound, name, wanted, is_covered) in [
            ("127.0.0.1:0", "", "127.0.0.1:PORT", true),
            ("127.0.0.1:0", "", "127.0.0.1:1", false),
            ("127.0.0.1:0", "", "127.0.0.1:PORT tls", false),
            ("127.0.0.1:0", "tls", "127.0.0.1:PORT tls", true),
            ("127.0.0.1:0", "tls", "127.0.0.1:PORT", false),
            ("127.0.0.1:0", "proxy", "127.0.0.1:PORT proxy", true),
            ("127.0.0.1:0", "", "0.0.0.0:PORT", false),
            ("0.0.0.0:0", "", "127.0.0.1:PORT", true),
            ("0.0.0.0:0", "", "[::1]:PORT", false),
            ("[::]:0", "", "0.0.0.0:PORT", true),
            ("[::]:0", "", "[::1]:PORT", true),
        ] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            let inherited = InheritedListener {
                listener,
                is_tls: TLS_NAMES.contains(&name),
                is_proxied: PROXIED_NAMES.contains(&name),
            };
            let wanted = wanted.replace("PORT", &port).parse().unwrap();
            assert_eq!(
                inherited.covers(&wanted),
                is_covered,
                "{bound} {name} {wanted}"
            );
        }
    }
}
