//! A moment that another run of the program understands: the time since the machine was started.

use crate::clock::{self, Instant};

/// When something happened, and after which start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which start of the machine.
    pub(super) boot: [u8; 16],
    pub(super) at: Instant,
}

impl Moment {
    /// Now; `None` where the kernel does not say.
    pub(super) fn now() -> Option<Self> {
        let boot = clock::boot();
        (boot != 0).then(|| Self { boot: boot.to_be_bytes(), at: Instant::now() })
    }

    /// An earlier moment, as this run knows it; `None` if it was before another start of the machine, or is not earlier.
    pub(super) fn recall(self, earlier: Self) -> Option<Instant> {
        (self.boot == earlier.boot && earlier.at <= self.at).then_some(earlier.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_told_apart_within_one_start_of_the_machine_only() {
        let now = Moment::now().expect("Linux says");
        let earlier = Moment { at: now.at.checked_sub(Duration::from_secs(2)).expect("up for longer"), ..now };
        assert_eq!(now.recall(earlier), Some(earlier.at));
        assert_eq!(earlier.recall(now), None, "in the future");
        assert_eq!(now.recall(Moment { boot: [7; 16], ..earlier }), None);
    }
}
