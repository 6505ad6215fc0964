//! How the replica stays at the store's position: a state machine without I/O, clock or tasks.
//!
//! ```text
//!                   Tick             answered             everything was handed over
//!   ┌─► unsynced ─────────► position ─────────► snapshot ─────────┐
//!   │                                                             ▼
//!   │ another epoch, a smaller revision, a trimmed log,       unsettled ── position, and the log up to it:
//!   │ another checksum at the same revision                       │        checksums equal
//!   └───────────────────────────── settled ◄──────────────────────┘
//!                                  notices apply in order; a gap reads the log; every probe proves freshness
//! ```
//!
//! [`Synchroniser::on`] takes what happened and says what to read next; at most one read is ever outstanding. What it
//! decides about the table it does through [`Table`]. A test, or a model checker, drives the same function.
//!
//! Rules that the code relies on:
//!
//! - **Only a position read proves anything.** It was asked for at a known moment, so a replica that has reached its
//!   revision with its checksum held everything committed before that moment. Notices make the replica fast only.
//! - **A snapshot may mix commits**, those made while it was read. It is exact once the log was applied up to a
//!   position read *after* it; checksums are compared from there on, and only then is what it did not show removed.
//! - **A position below ours is a regression only if it was asked for after we got there.** Answers and notices travel
//!   separately and overtake each other.
//! - **Revocations do not wait for their turn**, nor are they ever too late. A notice that is not the next one is
//!   searched for them at once.
//! - **Absence proves revocation only within one unbroken history**: the snapshot continues the epoch and revision that
//!   the replica was settled at, and nothing pointed to a store that lost writes. Whether it is unbroken cannot be read
//!   off the log, which is gone. What remains is a store that loses writes, comes back to our revision by other commits,
//!   and no longer has the log from there on, all between two of our questions: that takes more commits than the log
//!   holds, so either a burst of them or that we are cut off for long. A token whose creation was among the lost writes
//!   then counts as revoked. That matters only if the same raw token is imported again, within the life of a tombstone:
//!   it is refused, and recalled like any token that was revoked. The other choice is that a token comes back which was
//!   revoked and refused here already.

use std::collections::VecDeque;
use std::fmt;

use crate::clock::Instant;
use crate::store::{Changes, Epoch, Head, LogEntry, Notice, Position, Probe, Revision};
use crate::token::Digest;

/// What the synchroniser does to the replica. `now` is the moment of the event that led to it.
pub trait Table {
    /// Applies the next entry; returns the checksum of what the store holds after it, as far as the table knows.
    fn apply(&mut self, entry: &LogEntry, now: Instant) -> u64;
    /// Applies only the revocations of an entry that is not the next one.
    fn revoke(&mut self, entry: &LogEntry, now: Instant);
    /// Refuses these digests for good: some sidecar saw them revoked or deleted.
    fn recall(&mut self, digests: &[Digest], now: Instant);
    /// Removes what the latest snapshot and the changes since have not shown.
    fn sweep(&mut self, absence_proves: bool, now: Instant);
    /// Everything committed before `as_of` is in the table.
    fn confirm(&mut self, as_of: Instant);
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is time to probe, or to try again.
    Tick,
    /// The store said something by itself.
    Notice(Notice),
    /// The answer to [`Read::Position`].
    Position(Probe),
    /// The answer to [`Read::Changes`].
    Changes(Changes),
    /// The answer to [`Read::Snapshot`]: every item was handed to the table.
    Snapshot {
        /// The store's position before the first item.
        position: Position,
        /// The table's checksum after the last one.
        checksum: u64,
    },
    /// The outstanding read failed, or took too long and was given up.
    Failed,
}

/// What to read from the store. The answer comes back as an [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The store's position, by [`Store::probe`](crate::store::Store::probe).
    Position,
    /// The change log after a revision.
    Changes {
        /// The last one that was applied.
        after: Revision,
    },
    /// Everything, into a newly opened merge of the table.
    Snapshot,
}

/// What follows from an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// To be read now.
    pub read: Option<Read>,
    /// What someone should know of.
    pub findings: Vec<Finding>,
}

