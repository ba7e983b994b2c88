//! Events and bytes in one input: what comes before the first NUL decides what happens between the
//! bytes after it. Without a NUL there are only bytes.
//!
//! Of each deciding byte the low half is an event and the high half an amount. So letters and
//! digits do: `1` is event 1 with 8 bytes, `A` the same with 16, `a` with 64.

/// One deciding byte.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The event, below 16.
    pub event: u8,
    /// How many bytes come before it, a power of two.
    pub amount: usize,
}

/// An input with its events separated from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Script<'b> {
    /// The deciding bytes.
    pub decisions: &'b [u8],
    /// What the peer sends.
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

    /// The events in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + use<'b> {
        self.decisions.iter().map(|byte| Step {
            event: byte & 0x0f,
            amount: 1 << (byte >> 4),
        })
    }

    /// A choice that holds for the whole input.
    pub fn choice(&self, choices: usize) -> usize {
        self.decisions.len() % choices
    }
}
