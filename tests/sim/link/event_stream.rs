//! Parses an event stream on the peer's side: its chunks, blocks and messages.
//!
//! The stream begins with the gaps that the server reports in answer to the request. The start
//! position comes after these gaps. Publications and later gaps come after the start position.

use super::{Goodbye, Link, Service, parse_gap};
use crate::model::{Facts, Observation, check_start};
use crate::wire::{after_comments, block_field, take_block, take_chunk};

impl Link {
    pub(super) fn take_event_stream(&mut self, has_gap: bool, facts: &mut Facts) -> usize {
        assert!(
            self.goodbye.is_none() || self.incoming.is_empty(),
            "bytes after the end"
        );
        let is_chunked = matches!(
            self.service,
            Service::EventStream {
                is_chunked: true,
                ..
            }
        );
        if !is_chunked {
            self.body.append(&mut self.incoming);
            self.take_blocks(has_gap, facts);
            return 0;
        }
        let Some((content, taken)) = take_chunk(&self.incoming) else {
            return 0;
        };
        if content.is_empty() {
            self.goodbye = Some(Goodbye::LastChunk);
            return taken;
        }
        self.body.extend(content);
        self.take_blocks(has_gap, facts);
        assert!(self.body.is_empty(), "a block across chunks");
        taken
    }

    fn take_blocks(&mut self, has_gap: bool, facts: &mut Facts) {
        let body = std::mem::take(&mut self.body);
        let mut rest = after_comments(&body);
        while let Some(block) = take_block(rest) {
            rest = after_comments(&rest[block.len()..]);
            let text = str::from_utf8(block).expect("an event stream is text");
            self.handle_block(text, has_gap, facts);
        }
        self.body.extend(rest);
    }

    fn handle_block(&mut self, block: &str, has_gap: bool, facts: &mut Facts) {
        let id = block_field(block, "id").map(|id| facts.sequence(id));
        if let Some(retry) = block_field(block, "retry") {
            if self.retries > 0 {
                self.note_delay(retry, facts);
            }
            self.retries += 1;
        }
        match block_field(block, "event") {
            Some("fanfare.direct") => {
                let data = block_field(block, "data").expect("data");
                let text = match data.strip_prefix("{\"text\":\"") {
                    Some(full) => full.strip_suffix("\"}").expect("an object"),
                    None => data,
                };
                return self.handle_direct(text);
            }
            Some("fanfare.disconnect") => return,
            Some("fanfare.position") => return self.handle_position(id, facts),
            _ => {}
        }
        if block_field(block, "event") == Some("fanfare.gap") {
            let data = block_field(block, "data").expect("a gap's data");
            let json: serde_json::Value = serde_json::from_str(data).expect("JSON");
            let gap = parse_gap(&json, facts);
            facts.gaps += 1;
            self.observations.push(gap.observation(facts));
            assert_eq!(id, None, "a gap with an id");
            if self.is_opened {
                return self.live_gap(&gap, facts);
            }
            assert!(has_gap, "a gap that the head did not announce");
            check_start(
                self.worker,
                self.requested,
                self.requested_at,
                gap.until,
                Some(&gap),
                facts,
            );
            return self.expected.start(gap.channel, gap.until, facts);
        }
        match (block_field(block, "data"), id) {
            (Some(_), Some(id)) => {
                assert!(self.is_opened, "a publication before the position");
                self.deliver(id, block.as_bytes(), facts);
            }
            _ => panic!("neither a publication nor a reserved event: {block:?}"),
        }
    }

    fn handle_position(&mut self, id: Option<u64>, facts: &Facts) {
        match id {
            Some(id) if !self.is_opened => {
                self.expected.newest = id;
                self.finish_opening(id, facts);
            }
            Some(id) => {
                self.expected.caught_up_position(id, 0, facts);
                self.observations.push(Observation::Position(id));
            }
            // The block has a reconnect delay (`retry`) and no id.
            None => return,
        }
        self.last_id = id;
    }

    /// Called when all gaps before the start position were read. Channels without a gap start at
    /// `position`.
    fn finish_opening(&mut self, position: u64, facts: &Facts) {
        self.is_opened = true;
        for channel in self.channels.clone() {
            if !self.expected.has(channel) {
                check_start(
                    self.worker,
                    self.requested,
                    self.requested_at,
                    position,
                    None,
                    facts,
                );
                self.expected.start(channel, position, facts);
                self.begin(channel, position, self.requested, self.requested_at, facts);
            }
        }
    }
}
