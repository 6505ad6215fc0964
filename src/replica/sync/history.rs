//! How the table came to where it is: the latest commits that were applied to it. When the store has lost some of them,
//! this says which, and what they were about.

use std::collections::VecDeque;

use crate::store::{Head, LogEntry, Position, Revision, Subject};

/// Commits remembered: more than are ever committed while a position is on its way, and than a failover loses.
const COMMITS: usize = 512;

/// What they are about is remembered for so many subjects in all, which take 40 bytes each.
const SUBJECTS: usize = 64 * 1024;

/// What the store had at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stated {
    pub(super) head: Head,
    pub(super) checksum: u64,
}

/// The latest commits, and the place that the first of them came after.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// The last place.
    revision: Revision,
    /// What the store had, from the first place up to the last.
    places: VecDeque<Stated>,
    /// What the commits were about that led from each place to the next.
    subjects: VecDeque<Box<[Subject]>>,
    /// How many those are.
    count: usize,
}

impl History {
    /// Nothing is known but a place.
    pub(super) fn from(position: Position) -> Self {
        let Position { revision, head, checksum, .. } = position;
        Self { revision, places: VecDeque::from([Stated { head, checksum }]), subjects: VecDeque::new(), count: 0 }
    }

    /// The last place.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// What the store had there.
    pub(super) fn last(&self) -> Stated {
        self.places.back().copied().unwrap_or(Stated { head: Head::START, checksum: 0 })
    }

    /// What the store had at a revision, if it is one of the latest.
    pub(super) fn at(&self, revision: Revision) -> Option<Stated> {
        let back = usize::try_from(self.revision.0.checked_sub(revision.0)?).ok()?;
        let index = self.places.len().checked_sub(1)?.checked_sub(back)?;
        self.places.get(index).copied()
    }

    /// The next commit was applied.
    pub(super) fn add(&mut self, entry: &LogEntry) {
        let subjects: Box<[_]> = entry.changes.iter().map(crate::store::Change::subject).collect();
        self.revision = entry.revision;
        self.count += subjects.len();
        self.places.push_back(Stated { head: entry.head, checksum: entry.checksum });
        self.subjects.push_back(subjects);
        while self.subjects.len() > COMMITS || self.count > SUBJECTS {
            self.places.pop_front();
            self.count -= self.subjects.pop_front().map_or(0, |forgotten| forgotten.len());
        }
    }

    /// The heads that the store had, from the last place backwards.
    pub(super) fn heads(&self) -> Vec<Head> {
        self.places.iter().rev().map(|place| place.head).collect()
    }

    /// Forgets the commits after a place, and says what they were about. `None`: it is none of the places.
    pub(super) fn go_back(&mut self, to: Revision) -> Option<Vec<Subject>> {
        self.at(to)?;
        let mut subjects = Vec::new();
        while self.revision > to {
            self.places.pop_back();
            let undone = self.subjects.pop_back()?;
            self.count -= undone.len();
            subjects.extend(undone);
            self.revision = Revision(self.revision.0 - 1);
        }
        Some(subjects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Change, CommitId, Epoch};
    use crate::token::Digest;

    fn history(revision: u64) -> History {
        History::from(Position { epoch: Epoch(1), revision: Revision(revision), head: Head(1), checksum: 0 })
    }

    fn entry(revision: u64, changes: usize) -> LogEntry {
        let change = |number: usize| {
            Change::RemoveGrant(Digest::of(&[revision.to_le_bytes(), (number as u64).to_le_bytes()].concat()))
        };
        let changes = (0..changes).map(change).collect();
        let head = Head(u128::from(revision));
        LogEntry { id: CommitId(1), revision: Revision(revision), head, checksum: revision, changes }
    }

    #[test]
    fn a_place_knows_what_the_commits_after_it_were_about() {
        let mut history = history(5);
        history.add(&entry(6, 1));
        history.add(&entry(7, 0));
        history.add(&entry(8, 1));
        assert_eq!(history.heads(), [8, 7, 6, 1].map(Head));
        assert_eq!((history.go_back(Revision(4)), history.go_back(Revision(9))), (None, None));
        assert_eq!(history.go_back(Revision(8)), Some(vec![]));
        let about = |revision| entry(revision, 1).changes[0].subject();
        assert_eq!(history.go_back(Revision(5)), Some(vec![about(8), about(6)]));
        assert_eq!((history.revision(), history.last().head), (Revision(5), Head(1)));
        history.add(&entry(6, 1));
        assert_eq!(history.at(Revision(6)), Some(Stated { head: Head(6), checksum: 6 }));
    }

    #[test]
    fn it_is_bounded_by_commits_and_by_what_they_are_about() {
        let mut history = history(0);
        (1..=998).for_each(|revision| history.add(&entry(revision, 1)));
        assert_eq!((history.subjects.len(), history.count), (COMMITS, COMMITS));
        assert_eq!(
            history.clone().go_back(Revision(998 - COMMITS as u64)).map(|subjects| subjects.len()),
            Some(COMMITS)
        );
        (999..=1_000).for_each(|revision| history.add(&entry(revision, SUBJECTS / 2)));
        assert_eq!((history.subjects.len(), history.count), (2, SUBJECTS));
        history.add(&entry(1_001, SUBJECTS + 1));
        assert_eq!((history.subjects.len(), history.count), (0, 0));
        assert_eq!((history.revision(), history.heads()), (Revision(1_001), vec![Head(1_001)]), "its own place stays");
    }
}
