//! Replicas of the store: how far they protect what was committed.

use super::Revision;

/// The servers that could take over, as the primary sees them, and whoever decides on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Those that follow it now.
    pub connected: usize,
    /// Those that could be promoted: the connected ones, and those that Sentinels or nodes of the cluster name.
    pub promotable: usize,
    /// How many of them must confirm each commit and each probe.
    pub quorum: usize,
}

impl Replicas {
    /// Whether a primary that was cut off can neither keep sidecars fresh nor take commits: it and the new one can never
    /// both have as many replicas as that takes.
    #[must_use]
    pub fn isolate_an_old_primary(&self) -> bool {
        self.quorum > 0 && 2 * self.quorum >= self.promotable
    }

    /// Whether what was acknowledged is there after a failover, whichever of them is promoted.
    #[must_use]
    pub fn keep_commits(&self) -> bool {
        self.quorum >= self.promotable
    }
}

/// What enough replicas have confirmed, but not all that could be promoted: a failover may lose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Of the last commit; `None` where it was none.
    pub revision: Option<Revision>,
    /// How many replicas have it.
    pub confirmed: usize,
    /// How many could be promoted.
    pub promotable: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_isolates_an_old_primary_and_only_all_keep_a_commit() {
        let prevents = |quorum, promotable| {
            let replicas = Replicas { connected: promotable, promotable, quorum };
            (replicas.isolate_an_old_primary(), replicas.keep_commits())
        };
        assert_eq!(prevents(0, 0), (false, true), "nobody takes over");
        assert_eq!(prevents(0, 1), (false, false));
        assert_eq!(prevents(1, 1), (true, true));
        assert_eq!(prevents(1, 2), (true, false));
        assert_eq!(prevents(1, 3), (false, false));
        assert_eq!(prevents(2, 3), (true, false));
        assert_eq!(prevents(3, 3), (true, true));
    }
}
