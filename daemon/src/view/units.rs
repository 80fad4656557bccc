// SPDX-License-Identifier: GPL-2.0-only

//! Numbers as people read them.

use std::time::Duration;
use weft_uapi::limits::SECTOR_BYTES;

/// Sectors as bytes.
pub fn sector_bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(u64::from(SECTOR_BYTES))
}

/// Bytes with a binary unit and three digits or so: `512 B`, `1.5 MiB`, `4.0 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // Also the last value that rounds up to 1024.0 goes into the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Bytes as they are typed: a number, perhaps with K, M, G or T for a binary unit.
///
/// # Errors
/// What is wrong with it.
pub fn bytes_of(typed: &str) -> Result<u64, String> {
    let (digits, shift) = match typed.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let place = "KMGT".find(unit.to_ascii_uppercase());
            let place = place.ok_or_else(|| format!("'{unit}' is no unit: K, M, G or T"))?;
            (&typed[..at], 10 * (place as u32 + 1))
        }
        _ => (typed, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{typed}' is no number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{typed}' is too large"))
}

/// A span of time: `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_the_unit_that_fits() {
        let sizes = [0, 1023, 1024, 1536, 1_048_575, 1 << 32, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "4.0 GiB", "16.0 EiB"]
        );
    }

    #[test]
    fn bytes_are_typed_with_or_without_a_unit() {
        for (typed, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("3G", 3 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(bytes_of(typed), Ok(bytes));
        }
        for nonsense in ["", "K", "-1", "1.5M", "1X", "4 K", "99999999999T"] {
            assert!(bytes_of(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn spans_carry_two_units_at_most() {
        let spans = [0, 59, 60, 3599, 3600, 90_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(
            spans,
            [
                "0 s",
                "59 s",
                "1 min 0 s",
                "59 min 59 s",
                "1 h 0 min",
                "1 d 1 h"
            ]
        );
    }
}
