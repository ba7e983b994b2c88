//! Ways to cut an input into pieces. The bytes decide the cuts, so that a finding is one file.

use fastrand::Rng;

/// Longer inputs are not cut into single bytes, since many parsers start again with each piece.
const SINGLE_BYTES_MAX: usize = 200;
/// Inputs up to this length are tried with every cut in two.
const EVERY_CUT_BYTES_MAX: usize = 40;
/// Cuts in two that are tried with longer inputs.
const CUTS: usize = 3;

/// A random generator whose seed depends on the bytes alone.
pub fn chance(bytes: &[u8]) -> Rng {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Rng::with_seed(hash)
}

/// The input cut in several ways.
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