/// Something worth a line in the log. All but [`Finding::Synced`] and [`Finding::Contradiction`] lead to a resync.
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
    /// The change log no longer goes back to this revision.
    LogTruncated(Revision),
    /// The change log ends below the store's position, or has a gap, after this revision.
    LogIncomplete(Revision),
    /// Another checksum at the same revision: the replica, or the store, is not what the log made it.
    Diverged(Revision),
    /// A snapshot, brought up to this revision, has another checksum than the store says.
    Unproven(Revision),
    /// Two snapshots in a row differ from the store's checksum by the same amount: the store's own entries do not match
    /// it. The snapshot is what there is, so it is served.
    Contradiction(Revision),
}

impl Finding {
    /// Whether a new snapshot is needed.
    #[must_use]
    pub fn is_resync(self) -> bool {
        !matches!(self, Self::Synced(_) | Self::Contradiction(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synced(at) => write!(f, "in step with the store at revision {}", at.revision),
            Self::OtherEpoch(epoch) => write!(f, "the store is another one or was restored (epoch {epoch})"),
            Self::Regressed { from, to } => write!(f, "the store lost writes: it went from revision {from} to {to}"),
            Self::LogTruncated(after) => {
                write!(f, "the change log no longer reaches back to revision {after}, or a snapshot is shorter")
            }
            Self::LogIncomplete(after) => write!(f, "the change log has a gap after revision {after}"),
            Self::Diverged(at) => write!(f, "the replica differs from the store at revision {at}"),
            Self::Unproven(at) => write!(f, "the snapshot differs from the store's checksum at revision {at}"),
            Self::Contradiction(at) => {
                write!(f, "the store's entries contradict its checksum at revision {at}; serving its entries")
            }
        }
    }
}

/// The state machine. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Synchroniser {
    state: State,
    reading: Option<Reading>,
    /// Ask for the position as soon as nothing else is being read.
    probe_wanted: bool,
    past: Past,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    /// What the table holds is of no known position.
    Unsynced {
        /// The store has answered since: the snapshot is next.
        answered: bool,
    },
    Synced(Synced),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reading {
    /// Asked at this moment, when this revision had been reached.
    Position {
        sent_at: Instant,
        reached: Revision,
    },
    Changes {
        after: Revision,
    },
    Snapshot,
}

/// What is remembered across resyncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Past {
    /// Where the replica was last settled, while nothing speaks against the store having gone on from there.
    lineage: Option<(Epoch, Revision)>,
    /// By what the latest snapshot differed from the store's checksum.
    suspect: Option<u64>,
}

/// The table holds everything up to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Synced {
    epoch: Epoch,
    revision: Revision,
    /// The table's checksum there.
    found: u64,
    /// What the log says of the latest revisions, up to and with `revision`.
    stated: VecDeque<Stated>,
    trust: Trust,
    /// A position that was read and not yet reached.
    owed: Option<Proof>,
    /// The newest revision that is known to exist.
    heard: Revision,
    /// Something was committed, its revision unknown.
    moved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trust {
    /// Since the snapshot, which is of this revision or later, checksums could not be compared yet.
    Unsettled { snapshot: Revision },
    /// Checksums are equal but for this difference, which is 0 unless the store contradicts itself.
    Settled { difference: u64 },
}

/// What the store had at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stated {
    head: Head,
    checksum: u64,
}

/// The store was at this revision and had this at some time after `sent_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Proof {
    revision: Revision,
    stated: Stated,
    sent_at: Instant,
}

/// Checksums remembered: more than are ever committed while a position is on its way.
const STATED: usize = 256;

impl Synchroniser {
    /// Nothing is known yet; the first [`Event::Tick`] sets it going.
    #[must_use]
    pub fn new() -> Self {
        let past = Past::default();
        Self { state: State::Unsynced { answered: false }, reading: None, probe_wanted: false, past }
    }

