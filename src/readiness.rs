//! Whether a sidecar wants requests: what `/readyz`, and the health path of its listeners, say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Instant;
use crate::replica::{MaxStaleness, Replica};

/// The problem of one that stops.
pub(crate) const DRAINING: &str = "draining";

/// The problem of one that an operator has taken out.
const DRAINED: &str = "drained by an operator (tollgate drain)";

/// Whether a sidecar wants requests.
#[derive(Debug)]
pub struct Readiness {
    replica: Arc<Replica>,
    max_staleness: MaxStaleness,
    /// Set once the sidecar stops: it still serves, and wants no new clients.
    pub draining: AtomicBool,
    /// Set once another process accepts in its place: its own clients are served, and who asks them is told how they are.
    succeeded: AtomicBool,
    drained: AtomicBool,
}

impl Readiness {
    /// Of a sidecar that starts.
    pub fn new(replica: Arc<Replica>, max_staleness: MaxStaleness) -> Self {
        Self {
            replica,
            max_staleness,
            draining: AtomicBool::new(false),
            succeeded: AtomicBool::new(false),
            drained: AtomicBool::new(false),
        }
    }

    /// From which staleness on it is not.
    pub(crate) fn max_staleness(&self) -> MaxStaleness {
        self.max_staleness
    }

    /// Takes it out, or back: it serves whoever comes, and asks for nobody. `false`: another process has taken its place, and does not
    /// know of that.
    pub(crate) fn drain(&self, drained: bool) -> bool {
        // One of this and `succeed` sees what the other has written.
        self.drained.store(drained, Ordering::SeqCst);
        !self.succeeded.load(Ordering::SeqCst)
    }

    /// Another process takes its place: whether that one is to be drained.
    pub(crate) fn succeed(&self) -> bool {
        self.succeeded.store(true, Ordering::SeqCst);
        self.drained.load(Ordering::SeqCst)
    }

    /// Whether another process has taken its place.
    pub(crate) fn is_succeeded(&self) -> bool {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Whether an operator has taken it out.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Why it wants no requests, however fresh it is: it stops, or was taken out.
    fn drain_reason(&self) -> Option<&'static str> {
        match self.draining.load(Ordering::Relaxed) {
            true => Some(DRAINING),
            false => self.is_drained().then_some(DRAINED),
        }
    }

    /// What is reported of that to others: also that another process has taken its place.
    pub(crate) fn reported_drain(&self) -> Option<&'static str> {
        match self.is_succeeded() {
            true => Some("another process has taken over"),
            false => self.drain_reason(),
        }
    }

    /// Why it is not ready; `None`: it is.
    pub fn problem(&self) -> Option<&'static str> {
        if let Some(reason) = self.drain_reason() {
            return Some(reason);
        }
        match (self.replica.staleness(Instant::now()), self.max_staleness) {
            (None, _) => Some("the token registry has not been read yet"),
            (Some(staleness), MaxStaleness::Within(bound)) if staleness > bound => Some("the token registry is stale"),
            _ => None,
        }
    }
}
