// SPDX-License-Identifier: GPL-2.0-only

//! CRC-32C (Castagnoli) of small blocks: packet headers and metadata blocks.
//!
//! Payloads are summed by the kernel's hardware-backed routine, which computes the same function.

const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-32C of `bytes`, with the usual inversion at start and end (RFC 3720, appendix B.4).
pub fn crc32c(bytes: &[u8]) -> u32 {
    !extend(!0, bytes)
}

/// Feeds `bytes` into a running, not yet inverted sum: `!extend(extend(!0, a), b)` is the sum of `a` then `b`.
pub fn extend(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |crc, &byte| {
        // The index is masked to eight bits, the length of the table.
        (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_rfc_3720_come_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_sum_in_two_parts_equals_the_sum_in_one() {
        assert_eq!(!extend(extend(!0, b"1234"), b"56789"), crc32c(b"123456789"));
    }
}
