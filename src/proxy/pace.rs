//! How slow a peer may be within a body.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::worker::Worker;
use crate::worker::alarm::{Alarm, Interrupt};

/// How long a peer may make us wait within a body: a grace that is used up by waiting and earned back by bytes, at
/// the least rate allowed. So neither a stalled nor a dripping peer holds a connection.
#[derive(Debug)]
pub struct Pace {
    grace: Duration,
    left: Duration,
    min_rate: u64,
}

impl Pace {
    /// The whole grace.
    #[must_use]
    pub fn new(worker: &Worker) -> Self {
        let grace = worker.gate.timeouts.body_grace;
        Self { grace, left: grace, min_rate: worker.gate.limits.min_body_rate.get() }
    }

    /// This long in all, whatever comes.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { grace: time, left: time, min_rate: u64::MAX }
    }

    /// Waits for the peer.
    ///
    /// # Errors
    /// [`Interrupt::Deadline`] when its grace is used up; other interrupts of the alarm.
    pub async fn wait<F: Future<Output = io::Result<usize>>>(
        &mut self,
        worker: &Worker,
        alarm: &Alarm,
        future: F,
    ) -> Result<io::Result<usize>, Interrupt> {
        let before = worker.alarms.now();
        alarm.set(self.left);
        let result = alarm.race(future).await?;
        if let Ok(count) = &result {
            self.account(worker.alarms.now().since(before), *count);
        }
        Ok(result)
    }

    fn account(&mut self, waited: Duration, count: usize) {
        let earned = Duration::from_millis((count as u64).saturating_mul(1000) / self.min_rate);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.grace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace { grace: 20 * SECOND, left: 20 * SECOND, min_rate: 1024 }
    }

    #[test]
    fn a_peer_at_the_least_rate_goes_on_for_ever() {
        let mut pace = pace();
        for _ in 0..1000 {
            pace.account(SECOND, 1024);
        }
        assert_eq!(pace.left, 20 * SECOND);
    }

    #[test]
    fn a_dripping_peer_uses_up_its_grace() {
        let mut pace = pace();
        for _ in 0..20 {
            pace.account(SECOND, 1);
        }
        assert!(pace.left < SECOND, "{:?}", pace.left);
    }

    #[test]
    fn a_fast_peer_saves_up_no_more_than_the_grace() {
        let mut pace = pace();
        pace.account(Duration::ZERO, 10_000_000);
        pace.account(15 * SECOND, 0);
        assert_eq!(pace.left, 5 * SECOND);
    }
}
