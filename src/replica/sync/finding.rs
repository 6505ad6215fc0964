//! What the synchroniser finds out that someone should know of.

use std::fmt;

use crate::store::{Epoch, Position, Revision};

/// Something worth a line in the log. What it leads to, [`Finding::remedy`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The replica has become equal to the store after a snapshot.
    Synced(Position),
    /// The store is another one, or was flushed or restored.
    OtherEpoch(Epoch),
    /// The store is at an earlier revision than it was before: it lost writes.
    Regressed {
        /// Where it was.
        from: Revision,
        /// Where it is.
        to: Revision,
    },
    /// The store has another commit at this revision than it had before: it lost writes, and went on.
    Forked(Revision),
    /// What the store has lost reaches back further than is remembered of what was applied.
    NoCommonAncestor,
    /// The change log no longer goes back to this revision.
    LogTruncated(Revision),
    /// The change log ends below the store's position, or has a gap, after this revision.
    LogIncomplete(Revision),
    /// Another checksum at the same revision: the replica, or the store, is not what the log made it.
    Diverged(Revision),
    /// A snapshot, or what was read again, brought up to this revision, has another checksum than the store says.
    Unproven(Revision),
    /// Two snapshots in a row differ from the store's checksum by the same amount: the store's own entries do not match
    /// it. The snapshot is what there is, so it is served.
    Contradiction(Revision),
}

/// What a [`Finding`] leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// What the lost writes were about is read again.
    Repair,
    /// Everything is.
    Snapshot,
}

impl Finding {
    /// What it leads to.
    #[must_use]
    pub fn remedy(self) -> Remedy {
        match self {
            Self::Synced(_) | Self::Contradiction(_) => Remedy::None,
            Self::Regressed { .. } | Self::Forked(_) => Remedy::Repair,
            Self::OtherEpoch(_)
            | Self::NoCommonAncestor
            | Self::LogTruncated(_)
            | Self::LogIncomplete(_)
            | Self::Diverged(_)
            | Self::Unproven(_) => Remedy::Snapshot,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synced(at) => write!(f, "in step with the store at revision {}", at.revision),
            Self::OtherEpoch(epoch) => write!(f, "the store is another one or was restored (epoch {epoch})"),
            Self::Regressed { from, to } => write!(f, "the store lost writes: it went from revision {from} to {to}"),
            Self::Forked(at) => write!(f, "the store lost writes: it has another commit at revision {at} than before"),
            Self::NoCommonAncestor => f.write_str("what the store lost reaches back further than is remembered here"),
            Self::LogTruncated(after) => {
                write!(f, "the change log no longer reaches back to revision {after}, or a snapshot is shorter")
            }
            Self::LogIncomplete(after) => write!(f, "the change log has a gap after revision {after}"),
            Self::Diverged(at) => write!(f, "the replica differs from the store at revision {at}"),
            Self::Unproven(at) => write!(f, "what was read differs from the store's checksum at revision {at}"),
            Self::Contradiction(at) => {
                write!(f, "the store's entries contradict its checksum at revision {at}; serving its entries")
            }
        }
    }
}
