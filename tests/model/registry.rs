//! Commands of the registry that are under way while other things happen: one that has read a record and commits later, and
//! one that waits until no sidecar lets a token in.

use tollgate::store::{CommitId, Position};

use crate::world::{Commit, Heard, Store, Tokens};

/// What makes a record the one that was read, and a commit the one that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rules {
    /// The id of the commit.
    ByCommit,
    /// Its revision, as it once was. Then a receipt asked for nothing but that number in the reports that there were, and a
    /// sidecar could be fresh without one.
    ByRevision,
}

/// What a sidecar said that it has applied, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    pub(crate) applied: Option<Position>,
    pub(crate) tick: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Registry {
    rules: Rules,
    /// A token is being reassigned, by a record of this version.
    reassigning: Option<(u8, CommitId)>,
    waiting: Option<Waiting>,
    /// Tokens that no sidecar lets in, as a command has said; without those whose revocation the store has lost since.
    pub(crate) vouched: Tokens,
}

/// A command that has revoked a token, and has looked at these reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    revocation: Commit,
    reports: Option<Vec<Option<Report>>>,
}

impl Registry {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, reassigning: None, waiting: None, vouched: 0 }
    }

    /// Whether proofs count only that were made while the store had a report.
    pub(crate) fn requires_reports(&self) -> bool {
        self.rules == Rules::ByCommit
    }

    pub(crate) fn is_reassigning(&self) -> bool {
        self.reassigning.is_some()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    pub(crate) fn has_looked(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.reports.is_some())
    }

    /// Reads the record of an active token.
    pub(crate) fn read(&mut self, store: &Store, token: u8) {
        self.reassigning = Some((token, self.version(store, token)));
    }

    /// Commits what follows from the record, if it still has the version that was read.
    pub(crate) fn write(&mut self, store: &mut Store, clock: u8) {
        let Some((token, read)) = self.reassigning.take() else { return };
        if self.version(store, token) == read {
            store.reassign(token, clock);
        }
    }

    fn version(&self, store: &Store, token: u8) -> CommitId {
        match (store.last_of(token), self.rules) {
            (Some(commit), Rules::ByCommit) => commit.id,
            (Some(commit), Rules::ByRevision) => CommitId(commit.at.revision.into()),
            (None, _) => CommitId(0),
        }
    }

    pub(crate) fn wait(&mut self, revocation: Commit) {
        self.waiting = Some(Waiting { revocation, reports: None });
    }

    /// Reads the reports that there are.
    pub(crate) fn look(&mut self, store: &Store, clock: u8) {
        if let Some(waiting) = &mut self.waiting {
            waiting.reports = Some(store.reports.iter().map(|report| report.filter(|it| it.tick >= clock)).collect());
        }
    }

    /// Says yes, or begins again. That there is another sidecar, which has applied everything, goes without saying: where
    /// there is none at all, no command says yes.
    pub(crate) fn conclude(&mut self, store: &mut Store, clock: u8) {
        let Some(waiting) = &mut self.waiting else { return };
        let Some(reports) = waiting.reports.take() else { return };
        let (revocation, mut reports) = (waiting.revocation, reports.into_iter().flatten());
        let yes = match self.rules {
            Rules::ByRevision => {
                let wanted = revocation.at.position();
                let has = |at: Position| at.epoch == wanted.epoch && at.revision >= wanted.revision;
                reports.all(|report| report.applied.is_some_and(has))
            }
            Rules::ByCommit => {
                let all_heard = store.has_heard_all(clock);
                let applied = |report: Report| report.applied.is_some_and(|at| store.went_through(&revocation, at));
                all_heard && store.still_has(&revocation) && reports.all(applied)
            }
        };
        if yes {
            self.vouched |= 1 << revocation.token;
            self.waiting = None;
        }
    }

    /// The store has lost writes.
    pub(crate) fn forget(&mut self, revoked: Tokens) {
        self.vouched &= revoked;
    }
}

impl Store {
    /// Whether every sidecar that may be fresh has a report here, if one has.
    fn has_heard_all(&mut self, clock: u8) -> bool {
        match self.heard {
            Heard::Always => true,
            Heard::Perhaps => {
                self.heard = Heard::Since(clock);
                false
            }
            // What was fresh then is fresh no more.
            Heard::Since(tick) => tick < clock,
        }
    }

    fn still_has(&self, commit: &Commit) -> bool {
        self.commits.iter().any(|kept| kept.id == commit.id)
    }

    /// Whether a sidecar that was here had applied the commit.
    fn went_through(&self, commit: &Commit, place: Position) -> bool {
        let since = self.commits.iter().skip_while(|kept| kept.id != commit.id);
        let mut places = since.map(|kept| kept.at.position());
        places.any(|at| at.epoch == place.epoch && at.head == place.head)
    }
}
