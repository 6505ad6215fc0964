//! Whether the Controller is asked while it is away.
//!
//! Open after one fetch, or `HEAD`, of a configuration that failed: no connection, 502, 503 or 504, nothing said for a while. While it is
//! open, one request at a time asks (a probe), and everybody else is given what is stored, at once; who has nothing stored asks all
//! the same, and is no probe. Closed by the first answer of its API, to whomever and whatever it is; what was asked before that one, and
//! fails after it, opens nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::lock::Mutex;
use crate::sampler::Sampler;

/// The state of one Controller, as all workers see it.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    opened: AtomicU64,
    sampler: Sampler,
}

#[derive(Debug, Default)]
struct State {
    open_since: Option<Instant>,
    /// Who asks while it is open, though it could do without.
    probe: Option<u64>,
    /// How many there were.
    probes: u64,
    /// When it answered last.
    answered_at: Option<Instant>,
}

/// Leave to ask the Controller. Whoever has it says what came of that.
pub(super) struct Attempt {
    breaker: Arc<Breaker>,
    begun_at: Instant,
    /// `None`: it is no probe.
    probe: Option<u64>,
}

impl Breaker {
    /// Leave to ask, for one who could do without.
    pub(super) fn ask(self: &Arc<Self>) -> Option<Attempt> {
        let mut state = self.state.lock();
        let mut probe = None;
        if state.open_since.is_some() {
            if state.probe.is_some() {
                return None;
            }
            state.probes += 1;
            probe = Some(state.probes);
            state.probe = probe;
        }
        Some(Attempt { breaker: Arc::clone(self), begun_at: Instant::now(), probe })
    }

    /// Leave to ask, for one who cannot do without. It is no probe: it may wait for much longer than those who can.
    pub(super) fn must_ask(self: &Arc<Self>) -> Attempt {
        Attempt { breaker: Arc::clone(self), begun_at: Instant::now(), probe: None }
    }

    /// The Controller is there.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        state.answered_at = Some(Instant::now());
        // Should it go away again, nobody waits for what asks still.
        state.probe = None;
        let since = state.open_since.take();
        drop(state);
        if let Some(since) = since
            && let Some(left_out) = self.sampler.admit()
        {
            let away_seconds = since.elapsed().as_secs();
            tracing::info!(away_seconds, left_out, "the Controller answers again: agents are given what it says");
        }
    }

    /// For how long it is open; `None`: it is closed.
    pub(super) fn open_for(&self) -> Option<Duration> {
        self.state.lock().open_since.map(Instant::elapsed)
    }

    /// How often it was opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Attempt {
    /// The Controller is away, unless it has answered somebody since this one asked. Whoever asks next may find out again, also where
    /// this one goes on to wait.
    pub(super) fn failed(&mut self) {
        let mut state = self.breaker.state.lock();
        state.release(self.probe.take());
        if state.answered_at.is_some_and(|answered| answered >= self.begun_at) {
            return;
        }
        let was_closed = state.open_since.is_none();
        state.open_since.get_or_insert_with(Instant::now);
        drop(state);
        if was_closed {
            self.breaker.opened.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = self.breaker.sampler.admit() {
                tracing::warn!(
                    left_out,
                    "the Controller is away: agents that fetch their configuration are given the stored one"
                );
            }
        }
    }

    /// The Controller is there.
    pub(super) fn answered(&self) {
        self.breaker.answered();
    }

    /// It is not known yet whether it is, and takes too long: whoever asks next may find out.
    pub(super) fn release(&mut self) {
        self.breaker.state.lock().release(self.probe.take());
    }
}

impl State {
    /// It is not the one any more that is waited for.
    fn release(&mut self, probe: Option<u64>) {
        self.probe.take_if(|current| Some(*current) == probe);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.probe.is_some() {
            self.breaker.state.lock().release(self.probe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_while_the_controller_is_away() {
        let breaker = Arc::new(Breaker::default());
        let (mut one, mut two) = (breaker.ask().expect("closed"), breaker.ask().expect("closed"));
        assert_eq!(breaker.open_for(), None);
        one.failed();
        two.failed();
        assert_eq!((breaker.open_for().is_some(), breaker.opened()), (true, 1));
        drop((one, two));
        let probe = breaker.ask().expect("nobody asks");
        assert!(breaker.ask().is_none());
        // Who has nothing else asks all the same, and is no probe.
        drop(breaker.must_ask());
        assert!(breaker.ask().is_none());
        drop(probe);
        let _waiting = breaker.must_ask();
        let mut probe = breaker.ask().expect("one that cannot do without keeps nobody from finding out");
        probe.failed();
        let mut next = breaker.ask().expect("that one knows");
        drop(probe);
        assert!(breaker.ask().is_none(), "it is not its probe that ended");
        next.failed();
        let probe = breaker.ask().expect("the last one is over");
        probe.answered();
        assert!(breaker.ask().is_some() && breaker.ask().is_some(), "closed");
        breaker.must_ask().failed();
        assert_eq!(breaker.opened(), 2);
    }

    #[test]
    fn what_was_asked_before_the_last_answer_opens_nothing() {
        let breaker = Arc::new(Breaker::default());
        let mut stuck = breaker.must_ask();
        stuck.failed();
        breaker.answered();
        stuck.failed();
        assert_eq!((breaker.open_for(), breaker.opened()), (None, 1));
        breaker.must_ask().failed();
        assert!(breaker.open_for().is_some());
        let mut probe = breaker.ask().expect("nobody asks");
        probe.release();
        assert!(breaker.ask().is_some() && breaker.open_for().is_some());
    }

    #[test]
    fn any_answer_closes_it() {
        let breaker = Arc::new(Breaker::default());
        breaker.must_ask().failed();
        let _probe = breaker.ask();
        breaker.must_ask().answered();
        assert!(breaker.ask().is_some());
    }

    #[test]
    fn a_probe_of_an_earlier_outage_keeps_nobody_waiting() {
        let breaker = Arc::new(Breaker::default());
        breaker.must_ask().failed();
        let stuck = breaker.ask().expect("nobody asks");
        breaker.must_ask().answered();
        breaker.must_ask().failed();
        let probe = breaker.ask().expect("it is another outage");
        drop(stuck);
        assert!(breaker.ask().is_none());
        drop(probe);
        assert!(breaker.ask().is_some());
    }
}
