//! Whether a sidecar wants requests: what `/readyz`, and the health path of its listeners, say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Instant;
use crate::replica::{MaxStaleness, Replica};

/// The problem of one that stops.
pub(crate) const DRAINING: &str = "draining";

/// Whether a sidecar wants requests.
#[derive(Debug)]
pub struct Readiness {
    replica: Arc<Replica>,
    max_staleness: MaxStaleness,
    /// Set once the sidecar stops: it still serves, and wants no new clients.
    pub draining: AtomicBool,
}

impl Readiness {
    /// Of a sidecar that starts.
    pub fn new(replica: Arc<Replica>, max_staleness: MaxStaleness) -> Self {
        Self { replica, max_staleness, draining: AtomicBool::new(false) }
    }

    /// From which staleness on it is not.
    pub(crate) fn max_staleness(&self) -> MaxStaleness {
        self.max_staleness
    }

    /// Why it is not ready; `None`: it is.
    pub fn problem(&self) -> Option<&'static str> {
        match (self.replica.staleness(Instant::now()), self.max_staleness) {
            _ if self.draining.load(Ordering::Relaxed) => Some(DRAINING),
            (None, _) => Some("the token registry has not been read yet"),
            (Some(staleness), MaxStaleness::Within(bound)) if staleness > bound => Some("the token registry is stale"),
            _ => None,
        }
    }
}
