//! The thread of a worker. It sets up the worker's descriptor table, processor and listeners, then
//! takes turns until the worker is drained.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::StartError;
use crate::config::limits::{LISTENERS_MAX, RING_WRITES_MAX};
use crate::config::validate::Invalid;
use crate::config::{Config, KernelFeature, Listen};
use crate::hub::Hub;
use crate::sys::activation::InheritedListener;
use crate::sys::cpu;
use crate::sys::descriptors::unshare_table;
use crate::sys::listener::{self, SocketOptions};
use crate::sys::ring::Ring;
use crate::worker::wire::kernel::MioNet;
use crate::worker::wire::net::Net as _;
use crate::worker::{Parts, Worker};

/// The addresses and sockets on which all workers listen.
#[derive(Debug)]
pub(super) struct Listeners {
    /// The addresses to bind. The first worker replaces port 0 with the port that the system chose.
    addresses: Vec<Listen>,
    /// Inherited listeners. All workers accept from the same sockets.
    adopted: Vec<TcpListener>,
}

/// The addresses on which the workers listen.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) addresses: Vec<Listen>,
    /// Whether the listeners were inherited, so that a reload cannot change them.
    pub(super) is_inherited: bool,
}

/// Checks that the server could listen on the addresses that a configuration has in addition to
/// those of the current one.
pub(super) fn check_added(current: &[Listen], latest: &[Listen]) -> Vec<Invalid> {
    let is_known = |one: &&Listen| current.iter().any(|known| known.address == one.address);
    let added = latest.iter().filter(|one| !is_known(one));
    let problem = |Listen { address, .. }: &Listen| {
        if address.port() == 0 {
            return Some(format!(
                "has `{address}`, but a reload cannot add an address with port 0"
            ));
        }
        let bound = match current.iter().any(|one| overlap(one.address, *address)) {
            true => listener::probe_overlapping(*address),
            false => listener::probe(*address),
        };
        let error = bound.err()?;
        Some(format!(
            "has `{address}`, on which the server cannot listen: {error}"
        ))
    };
    let problems = added.filter_map(problem);
    problems
        .map(|message| Invalid::new("listen", message))
        .collect()
}

/// Whether two different addresses can be bound at the same time only with `SO_REUSEPORT`, as the
/// workers bind them. So an address of this server can be added beside the other one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    is_any && one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
}

impl Listeners {
    /// Uses the inherited listeners if there are any. Otherwise uses the configured addresses,
    /// which must be free.
    pub(super) fn new(
        config: &Config,
        inherited: Vec<InheritedListener>,
    ) -> Result<Self, StartError> {
        if inherited.is_empty() {
            for Listen { address, .. } in &config.listen {
                listener::probe(*address).map_err(|error| StartError::Listen {
                    address: *address,
                    error,
                })?;
            }
            return Ok(Self {
                addresses: config.listen.clone(),
                adopted: Vec::new(),
            });
        }
        if inherited.len() > LISTENERS_MAX {
            let count = inherited.len();
            let error = format!("there are {count}, and at most {LISTENERS_MAX} are supported");
            let error = io::Error::other(error);
            return Err(StartError::system("use the inherited listeners")(error));
        }
        warn_of_unserved(&config.listen, &inherited);
        let mut addresses = Vec::with_capacity(inherited.len());
        for inherited in &inherited {
            let listener = &inherited.listener;
            listener::adopt(listener, SocketOptions::new(config))
                .map_err(StartError::system("set options on an inherited listener"))?;
            let address = listener.local_addr();
            addresses.push(Listen {
                address: address.map_err(StartError::system("use an inherited listener"))?,
                is_tls: inherited.is_tls,
                is_proxied: inherited.is_proxied,
            });
        }
        let adopted = inherited.into_iter().map(|one| one.listener).collect();
        Ok(Self { addresses, adopted })
    }

    pub(super) fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    pub(super) fn listening(&self) -> Listening {
        Listening {
            addresses: self.addresses.clone(),
            is_inherited: !self.adopted.is_empty(),
        }
    }

    /// Whether the service manager passed a socket for TLS.
    pub(super) fn has_inherited_tls(&self) -> bool {
        !self.adopted.is_empty() && self.addresses.iter().any(|one| one.is_tls)
    }

    fn adopted(&self) -> Result<Vec<TcpListener>, StartError> {
        let clones: io::Result<_> = self.adopted.iter().map(TcpListener::try_clone).collect();
        clones.map_err(StartError::system("use an inherited listener"))
    }
}

