//! Identifiers of conns, channels and positions in the node's sequence of publications.
//!
//! All identifiers are small values that can be copied or shared, and compared. Input from a peer
//! is parsed into one of these types or refused, so the rest of the crate never handles an
//! unchecked name. Every other module may use this module; this module uses no other.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use arcstr::ArcStr;

use crate::certain;

/// The maximum length of a channel name, in bytes.
pub const CHANNEL_NAME_BYTES_MAX: usize = 200;

/// The maximum length of an id on the wire, in bytes. An id is an epoch, a hyphen and a sequence
/// number.
pub const CURSOR_BYTES_MAX: usize = 40;

/// Identifies one conn of one worker while it is open.
///
/// A slot is reused as soon as its conn has closed. A generation is reused only after four billion
/// other conns. So a late readiness event or timer of a closed conn is recognised as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The index into the worker's slab.
    pub slot: u32,
    /// The number that distinguishes the conns that have used the slot.
    pub generation: u32,
}

/// The number of generations. The largest `u32` is not a generation, because the poll tokens of
/// listeners use it.
const GENERATIONS: u64 = u32::MAX as u64;

impl ConnId {
    /// Makes the id of a conn. The serial is the number of conns that the worker accepted before
    /// this conn.
    #[must_use]
    pub fn new(slot: u32, serial: u64) -> Self {
        Self {
            slot,
            generation: (serial % GENERATIONS) as u32,
        }
    }

    /// Returns the conn's serial: the number of conns that the worker accepted before this one.
    /// `accepted` is the number of conns that the worker has accepted until now. The id contains
    /// only the generation, which is the serial modulo `GENERATIONS`. So the result is the highest
    /// serial below `accepted` that has this generation.
    ///
    /// If the worker accepts 4,294,967,295 (`GENERATIONS`) more conns while a conn is open, the
    /// result becomes larger than the true serial, and the conn's name changes. No other conn has
    /// the new name, because the slot is still in use and the next conn in the slot gets a larger
    /// serial.
    #[must_use]
    pub fn serial(self, accepted: u64) -> u64 {
        let newest = accepted.saturating_sub(1);
        newest - newest.saturating_sub(self.generation.into()) % GENERATIONS
    }

    /// Packs the id into the 64 bits of user data that epoll returns with an event.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.slot)
    }

    /// Unpacks an id that [`ConnId::to_bits`] packed.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// The length of a conn's name, in bytes.
pub const CONN_NAME_BYTES_MAX: usize = 40;

/// A random value that identifies one run of a node, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// Identifies a conn outside its worker. A client receives the name of its conn in the welcome
/// message, and a backend uses the name as an address. A name never identifies another conn, even
/// after a restart.
///
/// On the wire, a name is opaque. It has [`CONN_NAME_BYTES_MAX`] hexadecimal digits for the run
/// (16), the worker (4), the slot (8) and the serial (12). A worker that accepts a million
/// connections a second uses up its serials in nine years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnName {
    /// The run of the node in which the conn was opened.
    pub run: RunId,
    /// The worker's number.
    pub worker: u16,
    /// The index into the worker's slab.
    pub slot: u32,
    /// The number of conns that the worker accepted before this one.
    pub serial: u64,
}

/// The error for a text that is not a [`ConnName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a conn")]
pub struct ConnNameError;

impl fmt::Display for ConnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run: RunId(run),
            worker,
            slot,
            serial,
        } = self;
        write!(f, "{run:016x}{worker:04x}{slot:08x}{serial:012x}")
    }
}

impl FromStr for ConnName {
    type Err = ConnNameError;

