//! Sockets that the service manager opened for us (socket activation, `sd_listen_fds(3)`).
//!
//! TCP sockets are listeners for clients, Unix sockets are the feed; what a socket is, it says
//! itself. Only whether TLS is spoken on it, and whether proxies say there whom they speak for, is
//! a matter of its name in the unit file (`FileDescriptorName=tls`, `proxy` or `tls-proxy`).

use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use socket2::SockRef;

use crate::config::Listen;

/// What we were handed.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listeners for clients.
    pub tcp: Vec<InheritedListener>,
    /// Listeners for feeders.
    pub unix: Vec<UnixListener>,
}

/// A listener for clients.
#[derive(Debug)]
pub struct InheritedListener {
    /// The socket.
    pub listener: TcpListener,
    /// Whether it is for TLS.
    pub is_tls: bool,
    /// Whether conns begin with a header of the PROXY protocol.
    pub is_proxied: bool,
}

impl InheritedListener {
    /// Whether connections to a configured address arrive here, and are served as configured.
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

/// Names of sockets on which TLS is spoken, and of those with the PROXY protocol.
const TLS_NAMES: [&str; 2] = ["tls", "tls-proxy"];
const PROXIED_NAMES: [&str; 2] = ["proxy", "tls-proxy"];

/// Takes the sockets we were handed, if any. To be called once, before anything else is opened.
///
/// # Errors
/// When the environment promises sockets that are not there.
pub fn inherited() -> io::Result<Inherited> {
    let mut inherited = Inherited::default();
    // An empty variable is as if unset, for which the library has an error.
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
    // A name decides about TLS, so none may be missing.
    if fds.len() > 0 && names.len() != fds.len() {
        let (names, fds) = (names.len(), fds.len());
        let message = format!("LISTEN_FDNAMES has {names} names for {fds} sockets");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (fd, name) in fds.zip(names) {
        let (fd, family) = take(fd)?;
        match family {
            AddressFamily::UNIX => inherited.unix.push(UnixListener::from(fd)),
            AddressFamily::INET | AddressFamily::INET6 => inherited.tcp.push(InheritedListener {
                listener: TcpListener::from(fd),
                is_tls: TLS_NAMES.contains(&name),
                is_proxied: PROXIED_NAMES.contains(&name),
            }),
            _ => {
                return Err(io::Error::other(
                    "a socket that is neither TCP nor Unix was handed to us",
                ));
            }
        }
    }
    Ok(inherited)
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn take(fd: RawFd) -> io::Result<(OwnedFd, AddressFamily)> {
    // SAFETY: the service manager opened the descriptor for us and nothing has closed it; it is
    // only borrowed to ask what it is.
    let family = socket_domain(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // SAFETY: the descriptor was handed to this process, and `inherited` is called once, so nobody
    // else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_covers_an_address_that_it_serves_in_the_same_way() {
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