    /// The table was filled by an earlier run's work, as if by a snapshot: it holds what the store had at `position`,
    /// mixed with later commits up to `reaches`, and its checksum is `found`. Nothing of that proves freshness.
    #[must_use]
    pub fn resumed(position: Position, reaches: Revision, found: u64) -> Self {
        let state = State::Synced(Synced::new(position, found));
        // An earlier run was settled there. A store below `reaches` has lost some of it, so absence proves nothing.
        let lineage = Some((position.epoch, position.revision.max(reaches)));
        Self { state, past: Past { lineage, suspect: None }, ..Self::new() }
    }

    /// The store's position that the table has reached; `None` until it is settled.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.state {
            State::Synced(synced) if matches!(synced.trust, Trust::Settled { .. }) => synced.position(),
            State::Synced(_) | State::Unsynced { .. } => None,
        }
    }

    /// Whether the table is settled and nothing later than what it holds is known to exist.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        match &self.state {
            State::Synced(synced) => {
                let asking = synced.moved || matches!(self.reading, Some(Reading::Changes { .. }));
                let behind = synced.owed.is_some() || synced.heard > synced.revision;
                !asking && !behind && matches!(synced.trust, Trust::Settled { .. })
            }
            State::Unsynced { .. } => false,
        }
    }

    /// Takes what happened at `now`, does what follows to the table, and says what to read next.
    ///
    /// An answer must be to the one outstanding read, and `now` must be a moment before the returned read is sent.
    pub fn on<T: Table>(&mut self, event: Event, now: Instant, table: &mut T) -> Step {
        let mut step = Step::default();
        let mut scene = Scene { table, now, past: &mut self.past, step: &mut step };
        let outcome = match (event, self.reading) {
            (Event::Tick, _) => {
                self.probe_wanted = true;
                Ok(())
            }
            (Event::Notice(notice), _) => hear(&mut self.state, &mut self.probe_wanted, &notice, &mut scene),
            (Event::Position(probe), Some(Reading::Position { sent_at, reached })) => {
                self.reading = None;
                // Before it proves anything: these are revocations too.
                scene.table.recall(&probe.recalled, now);
                take_position(&mut self.state, probe.position, sent_at, reached, &mut scene)
            }
            (Event::Changes(changes), Some(Reading::Changes { after })) => {
                self.reading = None;
                take_changes(&mut self.state, &mut self.probe_wanted, changes, after, &mut scene)
            }
            (Event::Snapshot { position, checksum }, Some(Reading::Snapshot)) => {
                self.reading = None;
                self.state = State::Synced(Synced::new(position, checksum));
                self.probe_wanted = true;
                Ok(())
            }
            (Event::Failed, Some(_)) => {
                self.reading = None;
                self.pause();
                Ok(())
            }
            // An answer to nothing that was asked.
            (Event::Position(_) | Event::Changes(_) | Event::Snapshot { .. } | Event::Failed, _) => Ok(()),
        };
        if let Err(finding) = outcome {
            self.lose(finding);
            step.findings.push(finding);
        }
        step.read = self.next(now);
        step
    }

    /// The next read, if none is outstanding. The position comes first: a log that is read over and over must not keep
    /// freshness from being proven.
    fn next(&mut self, now: Instant) -> Option<Read> {
        if self.reading.is_some() {
            return None;
        }
        let (reading, read) = match &mut self.state {
            State::Unsynced { answered: answered @ true } => {
                *answered = false;
                (Reading::Snapshot, Read::Snapshot)
            }
            state if self.probe_wanted => {
                self.probe_wanted = false;
                let reached = if let State::Synced(synced) = state { synced.revision } else { Revision(0) };
                (Reading::Position { sent_at: now, reached }, Read::Position)
            }
            State::Synced(synced) if synced.moved || synced.heard > synced.revision => {
                synced.moved = false;
                let after = synced.revision;
                (Reading::Changes { after }, Read::Changes { after })
            }
            State::Unsynced { .. } | State::Synced(_) => return None,
        };
        self.reading = Some(reading);
        Some(read)
    }

    /// After a failure nothing is read but the position, which tells what there is to catch up with: at once if it was
    /// asked for meanwhile, such as by a connection that came back, and with the next tick otherwise.
    fn pause(&mut self) {
        if let State::Synced(synced) = &mut self.state {
            synced.moved = false;
            synced.heard = synced.revision;
        }
    }

    /// Gives up the position. The table keeps what it has, and requests are served from it while it counts as fresh.
    fn lose(&mut self, why: Finding) {
        let state = std::mem::replace(&mut self.state, State::Unsynced { answered: false });
        self.past.lineage = match (why, state) {
            // Being too slow breaks no history.
            (Finding::LogTruncated(_), State::Synced(synced)) => match synced.trust {
                Trust::Settled { .. } => Some((synced.epoch, synced.revision)),
                Trust::Unsettled { .. } => self.past.lineage,
            },
            _ => None,
        };
    }
}