/// Logs a warning for each configured address that no inherited socket covers. Inherited sockets
/// replace `listen`, so a client of such an address is refused without a visible reason.
fn warn_of_unserved(listen: &[Listen], inherited: &[InheritedListener]) {
    let is_served = |wanted: &&Listen| inherited.iter().any(|one| one.covers(wanted));
    let unserved = listen.iter().filter(|wanted| !is_served(wanted));
    let unserved: Vec<String> = unserved.map(ToString::to_string).collect();
    if !unserved.is_empty() {
        tracing::warn!(
            "not served although `listen` names it: {}. The sockets that the service manager opened \
             replace `listen`: add it to a socket unit (with FileDescriptorName=tls for TLS), or \
             disable the socket units",
            unserved.join(", ")
        );
    }
}

/// Starts the thread of a worker and waits until the worker listens.
pub(super) fn start_worker(
    mut preparation: Preparation,
    listeners: &mut Listeners,
) -> Result<JoinHandle<()>, StartError> {
    let (report, outcome) = mpsc::sync_channel(1);
    let adopted = listeners.adopted()?;
    let addresses: Vec<_> = listeners.addresses.iter().map(|one| one.address).collect();
    let name = format!("fanfare-{}", preparation.parts.number);
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let bound = preparation.prepare(adopted, &addresses);
            let is_ready = bound.is_ok();
            let reported = report.send(bound);
            debug_assert!(
                reported.is_ok(),
                "the receiver is dropped after this message"
            );
            if is_ready {
                preparation.into_worker().run();
            }
        })
        .map_err(StartError::system("start a worker's thread"))?;
    let ended = || StartError::System {
        what: "start a worker",
        error: io::Error::other("its thread ended before it listened"),
    };
    let bound = outcome.recv().map_err(|_hung_up| ended())??;
    for (listen, bound) in listeners.addresses.iter_mut().zip(bound) {
        listen.address = bound;
    }
    Ok(thread)
}

/// The values that a worker's thread needs before its first turn.
pub(super) struct Preparation {
    pub(super) net: MioNet,
    pub(super) hub: Hub,
    pub(super) parts: Parts,
    pub(super) pin: Option<usize>,
    pub(super) options: SocketOptions,
}

impl Preparation {
    fn into_worker(self) -> Worker<MioNet> {
        Worker::new(self.net, self.hub, self.parts)
    }

    fn prepare(
        &mut self,
        adopted: Vec<TcpListener>,
        addresses: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, StartError> {
        self.unshare_descriptors(&adopted);
        if let Some(cpu) = self.pin
            && let Err(error) = cpu::pin(cpu)
        {
            tracing::warn!(%error, cpu, "cannot pin a worker to its processor");
        }
        self.set_up_ring();
        let mut bound = Vec::with_capacity(addresses.len());
        if adopted.is_empty() {
            for address in addresses {
                bound.push(self.bind(*address)?);
            }
        }
        for listener in adopted {
            bound.push(
                listener
                    .local_addr()
                    .map_err(StartError::system("use a listener"))?,
            );
            let listened = self.net.listen(listener);
            listened.map_err(StartError::system("use a listener"))?;
        }
        let is_blocked = !self.net.has_descriptor();
        self.parts.metrics.accept_blocked.set(is_blocked.into());
        Ok(bound)
    }

    fn bind(&mut self, address: SocketAddr) -> Result<SocketAddr, StartError> {
        let fail = |error| StartError::Listen { address, error };
        let listener = listener::bind(address, self.options).map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        self.net.listen(listener).map_err(fail)?;
        Ok(bound)
    }

    /// Creates the `io_uring`. Only this thread can use it, and only with descriptors of the
    /// thread's own table.
    fn set_up_ring(&mut self) {
        if self.parts.config.io.ring == KernelFeature::Off {
            return;
        }
        match Ring::new(RING_WRITES_MAX) {
            Ok(ring) => self.net.use_ring(ring),
            // All workers get the same error, so only the first worker logs it.
            Err(error) if self.parts.number == 0 => {
                tracing::info!(%error, "io_uring is not available: each send is a system call");
            }
            Err(_) => {}
        }
    }

    /// Gives this thread its own copy of the descriptor table. Then closes the descriptors in the
    /// copy that this worker does not use.
    fn unshare_descriptors(&mut self, adopted: &[TcpListener]) {
        match unshare_table() {
            Ok(table) => {
                let mut keep = self.net.descriptors();
                keep.push(self.parts.feed.as_raw_fd());
                keep.extend(adopted.iter().map(AsRawFd::as_raw_fd));
                table.keep_only(&keep);
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot give a worker its own descriptor table: all workers share the limit"
                );
                // The number was computed for a worker with its own descriptor table. The workers
                // share one table now.
                let fitting = self.parts.conns_fitting;
                self.parts.conns_fitting = fitting.div_ceil(self.parts.workers);
            }
        }
    }
}
