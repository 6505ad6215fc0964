//! Moments as programs write them (RFC 3339).

use jiff::Timestamp;
use jiff::fmt::temporal::{Pieces, PiecesOffset};

/// A text that is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a time such as 2030-01-31T00:00:00Z")]
pub(crate) struct InvalidMoment;

/// Reads one. What is later than any moment there is, such as 9999-12-31T23:59:59Z, by which programs mean "never", is the last.
///
/// # Errors
/// For a text without a date, a time, or what the time is from UTC.
pub(crate) fn parse(text: &str) -> Result<Timestamp, InvalidMoment> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let pieces = Pieces::parse(text).map_err(|_| InvalidMoment)?;
    let is_one =
        pieces.time().is_some() && matches!(pieces.offset(), Some(PiecesOffset::Zulu | PiecesOffset::Numeric(_)));
    let is_last = pieces.date().year() == 9999 && pieces.date().month() == 12;
    if is_one && is_last { Ok(Timestamp::MAX) } else { Err(InvalidMoment) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_later_than_any_moment_is_the_last() {
        assert_eq!(parse("2030-01-31T00:00:00+01:00"), Ok("2030-01-30T23:00:00Z".parse().expect("a moment")));
        for text in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999+00:00", "9999-12-31T00:00:00-12:00"] {
            assert_eq!(parse(text), Ok(Timestamp::MAX), "{text}");
        }
        for text in
            ["", "tomorrow", "9999-12-31", "9999-12-31T23:59:59", "9999-12-32T00:00:00Z", "-009999-01-01T00:00:00Z"]
        {
            assert_eq!(parse(text), Err(InvalidMoment), "{text}");
        }
    }
}
