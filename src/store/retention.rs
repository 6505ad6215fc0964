//! How much of the past a store retains.

use std::time::Duration;

/// Bounds on what a store retains of the past. Every store has the same, so that operators need to know one set only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Changes in the log, over all its entries. The newest entry stays even when it alone has more.
    pub log_changes: u64,
    /// Entries in the log.
    pub log_entries: u64,
    /// Digests of deleted tokens.
    pub tombstones: u64,
    /// How long the digest of a deleted token is retained, to the second.
    pub tombstone_age: Duration,
    /// Agents of a token that are all there and counted one by one: the latest. Of older ones a sample is.
    pub agents: u64,
}

impl Default for Retention {
    /// 200,000 changes (13 MB), 100,000 entries, 1,000,000 digests (40 MB) for 7 days; 131,072 agents (50 MB) of a token, if it
    /// has as many.
    fn default() -> Self {
        Self {
            log_changes: 200_000,
            log_entries: 100_000,
            tombstones: 1_000_000,
            tombstone_age: Duration::from_hours(7 * 24),
            agents: 1 << 17,
        }
    }
}