impl Default for Synchroniser {
    fn default() -> Self {
        Self::new()
    }
}

/// What an event is handled with.
struct Scene<'a, T> {
    table: &'a mut T,
    now: Instant,
    past: &'a mut Past,
    step: &'a mut Step,
}

fn hear<T: Table>(
    state: &mut State,
    probe_wanted: &mut bool,
    notice: &Notice,
    scene: &mut Scene<'_, T>,
) -> Result<(), Finding> {
    match (notice, state) {
        // While unsynced, whatever moved will be in the snapshot or in the log after it.
        (Notice::Moved, State::Unsynced { .. }) => {}
        (Notice::Moved, State::Synced(synced)) => synced.moved = true,
        (Notice::Lost, _) => *probe_wanted = true,
        (Notice::Committed { epoch, entry }, State::Synced(synced)) if *epoch == synced.epoch => {
            if synced.is_next(entry) {
                return synced.apply(entry, scene);
            }
            // Also when its turn is long past: what was mixed into a snapshot may be of a store that has lost it since.
            scene.table.revoke(entry, scene.now);
            if entry.revision > synced.revision {
                synced.heard = synced.heard.max(entry.revision);
            } else if synced.stated_at(entry.revision).is_some_and(|stated| stated.head != entry.head) {
                // Not a repetition: the store has another past than we have.
                *probe_wanted = true;
            }
        }
        // Late news from an epoch that ended, or first news from one that began: only the position tells.
        (Notice::Committed { entry, .. }, State::Synced(_)) => {
            scene.table.revoke(entry, scene.now);
            *probe_wanted = true;
        }
        (Notice::Committed { entry, .. }, State::Unsynced { .. }) => scene.table.revoke(entry, scene.now),
    }
    Ok(())
}

fn take_position<T: Table>(
    state: &mut State,
    position: Position,
    sent_at: Instant,
    reached: Revision,
    scene: &mut Scene<'_, T>,
) -> Result<(), Finding> {
    let State::Synced(synced) = state else {
        let continues =
            |(epoch, revision): &(Epoch, Revision)| position.epoch == *epoch && position.revision >= *revision;
        scene.past.lineage = scene.past.lineage.filter(continues);
        *state = State::Unsynced { answered: true };
        return Ok(());
    };
    if position.epoch != synced.epoch {
        return Err(Finding::OtherEpoch(position.epoch));
    }
    if position.revision < reached {
        return Err(Finding::Regressed { from: reached, to: position.revision });
    }
    let stated = Stated { head: position.head, checksum: position.checksum };
    let proof = Proof { revision: position.revision, stated, sent_at };
    if proof.revision > synced.revision {
        synced.heard = synced.heard.max(proof.revision);
        // One that is owed already is reached sooner; unless it is of writes that the store has lost since.
        synced.owed = synced.owed.filter(|owed| owed.revision <= proof.revision).or(Some(proof));
        return Ok(());
    }
    // Asked for later than what may be owed still: that was of a store which has lost writes since.
    synced.owed = None;
    synced.prove(proof, scene)
}

