//! How reloads of the configuration went.

use jiff::Timestamp;

use crate::lock::Mutex;
use crate::words::words;

words! {
    /// What became of a reload.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum ReloadOutcome {
        /// What was read is in effect.
        Applied = "applied",
        /// What was read is wrong: the one before stays in effect.
        Refused = "refused",
    }
}

/// The reloads of a process.
#[derive(Debug, Default)]
pub(crate) struct Reloads(Mutex<State>);

/// How they went so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// By outcome.
    pub(crate) totals: [u64; ReloadOutcome::ALL.len()],
    /// Of the latest.
    pub(crate) outcome: ReloadOutcome,
    /// When what is in effect was read.
    pub(crate) applied_at: Timestamp,
    /// Keys that are written otherwise than they are in effect, since they need a restart.
    pub(crate) waiting: usize,
}

impl Default for State {
    /// Before the first: what was read at the start is in effect.
    fn default() -> Self {
        Self {
            totals: [0; ReloadOutcome::ALL.len()],
            outcome: ReloadOutcome::Applied,
            applied_at: Timestamp::now(),
            waiting: 0,
        }
    }
}

impl Reloads {
    /// How they went so far.
    pub(crate) fn state(&self) -> State {
        *self.0.lock()
    }

    /// One was applied; so many keys wait for a restart.
    pub(crate) fn applied(&self, waiting: usize) {
        let mut state = self.0.lock();
        (state.applied_at, state.waiting) = (Timestamp::now(), waiting);
        state.end(ReloadOutcome::Applied);
    }

    /// One was refused.
    pub(crate) fn refused(&self) {
        self.0.lock().end(ReloadOutcome::Refused);
    }
}

impl State {
    fn end(&mut self, outcome: ReloadOutcome) {
        self.totals[outcome as usize] += 1;
        self.outcome = outcome;
    }
}
