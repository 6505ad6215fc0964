//! Values with units, as operators write them: durations (`10s`) and sizes (`16KiB`).

use std::time::Duration;

/// Longest duration accepted: a hundred years. Far from where adding one to a clock would overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// A text that is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a number with a unit.
    #[error("a duration is a whole number and a unit: 500ms, 10s, 5m, 24h or 30d")]
    Form,
    /// Longer than [`MAX_DURATION`].
    #[error("a duration is at most 36500d")]
    TooLong,
}

/// Milliseconds in each unit of time, the longest first.
const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads `500ms`, `10s`, `5m`, `24h` or `30d`.
///
/// A number without a unit is refused: nobody should have to remember which unit was meant.
///
/// # Errors
/// [`InvalidDuration`] says the accepted form.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let (number, unit) = split_unit(text).ok_or(InvalidDuration::Form)?;
    let (_, scale) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(InvalidDuration::Form)?;
    // Only digits are left, so a number that does not parse is too large.
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    let duration = milliseconds.map(Duration::from_millis).ok_or(InvalidDuration::TooLong)?;
    if duration <= MAX_DURATION { Ok(duration) } else { Err(InvalidDuration::TooLong) }
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest unit that divides it. Fractions of a
/// millisecond are dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let fits = |scale: u64| milliseconds.is_multiple_of(u128::from(scale));
    match TIME_UNITS.into_iter().find(|(_, scale)| fits(*scale)) {
        Some((unit, scale)) if milliseconds > 0 => format!("{}{unit}", milliseconds / u128::from(scale)),
        _ => "0s".to_owned(),
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// Not a number with a unit.
    #[error(
        "a size is a number of bytes or a whole number and a unit: 16KiB, 10MiB, 1GiB (1024) or 1kB, 1MB, 1GB (1000)"
    )]
    Form,
    /// More bytes than can be counted.
    #[error("a size is at most 16777215TiB")]
    TooLarge,
}

/// Bytes in each unit of size. The binary ones first, the largest before the smaller: the order for writing.
const SIZE_UNITS: [(&str, u64); 11] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
    ("", 1),
];

/// Reads a number of bytes: `65536`, `16KiB`, `10MiB`, `1MB`.
///
/// # Errors
/// [`InvalidSize`] says the accepted form.
pub fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    let (number, unit) = split_unit(text).ok_or(InvalidSize::Form)?;
    let (_, scale) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(InvalidSize::Form)?;
    let number = number.parse::<u64>().map_err(|_| InvalidSize::TooLarge)?;
    number.checked_mul(scale).ok_or(InvalidSize::TooLarge)
}

/// Writes a size so that [`parse_size`] reads it back, in the largest unit of 1024 that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    match SIZE_UNITS[..4].iter().find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// Leading digits, of which there is at least one, and the rest.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| text.split_at(digits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_duration("36500d"), Ok(MAX_DURATION));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "10", "s", "10 s", " 10s", "10s ", "-1s", "+1s", "1.5h", "10S", "1h30m", "1w", "١s"] {
            assert_eq!(parse_duration(text), Err(InvalidDuration::Form), "{text:?}");
        }
        for text in ["36501d", "18446744073709551615s", "99999999999999999999ms"] {
            assert_eq!(parse_duration(text), Err(InvalidDuration::TooLong), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        let written = |text: &str| parse_duration(text).map(format_duration);
        assert_eq!(written("90s").as_deref(), Ok("90s"));
        assert_eq!(written("120s").as_deref(), Ok("2m"));
        assert_eq!(written("48h").as_deref(), Ok("2d"));
        assert_eq!(written("0d").as_deref(), Ok("0s"));
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("16KiB"), Ok(16_384));
        assert_eq!(parse_size("1kB"), Ok(1000));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert_eq!(parse_size("7B"), Ok(7));
        for text in ["", "16k", "16K", "16kib", "16 KiB", "-1", "1e6", "0x10", "KiB", "1.5MiB"] {
            assert_eq!(parse_size(text), Err(InvalidSize::Form), "{text:?}");
        }
        assert_eq!(parse_size("16777215TiB").map(|size| size >> 40), Ok(16_777_215));
        assert_eq!(parse_size("16777216TiB"), Err(InvalidSize::TooLarge));
        assert_eq!(parse_size("99999999999999999999"), Err(InvalidSize::TooLarge));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*") {
            prop_assert!(parse_duration(&text).is_err() || split_unit(&text).is_some());
            prop_assert!(parse_size(&text).is_err() || split_unit(&text).is_some());
        }

        #[test]
        fn a_written_duration_is_read_back(milliseconds in 0..=36_500 * 86_400_000_u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_is_read_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
