//! Bounds how often something is logged, and counts what is left out.

use std::time::Duration;

use crate::clock::Instant;
use crate::lock::Mutex;

/// Lines of one kind within a [`PERIOD`].
const LINES: u32 = 5;

/// See [`LINES`].
const PERIOD: Duration = Duration::from_secs(10);

/// Lets a few lines of one kind through in every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Sampler {
    /// `Some`: log it, and how many before it were left out. `None`: leave it out.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    /// The same, at this time.
    pub(crate) fn admit_at(&self, now: Instant) -> Option<u64> {
        // Nothing under it can panic in between.
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines == LINES {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_pass_and_the_rest_are_counted() {
        let (sampler, start) = (Sampler::default(), Instant::now());
        let passed = (0..100).filter_map(|_| sampler.admit_at(start)).count();
        assert_eq!(passed, LINES as usize);
        assert_eq!(sampler.admit_at(start + PERIOD), Some(95));
        assert_eq!(sampler.admit_at(start + PERIOD), Some(0));
    }
}