fn take_changes<T: Table>(
    state: &mut State,
    probe_wanted: &mut bool,
    changes: Changes,
    after: Revision,
    scene: &mut Scene<'_, T>,
) -> Result<(), Finding> {
    let State::Synced(synced) = state else { return Ok(()) };
    let (entries, more) = match changes {
        Changes::Entries(entries) => (entries, false),
        Changes::Page(entries) => (entries, true),
        Changes::Truncated if synced.revision == after && synced.owed.is_some() => {
            return Err(Finding::LogTruncated(after));
        }
        Changes::Truncated => {
            // Notices have carried us past the revision that the log no longer has. Or the store is below it and has
            // lost writes, which a log cannot tell from having been trimmed; the position can.
            *probe_wanted = true;
            synced.heard = synced.revision;
            return Ok(());
        }
    };
    for entry in &entries {
        if synced.is_next(entry) {
            synced.apply(entry, scene)?;
        } else if entry.revision > synced.revision {
            return Err(Finding::LogIncomplete(synced.revision));
        }
    }
    if synced.revision == after {
        if synced.owed.is_some() {
            // The position said that there is more than the log has.
            return Err(Finding::LogIncomplete(after));
        }
        synced.heard = after; // hearsay, until the next probe says otherwise
    }
    synced.moved |= more;
    Ok(())
}

impl Synced {
    fn new(position: Position, found: u64) -> Self {
        let revision = position.revision;
        Self {
            epoch: position.epoch,
            revision,
            found,
            stated: VecDeque::from([Stated { head: position.head, checksum: position.checksum }]),
            trust: Trust::Unsettled { snapshot: revision },
            owed: None,
            heard: revision,
            moved: false,
        }
    }

    fn position(&self) -> Option<Position> {
        let Stated { head, checksum } = *self.stated.back()?;
        Some(Position { epoch: self.epoch, revision: self.revision, head, checksum })
    }

    fn is_next(&self, entry: &LogEntry) -> bool {
        self.stated.back().is_some_and(|stated| entry.follows(stated.head, self.revision))
    }

    /// What the store had at a revision, if it is one of the latest.
    fn stated_at(&self, revision: Revision) -> Option<Stated> {
        let back = usize::try_from(self.revision.0.checked_sub(revision.0)?).ok()?;
        let index = self.stated.len().checked_sub(1)?.checked_sub(back)?;
        self.stated.get(index).copied()
    }

    /// Applies the next entry, and checks it as far as it can be checked.
    fn apply<T: Table>(&mut self, entry: &LogEntry, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        self.found = scene.table.apply(entry, scene.now);
        self.revision = entry.revision;
        if self.stated.len() == STATED {
            self.stated.pop_front();
        }
        self.stated.push_back(Stated { head: entry.head, checksum: entry.checksum });
        if let Trust::Settled { difference } = self.trust
            && self.found ^ entry.checksum != difference
        {
            return Err(Finding::Diverged(entry.revision));
        }
        match self.owed.take_if(|proof| proof.revision <= entry.revision) {
            Some(proof) => self.prove(proof, scene),
            None => Ok(()),
        }
    }

    /// The store was at a revision that we have reached: if it had our checksum there, all is well as of then.
    fn prove<T: Table>(&mut self, proof: Proof, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        match self.stated_at(proof.revision) {
            // Longer ago than we remember: proves nothing.
            None => return Ok(()),
            Some(stated) if stated != proof.stated => return Err(Finding::Diverged(proof.revision)),
            Some(_) => {}
        }
        if let Trust::Unsettled { snapshot } = self.trust {
            self.settle(snapshot, scene)?;
        }
        scene.table.confirm(proof.sent_at);
        Ok(())
    }

    /// The log was applied up to a position read after the snapshot, so the table is exact; or the snapshot was not.
    fn settle<T: Table>(&mut self, snapshot: Revision, scene: &mut Scene<'_, T>) -> Result<(), Finding> {
        let stated = self.stated.back().map_or(0, |stated| stated.checksum);
        let difference = self.found ^ stated;
        let known = scene.past.suspect.replace(difference) == Some(difference);
        if difference != 0 && !known {
            return Err(Finding::Unproven(self.revision));
        }
        let continues = |(epoch, revision)| epoch == self.epoch && revision <= snapshot;
        let absence_proves = difference == 0 && scene.past.lineage.is_some_and(continues);
        scene.table.sweep(absence_proves, scene.now);
        self.trust = Trust::Settled { difference };
        if difference != 0 {
            scene.step.findings.push(Finding::Contradiction(self.revision));
        }
        scene.step.findings.extend(self.position().map(Finding::Synced));
        Ok(())
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
