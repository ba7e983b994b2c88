//! Publications as elements of a JSON array, for responses to polls.
//!
//! Each element begins with a comma, so that a response consists of unchanged shared frames. The
//! first element of a response is sent without its comma.

use super::{Envelope, Frame, Payload, Publication, envelope};

/// The number of bytes that are omitted from the first element of a response: the comma.
pub const SEPARATOR_BYTES: usize = 1;

/// Encodes a publication. With the data envelope, the element is the payload as a JSON value: JSON
/// is unchanged, text becomes a string, and bytes become a base64 string.
#[must_use]
pub fn encode(publication: &Publication, envelope: Envelope) -> Frame {
    let mut element = Vec::with_capacity(publication.payload.len() + 128);
    element.push(b',');
    match (envelope, &publication.payload) {
        (Envelope::Data, Payload::Bytes(bytes)) => {
            element.push(b'"');
            envelope::push_base64(bytes, &mut element);
            element.push(b'"');
        }
        (Envelope::Data, Payload::Json(json)) => element.extend_from_slice(json.as_bytes()),
        (Envelope::Data, Payload::Text(text)) => envelope::push_json_string(text, &mut element),
        (Envelope::Full | Envelope::Initial, _) => {
            envelope::push_full(publication, envelope == Envelope::Initial, &mut element);
        }
    }
    Frame::whole(element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChannelName, Cursor, Epoch, Sequence};
    use crate::time::Now;

    #[test]
    fn element_is_a_comma_and_a_json_value_for_every_payload() {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(2),
        };
        for (payload, data, full) in [
            (Payload::Json("[1]".into()), ",[1]", "\"data\":[1]"),
            (
                Payload::Text("a\"\n".into()),
                ",\"a\\\"\\n\"",
                "\"text\":\"a\\\"\\n\"",
            ),
            (
                Payload::Bytes(vec![0xff].into()),
                ",\"/w==\"",
                "\"base64\":\"/w==\"",
            ),
        ] {
            let channel = ChannelName::new("c").unwrap();
            let publication =
                Publication::new(id, channel, payload, Now(0), &std::sync::Arc::default());
            let text = |envelope| {
                let frame = encode(&publication, envelope);
                let kind = super::super::FrameKind::Poll(envelope);
                String::from_utf8(frame.wire(kind).to_vec()).unwrap()
            };
            assert_eq!(text(Envelope::Data), data);
            let expected = format!(",{{\"channel\":\"c\",\"id\":\"000000000001-2\",{full}}}");
            assert_eq!(text(Envelope::Full), expected);
            let marked = expected.replace(full, &format!("\"initial\":true,{full}"));
            assert_eq!(text(Envelope::Initial), marked);
        }
    }
}
