//! How slow a peer may be within a body.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Gate;
use crate::worker::alarm::{Alarm, Interrupt, WorkerTime};

/// How long a peer may make us wait within a body: a grace that is used up by waiting and earned back by bytes, at
/// the least rate allowed. So neither a stalled nor a dripping peer holds a connection.
pub(crate) struct Pace {
    grace: Duration,
    left: Duration,
    min_rate: u64,
    /// Since when it makes us wait.
    since: Option<WorkerTime>,
    /// Since when it has had so many bytes.
    handed: Option<(WorkerTime, usize)>,
}

impl Pace {
    /// The whole grace.
    pub(crate) fn new(gate: &Gate) -> Self {
        let grace = gate.timeouts.body_grace;
        Self { grace, left: grace, min_rate: gate.limits.min_body_rate.get(), since: None, handed: None }
    }

    /// This long in all, whatever comes.
    pub(crate) fn within(time: Duration) -> Self {
        Self { grace: time, left: time, min_rate: u64::MAX, since: None, handed: None }
    }

    /// Takes what a poll of the peer came to, and bounds how long it may be pending.
    ///
    /// # Errors
    /// [`Interrupt::Deadline`] when the peer's grace is used up; other interrupts of the alarm.
    pub(crate) fn poll(
        &mut self,
        alarm: &Alarm,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<Result<io::Result<usize>, Interrupt>> {
        let now = alarm.worker().alarms.now();
        match polled {
            Poll::Pending => {
                // Once: being polled again gives it no more time.
                if self.since.is_none() {
                    self.since = Some(now);
                    alarm.set(self.left);
                }
                alarm.poll(context).map(Err)
            }
            Poll::Ready(result) => {
                let waited = self.since.take().map(|since| now.since(since));
                if waited.is_some() {
                    alarm.clear();
                }
                if let Ok(count) = &result {
                    self.account(waited.unwrap_or_default(), *count);
                }
                Poll::Ready(Ok(result))
            }
        }
    }

    /// Largest piece that a peer at the least rate takes within the grace.
    pub(crate) fn piece(&self) -> usize {
        let bytes = self.grace.as_millis().saturating_mul(self.min_rate.into()) / 1000;
        usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, 16 * 1024)
    }

    /// The peer was handed so many bytes, a [`Pace::piece`] at most, and is waited for until it asks for more.
    pub(crate) fn hand(&mut self, alarm: &Alarm, count: usize) {
        self.handed = Some((alarm.worker().alarms.now(), count));
        alarm.set(self.left);
    }

    /// It asks for more.
    pub(crate) fn taken(&mut self, alarm: &Alarm) {
        if let Some((since, count)) = self.handed.take() {
            self.account(alarm.worker().alarms.now().since(since), count);
            alarm.clear();
        }
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
        Pace { grace: 20 * SECOND, left: 20 * SECOND, min_rate: 1024, since: None, handed: None }
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
