//! Inputs that contain events and bytes. The bytes before the first NUL determine the events
//! between the bytes after it. Without a NUL there are no events.
//!
//! Each byte before the NUL is one event. The low half of the byte is the number of the event. The
//! high half is an exponent of two: the number of bytes before the event. For example, `1` (0x31)
//! is event 1 after 8 bytes, `A` (0x41) is event 1 after 16, and `a` (0x61) is event 1 after 64.

/// An event of the script and its place among the bytes, decoded from one byte.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The number of the event, below 16.
    pub event: u8,
    /// The number of bytes before the event, a power of two.
    pub amount: usize,
}

/// An input with its events separated from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Script<'b> {
    /// The bytes that determine the events.
    pub decisions: &'b [u8],
    /// The bytes that the peer sends.
    pub stream: &'b [u8],
}

impl<'b> Script<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        match bytes.iter().position(|byte| *byte == 0) {
            Some(end) => Self {
                decisions: &bytes[..end],
                stream: &bytes[end + 1..],
            },
            None => Self {
                decisions: &[],
                stream: bytes,
            },
        }
    }

    /// Returns the events in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + use<'b> {
        self.decisions.iter().map(|byte| Step {
            event: byte & 0x0f,
            amount: 1 << (byte >> 4),
        })
    }

    /// Returns a number below `choices`, which is the same during the whole run: it depends only on
    /// the number of bytes before the NUL.
    pub fn choice(&self, choices: usize) -> usize {
        self.decisions.len() % choices
    }
}