    fn from_str(text: &str) -> Result<Self, ConnNameError> {
        // Only one spelling of each name is accepted, so that equal names have equal texts.
        let is_canonical = text.len() == CONN_NAME_BYTES_MAX && text.bytes().all(is_lower_hex);
        let digits = |range| {
            let digits = text.get(range).filter(|_| is_canonical);
            digits.ok_or(ConnNameError)
        };
        let parse =
            |range| u64::from_str_radix(digits(range)?, 16).map_err(|_not_hex| ConnNameError);
        Ok(Self {
            run: RunId(parse(0..16)?),
            worker: u16::try_from(parse(16..20)?).map_err(|_too_large| ConnNameError)?,
            slot: u32::try_from(parse(20..28)?).map_err(|_too_large| ConnNameError)?,
            serial: parse(28..40)?,
        })
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The prefix of the server's own channels.
const RESERVED_CHANNELS: &str = "fanfare:";

/// A channel's name: 1 to 200 bytes of UTF-8 without control characters, spaces or `*`.
///
/// Names that begin with `fanfare:` are reserved for the server. A `*` is allowed only in patterns.
/// Otherwise a client could subscribe to a channel named `prices:*`, from which it would never
/// receive anything. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(ArcStr);

// The size matters because the record of each channel contains a name.
const _: () = assert!(size_of::<ChannelName>() == 8);

/// The reason for which a text is not a channel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// The text has a control character or white space at this byte.
    #[error("a channel name has no control characters or spaces (byte {at})")]
    Character {
        /// The offset of the character, in bytes.
        at: usize,
    },
    /// The text is empty.
    #[error("a channel name has at least one byte")]
    Empty,
    /// The text begins with the reserved prefix `fanfare:`.
    #[error("channel names that begin with `{RESERVED_CHANNELS}` are reserved for the server")]
    Reserved,
    /// The text has more than [`CHANNEL_NAME_BYTES_MAX`] bytes.
    #[error("a channel name has at most {CHANNEL_NAME_BYTES_MAX} bytes, not {got}")]
    TooLong {
        /// The length of the text in bytes.
        got: usize,
    },
    /// The text has a `*` at this byte.
    #[error("a channel name has no `*` (byte {at}); only patterns have one, at their end")]
    Wildcard {
        /// The offset of the character, in bytes.
        at: usize,
    },
}

impl ChannelName {
    /// Checks a name from a client, a feeder or a user.
    ///
    /// # Errors
    /// Returns [`ChannelNameError::Reserved`], [`ChannelNameError::Wildcard`], or an error of
    /// [`ChannelName::with_reserved`].
    pub fn new(text: &str) -> Result<Self, ChannelNameError> {
        if text.starts_with(RESERVED_CHANNELS) {
            return Err(ChannelNameError::Reserved);
        }
        if let Some(at) = text.find('*') {
            return Err(ChannelNameError::Wildcard { at });
        }
        Self::with_reserved(text)
    }

    /// Checks a name that may be reserved or contain `*`. Such names are in patterns, and in
    /// journals that an earlier version wrote.
    ///
    /// # Errors
    /// Returns [`ChannelNameError::Empty`], [`ChannelNameError::TooLong`] for more than
    /// [`CHANNEL_NAME_BYTES_MAX`] bytes, or [`ChannelNameError::Character`] for the first control
    /// character or white space.
    pub fn with_reserved(text: &str) -> Result<Self, ChannelNameError> {
        if text.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if text.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(ChannelNameError::TooLong { got: text.len() });
        }
        match text
            .char_indices()
            .find(|(_, c)| c.is_control() || c.is_whitespace())
        {
            Some((at, _)) => Err(ChannelNameError::Character { at }),
            None => Ok(Self(ArcStr::from(text))),
        }
    }

    /// Returns the text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Identifies a period in which the sequence is continuous. Whenever continuity is lost, a new
/// epoch with a random value begins.
///
/// An epoch has 48 bits, shown as twelve hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// Makes an epoch from the lower 48 bits of a random number.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self(random & 0xffff_ffff_ffff)
    }

    /// Returns the epoch's 48 bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Formatted by hand, because every frame and response has an id and `{:012x}` is ten times
        // slower.
        let mut text = [0; 12];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            let value = (self.0 >> (4 * place)) & 0xf;
            let found = HEX_DIGITS.get(value as usize).copied();
            *digit = certain::some(found, "the value has four bits").unwrap_or(b'0');
        }
        let text = std::str::from_utf8(&text);
        debug_assert!(text.is_ok(), "hexadecimal digits are ASCII");
        f.write_str(text.unwrap_or_default())
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A publication's number in the node's sequence of publications. The first publication of an epoch
/// has number 1. The number 0 stands for the position before the first publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The position before the first publication.
    pub const ZERO: Self = Self(0);

    /// Returns the number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the number before this one.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// A position in the node's sequence, right after the publication with this id. One position
