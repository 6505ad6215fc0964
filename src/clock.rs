//! Time that goes on while the machine is suspended, and that nobody can set: CLOCK_BOOTTIME.
//!
//! Freshness is measured by it. By the clock of [`std::time::Instant`], which stops meanwhile, a laptop that slept
//! for a night would wake up with a replica that counts as fresh.

use std::io;
use std::ops::{Add, Sub};
use std::os::fd::OwnedFd;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::descriptor;

/// A moment since the machine was started; as [`std::time::Instant`], by this clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        // The kernel's are neither negative nor out of range.
        let (seconds, nanoseconds) = (time.tv_sec.try_into(), time.tv_nsec.try_into());
        Self(Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default()))
    }

    /// The moment this long after the machine was started.
    #[must_use]
    pub const fn since_boot(time: Duration) -> Self {
        Self(time)
    }

    /// How long after the start of the machine.
    #[must_use]
    pub const fn uptime(self) -> Duration {
        self.0
    }

    /// How long after an earlier moment; zero if it was not earlier.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long ago.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().duration_since(self)
    }

    /// The moment this long before, if the machine was started by then.
    #[must_use]
    pub fn checked_sub(self, time: Duration) -> Option<Self> {
        self.0.checked_sub(time).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// The last moment there is, at the latest.
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// Which run of the machine this is: a number that is drawn at each start of it; 0 where that is not known.
pub(crate) fn boot() -> u128 {
    static BOOT: LazyLock<u128> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or_default()
    });
    *BOOT
}

/// Waits for moments of this clock: one that passes while the machine is suspended has come as soon as it wakes up.
#[derive(Debug)]
pub(crate) struct Timer(Option<AsyncFd<OwnedFd>>);

impl Timer {
    /// Must be called within the runtime that it is used in. Without a descriptor it is late after the machine slept.
    pub(crate) fn new() -> Self {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags).map_err(io::Error::from);
        let timer = timer.and_then(descriptor::register).inspect_err(|error| {
            tracing::warn!(%error, "no kernel timer: what is due while the machine is suspended is late");
        });
        Self(timer.ok())
    }

    /// Waits until this moment; returns at once if it has passed. Cancel-safe.
    pub(crate) async fn until(&self, at: Instant) {
        let wait = at.duration_since(Instant::now());
        match &self.0 {
            _ if wait.is_zero() => {}
            Some(timer) if set(timer, at).is_ok() => descriptor::news(timer).await,
            _ => tokio::time::sleep(wait).await,
        }
    }
}

/// An earlier moment that nobody has waited for is forgotten.
fn set(timer: &AsyncFd<OwnedFd>, at: Instant) -> Result<(), Box<dyn std::error::Error>> {
    let it_value = Timespec { tv_sec: at.0.as_secs().try_into()?, tv_nsec: at.0.subsec_nanos().into() };
    let once = Itimerspec { it_interval: Timespec::default(), it_value };
    timerfd_settime(timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
    Ok(())
}

/// Seconds since 1970, by the wall clock. Expiry is a date, so it goes by that; nothing else that decides does.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_clock_that_goes_on_while_the_machine_is_suspended() {
        let read = || clock_gettime(ClockId::Boottime);
        let (before, now, after) = (read(), Instant::now().uptime(), read());
        let seconds = |time: Timespec| u64::try_from(time.tv_sec).expect("after the start");
        assert!(seconds(before) <= now.as_secs() && now.as_secs() <= seconds(after));
    }

    #[tokio::test]
    async fn a_timer_waits_for_each_moment_and_not_for_one_that_has_passed() {
        let timer = Timer::new();
        let start = Instant::now();
        timer.until(start).await;
        timer.until(Instant::since_boot(Duration::ZERO)).await;
        for millis in [20, 40] {
            let at = start + Duration::from_millis(millis);
            timer.until(at).await;
            assert!(Instant::now() >= at);
        }
        // Given up, it does not come later.
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(tokio::time::timeout(Duration::ZERO, timer.until(soon)).await.is_err());
        let at = Instant::now() + Duration::from_millis(20);
        timer.until(at).await;
        assert!(Instant::now() >= at);
    }
}
