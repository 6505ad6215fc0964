//! The waits between attempts.

use std::time::Duration;

use crate::random;

/// Waits that double from the first to the last, each between half and one and a half of itself, so that a fleet does
/// not come back as one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Backoff {
    /// How long to wait before this attempt, counted from 1.
    pub(crate) fn wait(self, attempt: u32) -> Duration {
        let wait = self.first.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(self.last);
        wait / 2 + jitter(wait)
    }
}

/// Some time up to this, another one each time.
pub(crate) fn jitter(most: Duration) -> Duration {
    let [.., low, high] = random::number().to_le_bytes();
    most.mul_f64(f64::from(u16::from_le_bytes([low, high])) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_last_and_stay_within_half_of_it() {
        let backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_millis(600) };
        for (attempt, wait) in [(1, 50), (2, 100), (4, 400), (5, 600), (u32::MAX, 600)] {
            let wait = Duration::from_millis(wait);
            assert!((wait / 2..=wait * 3 / 2).contains(&backoff.wait(attempt)), "{attempt}");
        }
    }
}
