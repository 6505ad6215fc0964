//! A moment that another run of the program understands: the time since the machine was started.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// When something happened, counted by a clock that also goes on while the machine sleeps, and that nobody can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which start of the machine.
    pub(super) boot: [u8; 16],
    pub(super) since_boot: Duration,
}

impl Moment {
    /// Now; `None` where the kernel does not say.
    pub(super) fn now() -> Option<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let boot = u128::from_str_radix(&id.trim().replace('-', ""), 16).ok()?.to_be_bytes();
        let time = clock_gettime(ClockId::Boottime);
        let since_boot = Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
        Some(Self { boot, since_boot })
    }

    /// The moment this long before.
    pub(super) fn before(self, age: Duration) -> Option<Self> {
        Some(Self { since_boot: self.since_boot.checked_sub(age)?, ..self })
    }

    /// How long ago an earlier moment was; `None` if it was before another start of the machine, or is not earlier.
    pub(super) fn since(self, earlier: Self) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| self.since_boot.checked_sub(earlier.since_boot)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_apart_within_one_start_of_the_machine_only() {
        let now = Moment::now().expect("Linux says");
        let earlier = now.before(Duration::from_secs(2)).expect("up for longer");
        assert_eq!(now.since(earlier), Some(Duration::from_secs(2)));
        assert_eq!(earlier.since(now), None, "in the future");
        assert_eq!(now.since(Moment { boot: [7; 16], ..earlier }), None);
        assert_eq!(now.before(now.since_boot + Duration::from_nanos(1)), None);
    }
}
