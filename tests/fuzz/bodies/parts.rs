//! Ways to cut an input into pieces. The bytes determine the cuts, so one file reproduces a
//! finding.

use fastrand::Rng;

/// The maximum length of an input that is cut into single bytes. Many parsers restart for each
/// piece, so longer inputs would take too long.
const SINGLE_BYTES_MAX: usize = 200;
/// The maximum length of an input that is cut in two at every position.
const EVERY_CUT_BYTES_MAX: usize = 40;
/// The number of random positions at which a longer input is cut in two.
const CUTS: usize = 3;

/// Returns a random generator whose seed depends only on the bytes.
pub fn chance(bytes: &[u8]) -> Rng {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Rng::with_seed(hash)
}

/// Returns the pieces of the input for several ways to cut it.
pub fn ways_to_cut(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut random = chance(bytes);
    let mut ways = Vec::new();
    if bytes.len() <= SINGLE_BYTES_MAX {
        ways.push(bytes.chunks(1).collect());
    }
    if bytes.len() <= EVERY_CUT_BYTES_MAX {
        ways.extend((0..=bytes.len()).map(|at| halves(bytes, at)));
    } else {
        ways.extend((0..CUTS).map(|_| halves(bytes, random.usize(0..=bytes.len()))));
    }
    for longest in [7, 100] {
        ways.push(pieces(bytes, longest, &mut random));
    }
    ways
}

fn halves(bytes: &[u8], at: usize) -> Vec<&[u8]> {
    let (first, second) = bytes.split_at(at);
    vec![first, second]
}

fn pieces<'b>(mut bytes: &'b [u8], longest: usize, random: &mut Rng) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.usize(1..=longest).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