/// applies to all channels.
///
/// On the wire, a position is the opaque id `<epoch>-<sequence>`. The id has at most
/// [`CURSOR_BYTES_MAX`] bytes of ASCII and needs no escaping in a URL, a header or JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The epoch of the sequence number.
    pub epoch: Epoch,
    /// The number of the last publication before the position.
    pub sequence: Sequence,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)?;
        f.write_str("-")?;
        self.sequence.0.fmt(f)
    }
}

/// The error for a text that is not a [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, rest) = text.split_at_checked(12).ok_or(CursorError)?;
        let sequence = rest.strip_prefix('-').ok_or(CursorError)?;
        let is_canonical = epoch.bytes().all(is_lower_hex)
            && !sequence.is_empty()
            && sequence.bytes().all(|b| b.is_ascii_digit())
            && (sequence == "0" || !sequence.starts_with('0'));
        if !is_canonical {
            return Err(CursorError);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_not_hex| CursorError)?;
        let sequence = sequence.parse().map_err(|_too_large| CursorError)?;
        Ok(Self {
            epoch: Epoch::new(epoch),
            sequence: Sequence(sequence),
        })
    }
}

/// The position after which a subscriber asks for publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The subscriber asks for the next publication and all later ones.
    Now,
    /// The subscriber asks for all publications after this position that are in the log.
    After(Cursor),
    /// The subscriber asks for all publications of the channel that are in the log.
    First,
    /// The subscriber asks for this many of the channel's newest publications in the log.
    Last(NonZeroU32),
    /// The client's text is not a position. The client receives a gap, and then all later
    /// publications.
    Unrecognised,
}

/// The value of `since` that asks for all publications of a channel that are in the log.
pub const SINCE_FIRST: &str = "first";

