//! Events and bytes in one input: what comes before the first NUL decides what happens between the
//! bytes behind it. Without a NUL there are bytes only.
//!
//! A deciding byte is an event in its lower half and an amount in its upper, so that letters and
//! digits will do: `1` is event 1 with 8 bytes, `A` the same with 16, `a` with 64.

/// One deciding byte.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What happens, below 16.
    pub event: u8,
    /// How many bytes come before it, a power of two.
    pub amount: usize,
}

/// An input taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Script<'b> {
    /// What happens meanwhile.
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

    /// What happens, in order.
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
