//! How the replica stays at the store's position: a state machine without I/O, clock or tasks.
//!
//! ```text
//!                   Tick             answered             everything was handed over
//!   ┌─► unsynced ─────────► position ─────────► snapshot ─────────┐
//!   │                                                             ▼
//!   │ another epoch, a trimmed log,                           unsettled ── position, and the log up to it:
//!   │ another checksum with the same head                         │        checksums equal
//!   ├───────────────────────────── settled ◄──────────────────────┤
//!   │                              notices apply in order; a gap reads the log; every probe proves freshness
//!   │ another head, or a smaller revision: the store lost writes  │
//!   └──── position ──────► ancestor ──────► what the lost writes were about
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
//! - **A fork is undone, not forgotten.** What the table came by since the common ancestor is known, so what those commits
//!   were about is read again: the table is then what the store had at the ancestor, mixed with later commits as a
//!   snapshot is. What was seen revoked in the lost writes stays so: that is the table's affair. Where a snapshot is mixed
//!   in still, or the ancestor is older than the memory, a new snapshot is needed.
//! - **A position below ours is a regression only if it was asked for after we got there.** Answers and notices travel
//!   separately and overtake each other.
//! - **Revocations do not wait for their turn**, nor are they ever too late. A notice that is not the next one is
//!   searched for them at once. Nor does what else is narrowed, which holds until its turn, or until a proof was asked for
//!   that would show it: what the table does not have by then, the store has lost.
//! - **What was read is never undone by what came before it.** A snapshot, or what was read again, is later than log entries
//!   that are applied over it. Where these let in more, what was read goes on to count until the next proof.
//! - **Absence proves nothing.** A snapshot that does not show a token any more leaves open whether it was revoked, or whether
//!   the store has lost that it was created. Which of them, the store is asked: what it knows as revoked or deleted stays so.
//!   That too is the table's affair, and the driver's.

mod finding;
mod history;
mod repair;
mod synced;

pub use self::finding::{Finding, Remedy};
use self::history::Stated;
use self::repair::Repair;
use self::synced::{Proof, Synced, Trust};
use crate::clock::Instant;
use crate::store::{Changes, Epoch, Head, LogEntry, Notice, Position, Probe, Revision, SnapshotItem, Subject};

/// What the synchroniser does to the replica. `now` is the moment of the event that led to it.
pub trait Table {
    /// Applies the next entry; returns the checksum of what the store holds after it, as far as the table knows.
    fn apply(&mut self, entry: &LogEntry, now: Instant) -> u64;
    /// Applies only the revocations of an entry that was applied before, or may have been.
    fn revoke(&mut self, entry: &LogEntry, now: Instant);
    /// Takes what an entry of this epoch takes away, whose turn has not come: its revocations for good, and what else it
    /// narrows until it is applied or something is confirmed as of a later moment.
    fn anticipate(&mut self, epoch: Epoch, entry: &LogEntry, now: Instant);
    /// The store has lost writes about these, and shows them as `found`, or no longer; returns the checksum, as `apply`.
    /// That one is gone does not say that it was revoked.
    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], now: Instant) -> u64;
    /// Removes what the latest snapshot and the changes since have not shown. That does not say that it was revoked.
    fn sweep(&mut self);
    /// Everything committed before `as_of` is in the table.
    fn confirm(&mut self, as_of: Instant);
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// It is time to probe, or to try again.
    Tick,
    /// The store said something by itself.
    Notice(Notice),
    /// The answer to [`Read::Position`].
    Position(Probe),
    /// The answer to [`Read::Changes`].
    Changes(Changes),
    /// The answer to [`Read::Ancestor`].
    Ancestor(Option<Revision>),
    /// The answer to [`Read::Items`].
    Items(Vec<SnapshotItem>),
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

