// SPDX-License-Identifier: GPL-2.0-only

//! CRC-32C (Castagnoli) of small blocks: packet headers and metadata blocks.
//!
//! Payloads are summed by the kernel's hardware-backed routine, which computes the same function.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bytes that are summed at once.
const STRIDE: usize = 8;

/// What a byte does to the sum, by the number of bytes that follow it within a stride.
static TABLES: [[u32; 256]; STRIDE] = {
    let mut tables = [[0; 256]; STRIDE];
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
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut follow = 1;
    while follow < STRIDE {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[follow - 1][byte];
            tables[follow][byte] = (crc >> 8) ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        follow += 1;
    }
    tables
};

/// CRC-32C of `bytes`, with the usual inversion at start and end (RFC 3720, appendix B.4).
pub fn crc32c(bytes: &[u8]) -> u32 {
    !extend(!0, bytes)
}

/// Feeds `bytes` into a running, not yet inverted sum: `!extend(extend(!0, a), b)` is the sum of `a` then `b`.
pub fn extend(state: u32, bytes: &[u8]) -> u32 {
    let strides = bytes.chunks_exact(STRIDE);
    let rest = strides.remainder();
    let state = strides.fold(state, |crc, stride| {
        // The sum so far mixes with the first half.
        let sum = crc.to_le_bytes().into_iter().chain([0; STRIDE - 4]);
        let mixed = stride.iter().zip(sum).map(|(byte, sum)| byte ^ sum);
        TABLES
            .iter()
            .rev()
            .zip(mixed)
            .fold(0, |crc, (table, byte)| crc ^ table[usize::from(byte)])
    });
    rest.iter().fold(state, |crc, &byte| {
        // The index is masked to eight bits, the length of the table.
        (crc >> 8) ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize]
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
    fn every_byte_counts_whatever_its_place_and_the_length() {
        let bytes: Vec<u8> = (0..40).map(|at| at * 5 + 3).collect();
        let one_by_one = |bytes: &[u8]| {
            !bytes
                .iter()
                .fold(!0, |crc, byte| extend(crc, core::slice::from_ref(byte)))
        };
        for len in 0..bytes.len() {
            assert_eq!(crc32c(&bytes[..len]), one_by_one(&bytes[..len]), "{len}");
        }
    }

    #[test]
    fn a_sum_in_two_parts_equals_the_sum_in_one() {
        assert_eq!(!extend(extend(!0, b"1234"), b"56789"), crc32c(b"123456789"));
    }
}
