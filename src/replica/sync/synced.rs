//! A table that holds everything up to a revision: what was applied to it, and how far that is proven.

use super::history::{History, Stated};
use super::{Finding, Scene, Table};
use crate::clock::Instant;
use crate::store::{Epoch, LogEntry, Position, Revision, Subject};

/// The table holds everything up to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Synced {
    pub(super) epoch: Epoch,
    /// Which, and how it came there.
    pub(super) history: History,
    /// The table's checksum there.
    pub(super) found: u64,
    pub(super) trust: Trust,
    /// Positions that were read and not yet reached: the first, which is reached soonest, and the last, which proves most.
    pub(super) owed: Vec<Proof>,
    /// The newest revision that is known to exist.
    pub(super) announced: Revision,
    /// Something was committed, its revision unknown.
    pub(super) moved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// Since the snapshot checksums could not be compared yet.
    Unsettled,
    /// Nor since lost writes were made up for. The table is exact but for these, which may show later commits.
    Mended { again: Vec<Subject>, difference: u64 },
    /// Checksums are equal but for this difference, which is 0 unless the store contradicts itself.
    Settled { difference: u64 },
}

/// The store was at this revision and had this at some time after `sent_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Proof {
    pub(super) revision: Revision,
    pub(super) stated: Stated,
    pub(super) sent_at: Instant,
}

impl Synced {
    pub(super) fn new(position: Position, found: u64) -> Self {
        Self {
            epoch: position.epoch,
            history: History::from(position),
            found,
            trust: Trust::Unsettled,
            owed: Vec::new(),
            announced: position.revision,
            moved: false,
        }
    }

    pub(super) fn position(&self) -> Position {
        let Stated { head, checksum } = self.history.last();
        Position { epoch: self.epoch, revision: self.revision(), head, checksum }
    }

    pub(super) fn revision(&self) -> Revision {
        self.history.revision()
    }

    pub(super) fn is_next(&self, entry: &LogEntry) -> bool {
        entry.follows(self.history.last().head, self.revision())
    }

    /// Whether the log is known to go on.
    pub(super) fn has_more(&self) -> bool {
        self.moved || self.announced > self.revision()
    }

    /// A position was read that is not reached yet. What was of writes that the store has lost since is owed no more.
    pub(super) fn owe(&mut self, proof: Proof) {
        self.announced = self.announced.max(proof.revision);
        self.owed.retain(|owed| owed.revision <= proof.revision);
        self.owed.truncate(1);
        self.owed.push(proof);
    }

    /// What was said of later revisions, the next probe says again, if it is so.
    pub(super) fn forget_announced(&mut self) {
        (self.announced, self.owed, self.moved) = (self.revision(), Vec::new(), false);
    }

    /// Applies the next entry, and checks it as far as it can be checked.
    pub(super) fn apply<T: Table>(&mut self, entry: &LogEntry, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        self.found = scene.table.apply(entry, scene.now);
        self.history.add(entry);
        if let Trust::Settled { difference } = self.trust
            && self.found ^ entry.checksum != difference
        {
            return Err(Finding::Diverged(entry.revision));
        }
        while self.owed.first().is_some_and(|proof| proof.revision <= entry.revision) {
            let proof = self.owed.remove(0);
            self.prove(proof, scene)?;
        }
        Ok(())
    }

    /// The store was at a revision that we have reached: if it had our checksum there, all is well as of then.
    pub(super) fn prove<T: Table>(&mut self, proof: Proof, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        match self.history.at(proof.revision) {
            // Longer ago than we remember: proves nothing.
            None => return Ok(()),
            Some(stated) if stated.head != proof.stated.head => return Err(Finding::Forked(proof.revision)),
            Some(stated) if stated != proof.stated => return Err(Finding::Diverged(proof.revision)),
            Some(_) => {}
        }
        match self.trust {
            Trust::Unsettled => self.settle(scene)?,
            Trust::Mended { difference, .. } => self.settle_again(difference, scene)?,
            Trust::Settled { .. } => {}
        }
        scene.table.confirm(proof.sent_at);
        Ok(())
    }

    /// The log was applied up to a position read after the snapshot, so the table is exact; or the snapshot was not.
    pub(super) fn settle<T: Table>(&mut self, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        let difference = self.difference();
        let known = scene.suspect.replace(difference) == Some(difference);
        if difference != 0 && !known {
            return Err(Finding::Unproven(self.revision()));
        }
        scene.table.sweep();
        self.trust = Trust::Settled { difference };
        if difference != 0 {
            scene.step.findings.push(Finding::Contradiction(self.revision()));
        }
        scene.step.findings.push(Finding::Synced(self.position()));
        Ok(())
    }

    /// The same after a repair. Nothing is left over then that would have to be swept.
    pub(super) fn settle_again<T: Table>(&mut self, difference: u64, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        if self.difference() != difference {
            return Err(Finding::Unproven(self.revision()));
        }
        self.trust = Trust::Settled { difference };
        scene.step.findings.push(Finding::Synced(self.position()));
        Ok(())
    }

    /// By what the table's checksum differs from the store's.
    pub(super) fn difference(&self) -> u64 {
        self.found ^ self.history.last().checksum
    }
}