/// What to read from the store. The answer comes back as an [`Input`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The store's position, by [`Feed::probe`](crate::store::Feed::probe).
    Position,
    /// The change log after a revision.
    Changes {
        /// The last one that was applied.
        after: Revision,
    },
    /// Where the store's history and the table's part, by [`Feed::ancestor`](crate::store::Feed::ancestor).
    Ancestor {
        /// Where the table is.
        latest: Revision,
        /// The heads that led there, backwards.
        heads: Vec<Head>,
    },
    /// What the store has of these.
    Items(Vec<Subject>),
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

/// The state machine. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Synchroniser {
    state: State,
    reading: Option<Reading>,
    /// Ask for the position as soon as nothing else is being read.
    probe_wanted: bool,
    /// The position was read last: what it showed is read before it is asked for again.
    probed_last: bool,
    /// By what the latest snapshot differed from the store's checksum.
    suspect: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    /// What the table holds is of no known position.
    Unsynced {
        /// The store has answered since: the repair goes on, or the snapshot is next.
        answered: bool,
        /// It is of a past that the store has lost, and can be brought back to one that it has.
        repair: Option<Box<Repair>>,
    },
    Synced(Synced),
}

impl State {
    /// Whether more than the position is to be read, but for a snapshot, which comes first always.
    fn has_more(&self) -> bool {
        match self {
            Self::Unsynced { answered, repair } => *answered && repair.is_some(),
            Self::Synced(synced) => synced.has_more(),
        }
    }
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
    Ancestor,
    Items,
    Snapshot,
}

