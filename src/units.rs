//! Values with units, as operators write them: durations (`1h30m`) and sizes (`16KiB`).

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

/// Longest duration accepted: a hundred years. Far from where adding one to a clock would overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// A text that is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is numbers with units, such as 250ms, 10s, 1h30m or 1d12h, from whole milliseconds to 36500d")]
pub struct InvalidDuration;

/// Reads `250ms`, `10s`, `1h30m` or `1d12h`, and whatever else is a duration in jiff's [friendly format] and has whole
/// milliseconds. A day has 24 hours, and a week seven days.
///
/// A number without a unit is refused: nobody should have to remember which unit was meant.
///
/// [friendly format]: jiff::fmt::friendly
///
/// # Errors
/// [`InvalidDuration`] says the accepted form.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    static PARSER: SpanParser = SpanParser::new();
    // Months and years have no length of their own, and what is negative is no duration.
    let duration = PARSER.parse_span(text).and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let duration = duration.ok().and_then(|duration| Duration::try_from(duration).ok());
    let is_whole = |duration: &Duration| duration.subsec_nanos().is_multiple_of(1_000_000);
    duration.filter(|duration| *duration <= MAX_DURATION && is_whole(duration)).ok_or(InvalidDuration)
}

/// Writes a duration so that [`parse_duration`] reads it back. Fractions of a millisecond are dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut text, mut rest) = (String::new(), duration.as_millis());
    for (unit, scale) in UNITS {
        if rest >= scale {
            text.push_str(&format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
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
    fn durations_are_numbers_with_units() {
        let seconds = |text: &str| parse_duration(text).map(|duration| duration.as_secs_f64());
        for (text, expected) in [
            ("250ms", 0.25),
            ("0s", 0.0),
            ("5m", 300.0),
            ("1h30m", 5_400.0),
            ("1d12h", 129_600.0),
            ("2w", 1_209_600.0),
            ("1.5h", 5_400.0),
            ("1 hour 30 minutes", 5_400.0),
            ("36500d", MAX_DURATION.as_secs_f64()),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let forms =
            ["", "10", "s", "-1s", "1s ago", "1h1d", "1d1d", "1.5d", "1mo", "1y", "PT1H", "1us", "1.5ms", "١s", "1é"];
        for text in forms.into_iter().chain(["36501d", "18446744073709551615s", "99999999999999999999ms"]) {
            assert_eq!(parse_duration(text), Err(InvalidDuration), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_with_the_largest_units() {
        let written = |text: &str| parse_duration(text).map(format_duration);
        for (text, expected) in
            [("90s", "1m30s"), ("120s", "2m"), ("36h", "1d12h"), ("1500ms", "1s500ms"), ("0d", "0s")]
        {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
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
            prop_assert!(parse_duration(&text).is_ok_and(|duration| duration <= MAX_DURATION) || parse_duration(&text).is_err());
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
