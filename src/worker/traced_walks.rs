//! `traced_walks`: observes the visits to the subscribers of sampled publications.
//!
//! A sampled publication carries its span. After each batch of writes, the worker asks the hub how
//! far the visits have come, and notes the times in the span. Without sampled publications, the
//! list is empty, and each batch costs one check.

use std::sync::Arc;

use super::Worker;
use super::mail::inbox::Item;
use super::wire::net::Net;
use crate::config::limits::TRACED_WALKS_MAX;
use crate::hub::{WalkPosition, WalkProgress};
use crate::log::ChannelKey;
use crate::spans::PublicationSpan;
use crate::time::Now;

/// The sampled publications whose subscribers are being visited.
#[derive(Debug, Default)]
pub(super) struct TracedWalks(Vec<TracedWalk>);

#[derive(Debug)]
struct TracedWalk {
    place: u32,
    key: ChannelKey,
    /// The number of the channel's publications up to this one.
    publications: u64,
    /// The position of the walk before the first subscriber was visited; `None` afterwards.
    begin: Option<WalkPosition>,
    span: Arc<PublicationSpan>,
}

/// The place of a sampled publication in its channel, and its span.
#[derive(Debug)]
pub(super) struct Traced {
    place: u32,
    key: ChannelKey,
    publications: u64,
    span: Arc<PublicationSpan>,
}

impl Traced {
    /// Takes the span out of an item, if the item's publication is sampled.
    pub(super) fn of(item: &mut Item) -> Option<Self> {
        let span = item.span.take()?;
        Some(Self {
            place: item.place,
            key: item.key,
            publications: item.entry.total().publications,
            span,
        })
    }
}

impl<N: Net> Worker<N> {
    /// Begins to observe a publication that the hub has just accepted.
    pub(super) fn begin_traced_walk(&mut self, traced: Traced, subscribers: u32) {
        let Traced {
            place,
            key,
            publications,
            span,
        } = traced;
        let progress = self.hub.walk_progress(place, key, publications);
        let WalkProgress::At(position) = progress else {
            return;
        };
        span.note_subscribers(subscribers);
        if self.traced_walks.0.len() >= TRACED_WALKS_MAX {
            return span.note_incomplete();
        }
        self.traced_walks.0.push(TracedWalk {
            place,
            key,
            publications,
            begin: Some(position),
            span,
        });
    }

    /// Notes how far the visits have come. Called after the writes of each batch.
    pub(super) fn note_traced_walks(&mut self, now: Now) {
        if self.traced_walks.0.is_empty() {
            return;
        }
        let hub = &self.hub;
        self.traced_walks.0.retain_mut(|walk| {
            let progress = hub.walk_progress(walk.place, walk.key, walk.publications);
            let is_over = progress == WalkProgress::Over;
            let has_moved = match progress {
                WalkProgress::Over => true,
                WalkProgress::At(position) => walk.begin != Some(position),
            };
            if has_moved && walk.begin.take().is_some() {
                walk.span.note_first(now);
            }
            if is_over {
                walk.span.note_last(now);
            }
            !is_over
        });
    }
}