impl Synchroniser {
    /// Nothing is known yet; the first [`Input::Tick`] sets it going.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Unsynced { answered: false, repair: None },
            reading: None,
            probe_wanted: false,
            probed_last: false,
            suspect: None,
        }
    }

    /// The table was filled by an earlier run's work, as if by a snapshot: it holds what the store had at `position`,
    /// mixed with later commits, and its checksum is `found`. Nothing of that proves freshness.
    #[must_use]
    pub fn resumed(position: Position, found: u64) -> Self {
        Self { state: State::Synced(Synced::new(position, found)), ..Self::new() }
    }

    /// The store's position that the table has reached; `None` until it is settled.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.state {
            State::Synced(synced) if matches!(synced.trust, Trust::Settled { .. }) => Some(synced.position()),
            State::Synced(_) | State::Unsynced { .. } => None,
        }
    }

    /// Whether the table is settled and nothing later than what it holds is known to exist.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        match &self.state {
            State::Synced(synced) => {
                let asking = synced.moved || matches!(self.reading, Some(Reading::Changes { .. }));
                let behind = !synced.owed.is_empty() || synced.announced > synced.revision();
                !asking && !behind && matches!(synced.trust, Trust::Settled { .. })
            }
            State::Unsynced { .. } => false,
        }
    }

    /// Takes what happened at `now`, does what follows to the table, and says what to read next.
    ///
    /// An answer must be to the one outstanding read, and `now` must be a moment before the returned read is sent.
    pub fn on<T: Table>(&mut self, input: Input, now: Instant, table: &mut T) -> Step {
        let mut step = Step::default();
        let mut scene = Scene { table, now, suspect: &mut self.suspect, step: &mut step };
        let outcome = match (input, self.reading) {
            (Input::Tick, _) => {
                self.probe_wanted = true;
                Ok(())
            }
            (Input::Notice(notice), _) => take_notice(&mut self.state, &mut self.probe_wanted, &notice, &mut scene),
            (Input::Position(probe), Some(Reading::Position { sent_at, reached })) => {
                self.reading = None;
                take_position(&mut self.state, probe.position, sent_at, reached, &mut scene)
            }
            (Input::Changes(changes), Some(Reading::Changes { after })) => {
                self.reading = None;
                take_changes(&mut self.state, &mut self.probe_wanted, changes, after, &mut scene)
            }
            (Input::Ancestor(ancestor), Some(Reading::Ancestor)) => {
                self.reading = None;
                take_ancestor(&mut self.state, &mut self.probe_wanted, ancestor, &mut scene)
            }
            (Input::Items(items), Some(Reading::Items)) => {
                self.reading = None;
                take_items(&mut self.state, &mut self.probe_wanted, &items, &mut scene);
                Ok(())
            }
            (Input::Snapshot { position, checksum }, Some(Reading::Snapshot)) => {
                self.reading = None;
                self.state = State::Synced(Synced::new(position, checksum));
                self.probe_wanted = true;
                Ok(())
            }
            (Input::Failed, Some(_)) => {
                self.reading = None;
                self.pause();
                Ok(())
            }
            // An answer to nothing that was asked.
            (
                Input::Position(_)
                | Input::Changes(_)
                | Input::Ancestor(_)
                | Input::Items(_)
                | Input::Snapshot { .. }
                | Input::Failed,
                _,
            ) => Ok(()),
        };
        if let Err(finding) = outcome {
            step.findings.push(finding);
            if !self.lose(finding) && finding.remedy() == Remedy::Repair {
                step.findings.push(Finding::NoCommonAncestor);
            }
        }
        step.read = self.next(now);
        step
    }

    /// The next read, if none is outstanding. The position and what else there is take turns: a log that is read over and over
    /// must not hold up the proof of freshness, nor may probes that are due as often as an answer takes hold up what it needs.
    fn next(&mut self, now: Instant) -> Option<Read> {
        if self.reading.is_some() {
            return None;
        }
        let (reading, read) = match &mut self.state {
            State::Unsynced { answered: answered @ true, repair: None } => {
                *answered = false;
                (Reading::Snapshot, Read::Snapshot)
            }
            state if self.probe_wanted && !(self.probed_last && state.has_more()) => {
                self.probe_wanted = false;
                let reached = if let State::Synced(synced) = state { synced.revision() } else { Revision(0) };
                (Reading::Position { sent_at: now, reached }, Read::Position)
            }
            State::Unsynced { answered: true, repair: Some(repair) } => repair.next(),
            State::Synced(synced) if synced.has_more() => {
                synced.moved = false;
                let after = synced.revision();
                (Reading::Changes { after }, Read::Changes { after })
            }
            State::Unsynced { .. } | State::Synced(_) => return None,
        };
        self.reading = Some(reading);
        self.probed_last = matches!(reading, Reading::Position { .. });
        Some(read)
    }

    /// After a failure nothing is read but the position, which shows what there is to catch up with: at once if it was
    /// asked for meanwhile, such as by a connection that came back, and with the next tick otherwise.
    fn pause(&mut self) {
        match &mut self.state {
            State::Synced(synced) => {
                synced.moved = false;
                synced.announced = synced.revision();
            }
            State::Unsynced { answered, .. } => *answered = false,
        }
    }

    /// Gives up the position. The table retains what it has, and requests are served from it while it counts as fresh.
    /// Whether it can be repaired.
    fn lose(&mut self, why: Finding) -> bool {
        let state = std::mem::replace(&mut self.state, State::Unsynced { answered: false, repair: None });
        let State::Synced(synced) = state else { return false };
        let repair = if why.remedy() == Remedy::Repair { Repair::of(synced) } else { None };
        let can_be_repaired = repair.is_some();
        self.state = State::Unsynced { answered: false, repair: repair.map(Box::new) };
        can_be_repaired
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
    suspect: &'a mut Option<u64>,
    step: &'a mut Step,
}

