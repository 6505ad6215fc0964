//! Moments, for people: how long ago, with the moment itself for those who want to know.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// A moment as it is from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct When {
    pub(super) at: Timestamp,
    now: Timestamp,
}

impl When {
    /// As of now.
    pub(super) const fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { at, now }
    }

    /// For programs: RFC 3339.
    pub(super) fn machine(&self) -> String {
        Timestamp::from_second(self.at.as_second()).unwrap_or(self.at).to_string()
    }

    /// In full: `2026-11-27 00:20:11 UTC`.
    pub(super) fn full(&self) -> String {
        self.machine().replace('T', " ").replace('Z', " UTC")
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apart = self.at.duration_since(self.now);
        let length = apart.unsigned_abs();
        match (apart.is_negative() || apart.is_zero(), length.as_secs()) {
            (_, 0..5) => f.write_str("just now"),
            (true, _) => write!(f, "{} ago", about(length)),
            (false, _) => write!(f, "in {}", about(length)),
        }
    }
}

/// A length in its largest unit.
pub(super) fn about(length: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = length.as_secs();
    let (count, unit) = match seconds {
        0..MINUTE => (seconds, "second"),
        MINUTE..HOUR => (nearest(seconds, MINUTE), "minute"),
        HOUR..DAY => (nearest(seconds, HOUR), "hour"),
        _ if seconds < 60 * DAY => (nearest(seconds, DAY), "day"),
        _ if seconds < 730 * DAY => (nearest(seconds, 30 * DAY), "month"),
        _ => (seconds / (365 * DAY), "year"),
    };
    counted(count, unit)
}

/// What was made for 30 days is over in 30 days, a second later too.
const fn nearest(seconds: u64, unit: u64) -> u64 {
    (seconds + unit / 2) / unit
}

/// `1 token`, `2 tokens`, `1,204 tokens`.
pub(super) fn counted(count: u64, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {what}{end}", grouped(count))
}

/// With a comma after each three digits.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_from_now() {
        let at = |second: i64| Timestamp::from_second(second).expect("a moment");
        let told = |second: i64| When::new(at(1_000_000_000 + second), at(1_000_000_000)).to_string();
        assert_eq!(told(0), "just now");
        assert_eq!(told(-59), "59 seconds ago");
        assert_eq!(told(-3600), "1 hour ago");
        assert_eq!(told(86_400 * 29 + 5), "in 29 days");
        assert_eq!(told(86_400 * 30 - 1), "in 30 days");
        assert_eq!(told(86_400 * 90 - 1), "in 3 months");
        assert_eq!(told(-86_400 * 800), "2 years ago");
        let when = When::new(at(1_000_000_000), at(0));
        assert_eq!(
            (when.machine().as_str(), when.full().as_str()),
            ("2001-09-09T01:46:40Z", "2001-09-09 01:46:40 UTC")
        );
    }

    #[test]
    fn counts_are_easy_to_read() {
        assert_eq!(counted(1, "token"), "1 token");
        assert_eq!(counted(0, "agent"), "0 agents");
        assert_eq!(counted(1_204_567, "agent"), "1,204,567 agents");
    }
}
