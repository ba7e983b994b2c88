//! Checks lines on the feed: publications and commands.
//!
//! Every cut of the bytes must decode to the same lines, and an item that is printed must decode to
//! itself. Bytes that begin an HTTP request belong to the target `feed_http`.

use fanfare::feed::protocol::draft::Draft;
use fanfare::feed::protocol::item::Item;

use super::feed::{self, check_payload, print_command, print_draft, read_line};

/// Runs the target on an input: the bytes of a feeder.
pub fn attack(bytes: &[u8]) {
    if bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        return;
    }
    let mut number = 0;
    for decoded in feed::decode(bytes) {
        let line = match decoded.item {
            Item::Command { line, command, .. } => {
                check_command(&command);
                line
            }
            Item::Publish { line, draft, .. } => {
                check_payload(&draft.payload);
                check_labels(&draft);
                let printed = print_draft(&draft);
                match read_line(&printed) {
                    Item::Publish { draft: again, .. } => assert_eq!(again, draft, "{printed}"),
                    other => panic!("{printed} is {other:?}"),
                }
                line
            }
            Item::Refuse { line, refusal } => {
                assert!(!refusal.code().is_empty());
                assert!(refusal.to_string().len() < 300, "{refusal}");
                line
            }
            Item::Continue | Item::Request(_) => panic!("not a line: {bytes:?}"),
        };
        assert!(line > number, "line {line} after {number}");
        number = line;
    }
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(number <= lines as u64, "line {number} of {lines}");
}

/// Checks that reserved event and channel names, patterns as channels and empty keys are refused.
fn check_labels(draft: &Draft) {
    assert_ne!(draft.key.as_deref(), Some(""));
    assert_ne!(draft.dedupe.as_deref(), Some(""));
    assert!(draft.ttl.is_none_or(|ttl| !ttl.is_zero()));
    let event = draft.event.as_deref().unwrap_or_default();
    assert!(!event.trim().starts_with("fanfare."), "{event:?}");
    for channel in draft.channels.as_slice() {
        assert!(!channel.as_str().starts_with("fanfare:"), "{channel}");
        assert!(!channel.as_str().contains('*'), "{channel}");
    }
}

fn check_command(command: &fanfare::feed::protocol::command::Command) {
    let printed = print_command(command);
    match read_line(&printed) {
        Item::Command { command: again, .. } => assert_eq!(*again, *command, "{printed}"),
        other => panic!("{printed} is {other:?}"),
    }
}
