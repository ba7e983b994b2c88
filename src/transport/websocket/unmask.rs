//! Unmasks a client's payload (RFC 6455, 5.3).
//!
//! Bytes are unmasked in place. Because a payload may arrive in parts, unmasking can start at any
//! offset of the key. Eight bytes are combined by XOR at a time, and the compiler vectorizes this
//! loop. Unmasking does not allocate and does not depend on alignment. `receive` is the only
//! caller.

/// Unmasks `bytes`, which begin at `offset` in the frame's payload.
pub fn unmask(bytes: &mut [u8], mut masking_key: [u8; 4], offset: usize) {
    masking_key.rotate_left(offset % 4);
    let [a, b, c, d] = masking_key;
    let word_bytes = [a, b, c, d, a, b, c, d];
    let word = u64::from_ne_bytes(word_bytes);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(word_bytes) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmask_gives_the_same_for_every_length_and_every_cut() {
        let key = [0x12, 0x34, 0xab, 0xcd];
        for length in 0..40_usize {
            let masked: Vec<u8> = (0..=255)
                .map(|at: u8| at.wrapping_mul(7))
                .take(length)
                .collect();
            let expected: Vec<u8> = masked
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ key[at % 4])
                .collect();
            for cut in 0..=length {
                let mut bytes = masked.clone();
                let (first, second) = bytes.split_at_mut(cut);
                unmask(first, key, 0);
                unmask(second, key, cut);
                assert_eq!(bytes, expected, "length {length} cut {cut}");
            }
        }
    }
}
