//! Times for people: how long ago, and when.

use jiff::Timestamp;

/// `3 h ago (2026-11-22 10:04:05Z)`.
pub(super) fn full(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", relative(at, now), at.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// `3 h ago (2026-11-22)`: narrow enough for two of them in a table's row.
pub(super) fn short(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", relative(at, now), at.strftime("%Y-%m-%d"))
}

/// `3 h ago`, `in 30 d`, `now`. In whole units, rounded down: the greatest unit of which at least two have passed, or
/// one hour, one minute.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let seconds = at.as_second() - now.as_second(); // both within ±10,000 years
    let text = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        passed if passed < MINUTE => format!("{passed} s"),
        passed if passed < HOUR => format!("{} min", passed / MINUTE),
        passed if passed < 2 * DAY => format!("{} h", passed / HOUR),
        passed if passed < 2 * YEAR => format!("{} d", passed / DAY),
        passed => format!("{} y", passed / YEAR),
    };
    if seconds < 0 { format!("{text} ago") } else { format!("in {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let now: Timestamp = "2026-11-22T13:04:06Z".parse().expect("a time");
        let printed = |seconds: i64| relative(Timestamp::from_second(now.as_second() + seconds).expect("a time"), now);
        for (seconds, text) in [
            (0, "now"),
            (-1, "1 s ago"),
            (-59, "59 s ago"),
            (-60, "1 min ago"),
            (-3_599, "59 min ago"),
            (-3_600, "1 h ago"),
            (-172_799, "47 h ago"),
            (-172_800, "2 d ago"),
            (30 * 86_400, "in 30 d"),
            (729 * 86_400, "in 729 d"),
            (730 * 86_400, "in 2 y"),
        ] {
            assert_eq!(printed(seconds), text);
        }
    }

    #[test]
    fn the_absolute_time_follows_in_brackets() {
        let (at, now) = ("2026-11-22T10:04:05.9Z", "2026-11-22T13:04:06Z");
        let (at, now) = (at.parse().expect("a time"), now.parse().expect("a time"));
        assert_eq!(full(at, now), "3 h ago (2026-11-22 10:04:05Z)");
        assert_eq!(short(at, now), "3 h ago (2026-11-22)");
        assert!(full(Timestamp::MAX, Timestamp::MIN).starts_with("in 2001"));
    }
}
