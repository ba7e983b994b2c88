//! listeners: adds and removes listeners when a reload changes the addresses for clients.
//!
//! Each worker has its own listener for each address. Before a worker closes a listener, it accepts
//! the connections that wait there. Open connections do not depend on their listener.

use super::wire::net::Net;
use super::{Parts, Worker};
use crate::certain;
use crate::config::Listen;
use crate::config::limits::LISTENERS_MAX;
use crate::sys::listener::SocketOptions;
use crate::worker::listener_conns::ListenerNumber;

/// The listeners of a worker, by their index in the network.
#[derive(Debug)]
pub(super) struct ListenerTable {
    open: Vec<Option<Listen>>,
    /// A bit mask of the listeners that are closed when no connection waits there.
    closing: u64,
    /// The numbers under which the connections of the listeners are counted.
    numbers: Vec<ListenerNumber>,
    /// The addresses that get a listener when a listener that is being closed has made room.
    waiting: Vec<Listen>,
}

impl ListenerTable {
    /// Creates the table of a worker that already listens.
    pub(super) fn new<N: Net>(net: &N, parts: &Parts) -> Self {
        let mut table = Self {
            open: parts.config.listen.iter().copied().map(Some).collect(),
            closing: 0,
            numbers: Vec::new(),
            waiting: Vec::new(),
        };
        for index in 0..net.listener_count() {
            table.assign_number(index, net, parts);
        }
        table
    }

    /// Returns the number under which the connections of a listener are counted.
    pub(super) fn number(&self, index: u32) -> ListenerNumber {
        let number = self.numbers.get(index as usize).copied();
        certain::some(number, "a listener is open").unwrap_or(ListenerNumber::OTHER)
    }

    /// Assigns a listener the number of its address and protocols.
    fn assign_number<N: Net>(&mut self, index: u32, net: &N, parts: &Parts) {
        let number = net.local_address(index).map(|address| {
            parts.listener_conns.number(Listen {
                address,
                is_tls: parts.is_secure(index),
                is_proxied: parts.is_proxied(index),
            })
        });
        let number = number.unwrap_or(ListenerNumber::OTHER);
        let index = index as usize;
        if index >= self.numbers.len() {
            self.numbers.resize(index + 1, ListenerNumber::OTHER);
        }
        if let Some(place) = self.numbers.get_mut(index) {
            *place = number;
        }
    }

    /// Whether some of the configured addresses have no listener, for example because no descriptor
    /// was left.
    pub(super) fn has_missing(&self, listen: &[Listen]) -> bool {
        self.kept().count() < listen.len()
    }

    /// Returns the open listeners that are not being closed.
    fn kept(&self) -> impl Iterator<Item = (u32, Listen)> {
        let open = (0_u32..).zip(&self.open);
        let kept = open.filter(|(index, _)| self.closing & bit(*index) == 0);
        kept.filter_map(|(index, listen)| Some((index, (*listen)?)))
    }

    fn set(&mut self, index: u32, listen: Option<Listen>) {
        let index = index as usize;
        if index >= self.open.len() {
            self.open.resize(index + 1, None);
        }
        if let Some(place) = self.open.get_mut(index) {
            *place = listen;
        }
    }
}

impl<N: Net> Worker<N> {
    /// Adds the listeners that the current configuration has in addition, and begins to close the
    /// listeners that it does not have. The configuration is only given to this worker if the
    /// addresses were free at the reload.
    pub(super) fn change_listeners(&mut self) {
        let mut wanted = self.parts.config.listen.clone();
        let kept: Vec<_> = self.listeners.kept().collect();
        for (index, listen) in kept {
            let same = wanted.iter().position(|one| one.address == listen.address);
            match same.map(|at| wanted.remove(at)) {
                Some(same) => self.set_listener(index, same),
                None => {
                    self.listeners.closing |= bit(index);
                    // The listener may have connections that the poll has not reported.
                    self.accepting.ready |= bit(index);
                }
            }
        }
        self.listeners.waiting = wanted;
        self.open_waiting();
    }

    /// Opens listeners for the addresses that have none, as far as there is room. Listeners that
    /// are being closed still have their places.
    fn open_waiting(&mut self) {
        let options = SocketOptions::new(&self.parts.config);
        let open = self.listeners.open.iter().flatten().count();
        let room = LISTENERS_MAX.saturating_sub(open);
        let waiting = &mut self.listeners.waiting;
        let next: Vec<_> = waiting.drain(..room.min(waiting.len())).collect();
        for listen in next {
            match self.net.open_listener(listen.address, options) {
                Ok(index) => self.set_listener(index, listen),
                Err(error) => {
                    let worker = self.parts.number;
                    let address = listen.address;
                    tracing::error!(
                        worker,
                        "this worker cannot listen on {address}: {error}. Other workers may; correct \
                         the cause and reload again"
                    );
                }
            }
        }
    }

    /// Sets the protocols of a listener. Connections that wait there have them, too.
    fn set_listener(&mut self, index: u32, listen: Listen) {
        self.listeners.set(index, Some(listen));
        set_bit(&mut self.parts.guard.proxied, index, listen.is_proxied);
        set_bit(&mut self.parts.secure.listeners, index, listen.is_tls);
        self.listeners.assign_number(index, &self.net, &self.parts);
    }

    /// Closes the listeners that a reload has removed, if no connection waits there. Then opens the
    /// listeners for which there was no room.
    pub(super) fn close_listeners(&mut self) {
        let idle = self.listeners.closing & !self.accepting.ready;
        if idle == 0 {
            return;
        }
        for index in 0..self.net.listener_count() {
            if idle & bit(index) != 0 {
                self.net.close_listener(index);
                self.listeners.set(index, None);
            }
        }
        self.listeners.closing &= !idle;
        if self.draining.is_none() {
            self.open_waiting();
        }
    }
}

fn bit(index: u32) -> u64 {
    debug_assert!(index < certain::to_u32(LISTENERS_MAX), "{index}");
    1 << (index % 64)
}

fn set_bit(bits: &mut u64, index: u32, is_set: bool) {
    match is_set {
        true => *bits |= bit(index),
        false => *bits &= !bit(index),
    }
}
