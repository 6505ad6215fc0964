//! How a table with what the store has lost becomes one of the store's past.

use super::synced::{Synced, Trust};
use super::{Finding, Read, Reading};
use crate::store::{Revision, Subject};

/// Read again at once: an answer of about 30 kB, and as long a question.
pub(super) const PAGE: usize = 500;

/// How a table with what the store has lost becomes one of the store's past.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Repair {
    /// What the table is, or will be.
    pub(super) synced: Synced,
    /// What is still to be read again; `None` until the common ancestor is known.
    left: Option<Vec<Subject>>,
}

impl Repair {
    /// Of what a table was that was exact, but for what is known.
    pub(super) fn of(synced: Synced) -> Option<Self> {
        let is_mixed = matches!(synced.trust, Trust::Unsettled);
        (!is_mixed).then_some(Self { synced, left: None })
    }

    pub(super) fn next(&self) -> (Reading, Read) {
        match self.left {
            Some(_) => (Reading::Items, Read::Items(self.page().to_vec())),
            None => {
                let history = &self.synced.history;
                (Reading::Ancestor, Read::Ancestor { latest: history.revision(), heads: history.heads() })
            }
        }
    }

    /// From the common ancestor on all is to be read again, and what was read again before and is not settled yet.
    pub(super) fn go_back(&mut self, ancestor: Option<Revision>) -> Result<(), Finding> {
        let Synced { history, trust, .. } = &mut self.synced;
        let revision = history.revision();
        if ancestor == Some(revision) {
            // What the log shows follows us, and what else the store says does not.
            return Err(Finding::LogIncomplete(revision));
        }
        let undone = ancestor.and_then(|ancestor| history.go_back(ancestor)).ok_or(Finding::NoCommonAncestor)?;
        let (mut again, difference) = match trust {
            Trust::Mended { again, difference } => (std::mem::take(again), *difference),
            Trust::Settled { difference } => (Vec::new(), *difference),
            Trust::Unsettled => return Err(Finding::NoCommonAncestor),
        };
        again.extend(undone);
        again.sort_unstable();
        again.dedup();
        self.left = Some(again.clone());
        *trust = Trust::Mended { again, difference };
        Ok(())
    }

    /// What is to be read next: users first, for they come last, so that each grant finds its owner.
    pub(super) fn page(&self) -> &[Subject] {
        let left = self.left.as_deref().unwrap_or_default();
        &left[left.len().saturating_sub(PAGE)..]
    }

    /// It was read. Whether there is another one.
    pub(super) fn turn_page(&mut self) -> bool {
        let left = self.left.get_or_insert_default();
        left.truncate(left.len().saturating_sub(PAGE));
        !left.is_empty()
    }
}
