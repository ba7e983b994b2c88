//! Tests a drain that is ordered while the inbox is full of publications.
//!
//! In the runs of [`crate::world`] an inbox is rarely full enough to delay a drain. Here the worker
//! must wait before each delivery of a publication, so that publications stay in the inbox.

use std::sync::Arc;

use fanfare::config::Config;
use fanfare::id::{ChannelName, Epoch, RunId, Sequence};
use fanfare::log::Writer;
use fanfare::worker::Turn;
use fanfare::worker::mail::inbox::DrainOrder;

use crate::feed::Feed;
use crate::net::{FakeNet, Machine};
use crate::world::node::Node;

const PUBLICATIONS: u64 = 500;
/// The maximum duration of the drain of one conn whose peer acknowledges the server's last bytes.
const DRAIN_US_MAX: u64 = 500_000;

#[test]
fn drain_begins_although_publications_wait_in_the_inbox() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut config = Config::default();
        config.quota.behind_publications = 1;
        let config = Arc::new(config);
        let machine = Machine::new(&mut random, false);
        let mut net = FakeNet::new(&machine, 0, random.fork(), 1);
        net.faults.walk_waits = 1000;
        net.horizon_us = u64::MAX;
        let pipe = net.connect(1 << 20);
        net.send(&pipe, b"GET /sse?channel=a HTTP/1.1\r\nHost: h\r\n\r\n");
        let epoch = Epoch::new(1);
        let writer = || Writer::new(&config, Sequence::ZERO);
        let (first, run) = (writer(), RunId(0));
        let (nets, log) = (vec![net], first.log());
        let (mut node, mailboxes) = Node::start(nets, log, epoch, run, &config, false, &mut random);
        let channels = vec![ChannelName::new("a").expect("a name")];
        let mut feed = Feed::new(epoch, channels, 0, None, writer(), random.fork());
        feed.begin(mailboxes, first, (epoch, 0));
        let worker = &mut node.workers[0].worker;
        while worker.hub().subscriber_count() == 0 {
            assert_eq!(worker.turn(), Turn::Continues);
        }
        for _ in 0..PUBLICATIONS {
            feed.sequence(0, 10, None, machine.now());
        }
        feed.post_everything(machine.now());
        let given = machine.now();
        let order = DrainOrder { conns: 1, given };
        feed.mailboxes.order_drain(order);
        while worker.turn() == Turn::Continues {}
        let took_us = machine.now_us() - given.0;
        assert!(took_us <= DRAIN_US_MAX, "drained for {took_us} us");
    }
}
