//! What proofs came to, for metrics.

use std::time::Duration;

use jiff::Timestamp;

use super::{Proof, ProveError, Verdict};
use crate::lock::Mutex;

/// The figures of the proofs that a process made at an interval.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<Figures>);

/// See [`Proofs`].
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    /// How many came to each verdict, in the order of [`Verdict::ALL`].
    pub totals: [u64; Verdict::ALL.len()],
    /// When the last one ended that proved it.
    pub last_success: Option<Timestamp>,
    /// How long the slowest listener took then.
    pub refused_after: Option<Duration>,
    /// How many listeners refused the canary in the last one, and how many were asked.
    pub listeners: Option<(usize, usize)>,
}

impl Proofs {
    /// Counts one that ended now.
    pub(super) fn add(&self, proof: &Result<Proof, ProveError>, now: Timestamp) -> Verdict {
        let verdict = proof.as_ref().map_or(Verdict::Unknown, Proof::verdict);
        let mut figures = self.0.lock();
        figures.totals[verdict as usize] += 1;
        figures.listeners = proof.as_ref().ok().map(|proof| (proof.refused(), proof.listeners.len()));
        if let Some(proof) = proof.as_ref().ok().filter(|_| verdict == Verdict::Proven) {
            (figures.last_success, figures.refused_after) = (Some(now), proof.slowest());
        }
        verdict
    }

    /// As they are now; `None` before the first proof: whoever makes none has none.
    pub(crate) fn figures(&self) -> Option<Figures> {
        Some(*self.0.lock()).filter(|figures| figures.totals.iter().any(|total| *total > 0))
    }
}
