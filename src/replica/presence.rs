//! Whether whoever waits for a revocation knows to wait for this sidecar.
//!
//! Who revokes a token asks the store which sidecars could still let it in. So no proof of freshness counts that was made
//! while the store had no report of ours, or one that it would forget before the freshness has run out: not at the start,
//! not after a cut that outlasted the report, not in a store that lost it.
//!
//! ```text
//!   driver ── probe, and what is left of our report ──► store ◄── report ── reporter
//!      └────────────── none, or too little: report now ───────────────────────▲
//! ```

use std::time::Duration;

use tokio::sync::Notify;

use crate::store::SidecarId;

/// Shared by who reports and who proves freshness.
#[derive(Debug)]
pub struct Presence {
    /// Whose reports.
    pub sidecar: SidecarId,
    /// How long a report must still be stored for a proof to count: as long as the freshness that it gives can last.
    least: Duration,
    wanted: Notify,
    taken: Notify,
}

impl Presence {
    /// Of a sidecar that may serve for `least` after a proof.
    #[must_use]
    pub fn new(sidecar: SidecarId, least: Duration) -> Self {
        Self { sidecar, least, wanted: Notify::new(), taken: Notify::new() }
    }

    /// Whether a report that is stored for so long is enough. If not, a new one is asked for.
    pub(super) fn is_known(&self, left: Option<Duration>) -> bool {
        let is_known = left.is_some_and(|left| left >= self.least);
        if !is_known {
            self.wanted.notify_one();
        }
        is_known
    }

    /// Waits until a report is asked for. Cancel-safe.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The store has taken a report.
    pub fn taken(&self) {
        self.taken.notify_one();
    }

    /// Waits until the store has taken a report. Cancel-safe.
    pub(super) async fn renewed(&self) {
        self.taken.notified().await;
    }
}