impl Since {
    /// Parses a client's last id. An empty text is [`Since::Now`], because `EventSource` sends an
    /// empty text before it has received an id.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            return Self::Now;
        }
        text.parse().map_or(Self::Unrecognised, Self::After)
    }

    /// Returns the value for a client that requests the last publications of a channel. A request
    /// for zero publications is [`Since::Now`]. Returns `None` if the number exceeds 32 bits,
    /// because no log holds that many publications.
    #[must_use]
    pub fn last(publications: u64) -> Option<Self> {
        let publications = u32::try_from(publications).ok()?;
        Some(NonZeroU32::new(publications).map_or(Self::Now, Self::Last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_is_shown_as_twelve_hexadecimal_digits() {
        for bits in [0, 1, 0xf, 0x0123_4567_89ab, 0xffff_ffff_ffff] {
            assert_eq!(Epoch::new(bits).to_string(), format!("{bits:012x}"));
        }
    }

    #[test]
    fn conn_name_parses_only_its_own_text() {
        let name = ConnName {
            run: RunId(0x0123_4567_89ab_cdef),
            worker: 3,
            slot: 5,
            serial: 7,
        };
        let text = "0123456789abcdef000300000005000000000007";
        assert_eq!(name.to_string(), text);
        assert_eq!(text.parse(), Ok(name));
        let greatest = ConnName {
            run: RunId(u64::MAX),
            worker: u16::MAX,
            slot: u32::MAX,
            serial: (1 << 48) - 1,
        };
        assert_eq!(greatest.to_string(), "f".repeat(CONN_NAME_BYTES_MAX));
        assert_eq!(greatest.to_string().parse(), Ok(greatest));
        for text in [
            "",
            "3-5-7",
            "0123456789abcdef00030000000500000000007",
            "0123456789abcdef0003000000050000000000070",
            "0123456789ABCDEF000300000005000000000007",
            "+123456789abcdef000300000005000000000007",
            "0123456789abcd\u{e9}f000300000005000000000007",
        ] {
            assert_eq!(text.parse::<ConnName>(), Err(ConnNameError), "{text}");
        }
    }

    #[test]
    fn serial_is_recovered_after_generations_have_wrapped() {
        for serial in [0, 1, GENERATIONS - 1, GENERATIONS, 5 * GENERATIONS + 17] {
            let id = ConnId::new(3, serial);
            assert_ne!(id.generation, u32::MAX);
            for accepted in [1, 2, 1_000, GENERATIONS] {
                assert_eq!(id.serial(serial + accepted), serial, "{accepted} after");
            }
        }
    }

    #[test]
    fn serials_in_one_slot_never_repeat() {
        // The first conn of the slot stays open until the worker has accepted `2 * GENERATIONS`
        // more conns. Then the next conn in the slot has the same generation.
        let serial = 7;
        let next = serial + 2 * GENERATIONS;
        let (first, second) = (ConnId::new(3, serial), ConnId::new(3, next));
        assert_eq!(first, second);
        let accepted = [serial + 1, serial + GENERATIONS + 1, next];
        let serials = accepted.map(|accepted| first.serial(accepted));
        let later = serial + GENERATIONS;
        assert_eq!(serials, [serial, later, later]);
        assert_eq!(second.serial(next + 1), next);
    }

    #[test]
    fn conn_id_survives_packing() {
        let id = ConnId {
            slot: 7,
            generation: u32::MAX,
        };
        assert_eq!(ConnId::from_bits(id.to_bits()), id);
    }

    #[test]
    fn channel_name_has_1_to_200_bytes_without_spaces_or_control_characters() {
        assert_eq!(ChannelName::new(""), Err(ChannelNameError::Empty));
        assert_eq!(
            ChannelName::new("a b"),
            Err(ChannelNameError::Character { at: 1 })
        );
        assert_eq!(
            ChannelName::new("a\u{7}"),
            Err(ChannelNameError::Character { at: 1 })
        );
        assert_eq!(
            ChannelName::new("ab\u{a0}"),
            Err(ChannelNameError::Character { at: 2 })
        );
        let long = "x".repeat(CHANNEL_NAME_BYTES_MAX);
        assert!(ChannelName::new(&long).is_ok());
        assert_eq!(
            ChannelName::new(&(long + "x")),
            Err(ChannelNameError::TooLong { got: 201 })
        );
        assert!(ChannelName::new("чат:42").is_ok());
    }

    #[test]
    fn channel_name_with_a_star_is_accepted_from_a_journal_only() {
        for (text, at) in [("*", 0), ("prices:*", 7), ("a*b", 1), ("é*", 2)] {
            let refused = Err(ChannelNameError::Wildcard { at });
            assert_eq!(ChannelName::new(text), refused, "{text}");
            assert!(ChannelName::with_reserved(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn reserved_channel_name_is_refused_unless_allowed() {
        for text in ["fanfare:", "fanfare:stats"] {
            assert_eq!(ChannelName::new(text), Err(ChannelNameError::Reserved));
            assert!(ChannelName::with_reserved(text).is_ok());
        }
        for text in [
            "fanfare",
            "fanfare.stats",
            "Fanfare:stats",
            "x:fanfare:stats",
        ] {
            assert!(ChannelName::new(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn cursor_parses_its_own_text_which_is_short() {
        let cursor = Cursor {
            epoch: Epoch::new(u64::MAX),
            sequence: Sequence(u64::MAX),
        };
        let text = cursor.to_string();
        assert!(text.len() <= CURSOR_BYTES_MAX);
        assert_eq!(text.parse(), Ok(cursor));
    }

    #[test]
    fn cursor_refuses_every_other_spelling() {
        for text in [
            "",
            "-",
            "1-2",
            "00000000000A-1",
            "000000000001-",
            "000000000001-01",
            "000000000001-+1",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
        assert_eq!(
            "000000000001-99999999999999999999".parse::<Cursor>(),
            Err(CursorError)
        );
    }

    #[test]
    fn since_of_an_empty_text_is_now_and_of_a_malformed_one_unrecognised() {
        assert_eq!(Since::parse(""), Since::Now);
        assert_eq!(Since::parse("earlier"), Since::Unrecognised);
        // A client can send `since=first`, but `first` is never the id of a publication.
        assert_eq!(Since::parse("first"), Since::Unrecognised);
    }

    #[test]
    fn last_accepts_32_bits_and_zero_is_now() {
        assert_eq!(Since::last(0), Some(Since::Now));
        let most = NonZeroU32::MAX;
        assert_eq!(Since::last(u64::from(u32::MAX)), Some(Since::Last(most)));
        assert_eq!(Since::last(u64::from(u32::MAX) + 1), None);
    }
}
