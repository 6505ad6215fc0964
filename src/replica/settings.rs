//! How long the replica is believed.

use std::time::Duration;

use crate::token::Permission;

/// How long the replica is believed after it was last proven to be the store's.
#[derive(Debug, Clone)]
pub struct FreshnessConfig {
    /// How often the store is asked for its position.
    pub probe_interval: Duration,
    /// The bound for every permission without one of its own.
    pub max_staleness: MaxStaleness,
    /// Bounds of their own.
    pub per_permission: Vec<(Permission, MaxStaleness)>,
}

impl FreshnessConfig {
    /// How stale the replica may be for requests that need this permission.
    #[must_use]
    pub fn bound(&self, permission: Permission) -> MaxStaleness {
        let own = self.per_permission.iter().find(|(other, _)| *other == permission);
        own.map_or(self.max_staleness, |(_, bound)| *bound)
    }
}

/// A bound on staleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStaleness {
    /// This long.
    Within(Duration),
    /// No bound: a stated choice of the operator's.
    Never,
}

impl MaxStaleness {
    /// Whether a replica that is so stale is still believed.
    #[must_use]
    pub fn allows(self, staleness: Duration) -> bool {
        match self {
            Self::Within(bound) => staleness <= bound,
            Self::Never => true,
        }
    }
}
