//! Tests of one stream whose worker sleeps while the calendar is changed.
//!
//! In the runs of [`crate::world`] some peer always wakes the worker. Here the worker must wake by
//! itself.

use std::sync::Arc;

use fanfare::config::Config;
use fanfare::id::{Epoch, RunId, Sequence};
use fanfare::log::Writer;
use fanfare::worker::Turn;

use crate::net::{FakeNet, Machine, PipeRef};
use crate::tokens;
use crate::world::node::Node;

const TOKEN_S: u64 = 600;
/// The maximum time for which a stream may continue after the end of its token. `EARLY_US_MAX` is
/// the maximum time by which a stream may end too early. That is one second, because the calendar
/// counts whole seconds.
const LATE_US_MAX: u64 = 1_800_000;
const EARLY_US_MAX: u64 = 1_000_000;

struct Stream {
    node: Node,
    pipe: PipeRef,
    opened_us: u64,
}

impl Stream {
    /// Opens an event stream with a token that lasts ten minutes, on a network without faults.
    fn open(seed: u64) -> Self {
        let mut config = Config::default();
        tokens::require(&mut config);
        let config = Arc::new(config);
        let mut random = fastrand::Rng::with_seed(seed);
        let machine = Machine::new(&mut random, false);
        let mut net = FakeNet::new(&machine, 0, random.fork(), 1);
        net.horizon_us = u64::MAX;
        let pipe = net.connect(1 << 20);
        let token = tokens::token(0, machine.unix_seconds() + TOKEN_S);
        let request = format!(
            "GET /sse?channel=a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        net.send(&pipe, request.as_bytes());
        let writer = Writer::new(&config, Sequence::ZERO);
        let (log, epoch, run) = (writer.log(), Epoch::new(1), RunId(0));
        let (node, _) = Node::start(vec![net], log, epoch, run, &config, false, &mut random);
        let mut stream = Self {
            node,
            pipe,
            opened_us: 0,
        };
        stream.turn_until(|read| read.contains("200 OK"));
        stream.opened_us = stream.now_us();
        stream
    }

    fn net(&mut self) -> &mut FakeNet {
        self.node.net(0)
    }

    fn now_us(&mut self) -> u64 {
        self.net().now_us()
    }

    /// Runs turns until the client's unread bytes satisfy `is_done`. Returns the time of the clock.
    fn turn_until(&mut self, is_done: impl Fn(&str) -> bool) -> u64 {
        for _ in 0..20_000 {
            let unread = self.pipe.borrow().to_peer.clone();
            let unread: Vec<u8> = unread.into();
            if is_done(&String::from_utf8_lossy(&unread)) {
                return self.now_us();
            }
            assert_eq!(self.node.workers[0].worker.turn(), Turn::Continues);
        }
        panic!("the client has nothing of it to read");
    }

    /// Returns the time from the start of the stream until the server ended it because its token
    /// ended.
    fn ended_us(&mut self) -> u64 {
        let at_us = self.turn_until(|read| read.contains("\"code\":4002"));
        at_us - self.opened_us
    }
}

#[test]
fn stream_ends_with_its_token_by_a_steady_calendar() {
    for seed in 0..20 {
        let ended_us = Stream::open(seed).ended_us();
        let due_us = TOKEN_S * 1_000_000;
        let range = due_us - EARLY_US_MAX..due_us + LATE_US_MAX;
        assert!(range.contains(&ended_us), "{ended_us}");
    }
}

#[test]
fn stream_ends_at_once_when_the_calendar_has_passed_its_token() {
    for seed in 0..20 {
        let mut stream = Stream::open(seed);
        stream.net().machine.step_calendar(3600);
        let ended_us = stream.ended_us();
        assert!(ended_us < LATE_US_MAX, "{ended_us}");
    }
}

#[test]
fn stream_goes_on_when_the_calendar_is_set_back_and_ends_when_it_is_set_right() {
    for seed in 0..20 {
        let mut stream = Stream::open(seed);
        stream.net().machine.step_calendar(-3600);
        let until_us = stream.opened_us + 2 * TOKEN_S * 1_000_000;
        while stream.now_us() < until_us {
            assert_eq!(stream.node.workers[0].worker.turn(), Turn::Continues);
        }
        let unread: Vec<u8> = stream.pipe.borrow().to_peer.clone().into();
        assert!(!String::from_utf8_lossy(&unread).contains("4002"));
        stream.net().machine.step_calendar(3600);
        let ended_us = stream.ended_us();
        let late_us = stream.opened_us + ended_us - until_us;
        assert!(late_us < LATE_US_MAX, "{late_us}");
    }
}