fn take_notice<T: Table>(
    state: &mut State,
    probe_wanted: &mut bool,
    notice: &Notice,
    scene: &mut Scene<'_, T>,
) -> Result<(), Finding> {
    match (notice, state) {
        // While unsynced, whatever moved will be in the snapshot or in the log after it.
        (Notice::Moved | Notice::Advanced { .. }, State::Unsynced { .. }) => {}
        (Notice::Moved | Notice::Advanced { .. }, State::Synced(synced)) => synced.moved = true,
        (Notice::Lost, _) => *probe_wanted = true,
        (Notice::Committed { epoch, entry }, State::Synced(synced)) if *epoch == synced.epoch => {
            if synced.is_next(entry) {
                return synced.apply(entry, scene);
            }
            if entry.revision > synced.revision() {
                scene.table.anticipate(*epoch, entry, scene.now);
                synced.announced = synced.announced.max(entry.revision);
            } else if synced.history.at(entry.revision).is_some_and(|stated| stated.head != entry.head) {
                // Not a repetition: the store has another past than we have.
                scene.table.anticipate(*epoch, entry, scene.now);
                *probe_wanted = true;
            } else {
                // Though its turn is long past: what was mixed into a snapshot may be of a store that has lost it since.
                scene.table.revoke(entry, scene.now);
            }
        }
        // Late news from an epoch that ended, or first news from one that began: only the position shows.
        (Notice::Committed { epoch, entry }, State::Synced(_)) => {
            scene.table.anticipate(*epoch, entry, scene.now);
            *probe_wanted = true;
        }
        (Notice::Committed { epoch, entry }, State::Unsynced { .. }) => {
            scene.table.anticipate(*epoch, entry, scene.now);
        }
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
    let synced = match state {
        State::Synced(synced) => synced,
        State::Unsynced { repair: Some(repair), .. } if repair.synced.epoch != position.epoch => {
            return Err(Finding::OtherEpoch(position.epoch));
        }
        State::Unsynced { answered, .. } => {
            *answered = true;
            return Ok(());
        }
    };
    if position.epoch != synced.epoch {
        return Err(Finding::OtherEpoch(position.epoch));
    }
    if position.revision < reached {
        return Err(Finding::Regressed { from: reached, to: position.revision });
    }
    let stated = Stated { head: position.head, checksum: position.checksum };
    let proof = Proof { revision: position.revision, stated, sent_at };
    if proof.revision > synced.revision() {
        synced.owe(proof);
        return Ok(());
    }
    // Asked for later than what may be owed still: that was of a store which has lost writes since.
    synced.owed.clear();
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
        Changes::Truncated | Changes::Costly(_) if synced.revision() == after && !synced.owed.is_empty() => {
            return Err(Finding::LogTruncated(after));
        }
        Changes::Truncated | Changes::Costly(_) | Changes::Below => {
            // Notices have carried us past the revision that the log no longer has. Or the store is below it, or was, and
            // has lost writes: the position shows it.
            *probe_wanted = true;
            synced.forget_announced();
            return Ok(());
        }
    };
    for entry in &entries {
        if synced.is_next(entry) {
            synced.apply(entry, scene)?;
        } else if entry.revision == synced.revision().next() {
            return Err(Finding::Forked(entry.revision));
        } else if entry.revision > synced.revision() {
            return Err(Finding::LogIncomplete(synced.revision()));
        }
    }
    if synced.revision() == after {
        // The position said that there is more than the log has: the store has lost it since, or its log is damaged.
        *probe_wanted |= !synced.owed.is_empty();
        synced.forget_announced();
    }
    synced.moved |= more;
    Ok(())
}

fn take_ancestor<T: Table>(
    state: &mut State,
    probe_wanted: &mut bool,
    ancestor: Option<Revision>,
    scene: &mut Scene<'_, T>,
) -> Result<(), Finding> {
    let State::Unsynced { repair: Some(repair), .. } = state else { return Ok(()) };
    repair.go_back(ancestor)?;
    if repair.page().is_empty() {
        // Nobody's token or user was changed by what is lost.
        take_items(state, probe_wanted, &[], scene);
    }
    Ok(())
}

fn take_items<T: Table>(state: &mut State, probe_wanted: &mut bool, items: &[SnapshotItem], scene: &mut Scene<'_, T>) {
    let State::Unsynced { repair, .. } = state else { return };
    let Some(mut read) = repair.take() else { return };
    read.synced.found = scene.table.repair(read.page(), items, scene.now);
    if read.turn_page() {
        *repair = Some(read);
        return;
    }
    // The table is of the store's past again.
    read.synced.forget_announced();
    *state = State::Synced(read.synced);
    *probe_wanted = true;
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
