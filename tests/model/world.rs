//! Everything that can happen: a store, sidecars, and what is on its way between them.

use std::sync::OnceLock;
use std::time::Duration;

use tollgate::clock::Instant;

use tollgate::replica::sync::{Input, Read, Synchroniser};
use tollgate::store::{
    Change, Changes, CommitId, Epoch, Head, LogEntry, Notice, Position, Probe, Revision, SnapshotItem, Subject,
};
use tollgate::token::{Digest, Grant, PermissionSet, TokenId, UserId};

use crate::registry::{Registry, Report, Rules};
use crate::table::Held;

/// A set of tokens, one bit each.
pub(crate) type Tokens = u8;

/// More than any model uses.
pub(crate) const TOKENS: usize = 4;

/// Every token.
fn all() -> impl Iterator<Item = u8> {
    0..4
}

pub(crate) fn digest(token: u8) -> Digest {
    static DIGESTS: OnceLock<Vec<Digest>> = OnceLock::new();
    DIGESTS.get_or_init(|| all().map(|token| Digest::of(&[token])).collect())[usize::from(token)]
}

/// The token of a digest.
pub(crate) fn token(digest: &Digest) -> Tokens {
    all().find(|token| self::digest(*token) == *digest).map_or(0, |token| 1 << token)
}

/// The token that something is about.
pub(crate) fn about(subject: &Subject) -> Tokens {
    match subject {
        Subject::Token(digest) => token(digest),
        Subject::User(_) => 0,
    }
}

pub(crate) fn owner() -> UserId {
    UserId::from_u64(1)
}

pub(crate) fn grant(token: u8) -> Grant {
    let (token, permissions) = (TokenId::from_u64(token.into()), PermissionSet::TELEGRAF_AGENT);
    Grant { token, owner: owner(), permissions, expires_at: None }
}

/// When the model's time begins.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn instant(tick: u8) -> Instant {
    origin() + Duration::from_secs(tick.into())
}

/// Within a tick, after so many probes that were answered in vain.
fn instant_after(tick: u8, doubts: u8) -> Instant {
    instant(tick) + Duration::from_nanos(doubts.into())
}

pub(crate) fn tick(instant: Instant) -> u8 {
    u8::try_from(instant.duration_since(origin()).as_secs()).expect("few ticks")
}

/// What the store held at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct At {
    pub(crate) epoch: u8,
    pub(crate) revision: u8,
    head: Head,
    pub(crate) active: Tokens,
    pub(crate) revoked: Tokens,
}

impl At {
    pub(crate) fn position(self) -> Position {
        let (epoch, revision) = (Epoch(self.epoch.into()), Revision(self.revision.into()));
        Position { epoch, revision, head: self.head, checksum: self.active.into() }
    }
}

/// One commit: which token it was about, and what the store then held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    pub(crate) id: CommitId,
    pub(crate) token: u8,
    pub(crate) at: At,
}

impl Commit {
    fn entry(self) -> LogEntry {
        let change = match self.revokes() {
            0 => Change::PutGrant(digest(self.token), grant(self.token)),
            _ => Change::RemoveGrant(digest(self.token)),
        };
        let Position { revision, head, checksum, .. } = self.at.position();
        LogEntry { id: self.id, revision, head, checksum, changes: vec![change] }
    }

    fn revokes(self) -> Tokens {
        !self.at.active & 1 << self.token
    }
}

/// Since when the server in charge has been given every report that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Heard {
    Always,
    /// It took over, and nobody has noticed that yet.
    Perhaps,
    /// It was noticed at this tick.
    Since(u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    /// What it held at its first revision in this epoch.
    base: At,
    /// What was committed since.
    pub(crate) commits: Vec<Commit>,
    /// The log shows what was committed after this revision.
    trimmed: u8,
    pub(crate) recalled: Tokens,
    /// Everything it ever published. Any of it reaches any sidecar at any time, any number of times, or never.
    published: Vec<Commit>,
    /// What sidecars have reported; empty where nobody waits.
    pub(crate) reports: Vec<Option<Report>>,
    pub(crate) heard: Heard,
    /// Tokens that were created. None is created twice, unless the store has lost that it was, and nobody has revoked it.
    created: Tokens,
    /// Since which tick it has held each token as active, as revoked, and as recalled.
    pub(crate) active_since: [Option<u8>; TOKENS],
    pub(crate) revoked_since: [Option<u8>; TOKENS],
    pub(crate) recalled_since: [Option<u8>; TOKENS],
}

impl Store {
    /// With some tokens active, by one commit before the first tick, which the log shows.
    fn new(active: Tokens) -> Self {
        let mut store = Self {
            base: At { epoch: 0, revision: 1, head: Head::START.then(CommitId(0)), active, revoked: 0 },
            commits: Vec::new(),
            trimmed: 0,
            recalled: 0,
            published: Vec::new(),
            reports: Vec::new(),
            heard: Heard::Always,
            created: active,
            active_since: [None; TOKENS],
            revoked_since: [None; TOKENS],
            recalled_since: [None; TOKENS],
        };
        store.date(0);
        store
    }

    pub(crate) fn at(&self) -> At {
        self.commits.last().map_or(self.base, |last| last.at)
    }

    /// Tokens that were revoked in any of its pasts.
    pub(crate) fn ever_revoked(&self) -> Tokens {
        self.published.iter().fold(0, |tokens, commit| tokens | commit.revokes())
    }

    /// Creates a token, or revokes it if it is active.
    fn commit(&mut self, token: u8, clock: u8) {
        let At { active, revoked, .. } = self.at();
        self.write(token, active ^ 1 << token, revoked | active & 1 << token, clock);
        self.created |= 1 << token;
    }

    /// Writes the record of a token as it was read while it was active, but for the owner.
    pub(crate) fn reassign(&mut self, token: u8, clock: u8) {
        let At { active, revoked, .. } = self.at();
        self.write(token, active | 1 << token, revoked, clock);
    }

    /// The commit that wrote a token's record.
    pub(crate) fn last_of(&self, token: u8) -> Option<&Commit> {
        self.commits.iter().rfind(|commit| commit.token == token)
    }

    fn write(&mut self, token: u8, active: Tokens, revoked: Tokens, clock: u8) {
        let At { epoch, revision, head, .. } = self.at();
        // Never drawn before, although its revision may have been given out before.
        let id = CommitId(self.published.len() as u128 + 1);
        let (revision, head) = (revision + 1, head.then(id));
        let commit = Commit { id, token, at: At { epoch, revision, head, active, revoked } };
        self.commits.push(commit);
        self.published.push(commit);
        self.date(clock);
    }

    /// A failover to a replica that does not have the last commits, or not the recalls and reports.
    fn lose(&mut self, commits: u8, rest: bool, clock: u8) {
        self.commits.truncate(self.commits.len().saturating_sub(commits.into()));
        self.trimmed = self.trimmed.min(self.at().revision);
        self.created = self.at().active | self.ever_revoked();
        if rest {
            self.recalled = 0;
            self.reports.fill(None);
        }
        self.heard = if self.reports.is_empty() { Heard::Always } else { Heard::Perhaps };
        self.date(clock);
    }

    /// A backup becomes the store: everything is as it was then, but for the epoch.
    fn restore(&mut self, commits: u8, clock: u8) {
        self.lose(commits, true, clock);
        self.base = At { epoch: self.at().epoch + 1, ..self.at() };
        self.trimmed = self.base.revision;
        self.commits.clear();
    }

    /// Notes what has begun or ended.
    fn date(&mut self, clock: u8) {
        let mark = |since: &mut [Option<u8>; TOKENS], holds: Tokens| {
            for (token, since) in since.iter_mut().enumerate() {
                *since = (holds >> token & 1 == 1).then(|| since.unwrap_or(clock));
            }
        };
        let At { active, revoked, .. } = self.at();
        mark(&mut self.active_since, active);
        mark(&mut self.revoked_since, revoked);
        mark(&mut self.recalled_since, self.recalled);
    }

    fn changes(&self, after: u8) -> Log {
        if after > self.at().revision {
            return Log::Below;
        }
        let since = self.commits.iter().filter(|commit| commit.at.revision > after).copied();
        if after < self.trimmed { Log::Truncated } else { Log::Entries(since.collect()) }
    }

    /// Where its log shows one of these heads, which go backwards from a revision.
    fn ancestor(&self, latest: u8, heads: &[Head]) -> Option<u8> {
        let past = self.commits.iter().rev().map(|commit| commit.at).chain([self.base]);
        let shows = |at: &At| {
            let back = latest.checked_sub(at.revision);
            back.is_some_and(|back| heads.get(usize::from(back)) == Some(&at.head))
        };
        past.take_while(|at| at.revision > self.trimmed).find(shows).map(|at| at.revision)
    }
}

/// What follows in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Log {
    Entries(Vec<Commit>),
    Truncated,
    Below,
}

/// A read that is under way: nothing yet, or what the store has answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum UnderWay {
    /// With what is recalled, and whether the store has a report of the sidecar, or need not.
    Position(Option<(At, Tokens, bool)>),
    Changes {
        after: u8,
        answer: Option<Log>,
    },
    Ancestor {
        latest: u8,
        heads: Vec<Head>,
        answer: Option<Option<u8>>,
    },
    /// Of these tokens, those that there are.
    Items {
        asked: Tokens,
        answer: Option<Tokens>,
    },
    /// Where the store was before the first item, and which token is next.
    Snapshot {
        base: Option<At>,
        next: u8,
    },
}

/// A snapshot file; or one that is being written, with what it holds still to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct File {
    position: Option<Position>,
    as_of: Option<u8>,
    holds: Tokens,
    tombstones: Tokens,
    /// What the sidecar had sworn when it was written.
    sworn: Tokens,
}

/// Probes after which all is well once nothing breaks any more.
const PROBES: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sidecar {
    pub(crate) machine: Synchroniser,
    pub(crate) held: Held,
    pub(crate) under_way: Option<UnderWay>,
    /// What the last probe told of.
    told: Tokens,
    /// Of these, the store has said which it knows as revoked.
    explained: Option<(Tokens, Tokens)>,
    /// To be recalled.
    pub(crate) lost: Tokens,
    /// Being written: its position and proof are from its beginning.
    saving: Option<(Option<Position>, Option<u8>)>,
    pub(crate) file: Option<File>,
    /// Where it must be known to whoever waits.
    presence: Option<Presence>,
    /// Not of the sidecar, but of the model: tokens that it was told are revoked. A restart forgets what the file does
    /// not hold.
    pub(crate) sworn: Tokens,
}

/// Probes answered to no avail that are told apart: a position that is owed is of the first of them.
const MOST_DOUBTS: u8 = 1;

/// Which proofs count. A moment is a tick, and how many probes were answered in it before, to no avail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Presence {
    /// When the position was asked for that is being read.
    asked_at: Option<(u8, u8)>,
    /// When the first of those was asked for, up to the last, that the store answered while it had a report.
    known_since: Option<(u8, u8)>,
    doubts: u8,
}

impl Sidecar {
    fn new(presence: Option<Presence>) -> Self {
        Self {
            presence,
            machine: Synchroniser::new(),
            held: Held::new(),
            under_way: None,
            told: 0,
            explained: None,
            lost: 0,
            saving: None,
            file: None,
            sworn: 0,
        }
    }

    fn on(&mut self, input: Input, clock: u8) {
        self.sworn |= match &input {
            Input::Notice(Notice::Committed { entry, .. }) => {
                entry.changes.iter().fold(0, |tokens, change| match change {
                    Change::RemoveGrant(digest) => tokens | token(digest),
                    _ => tokens,
                })
            }
            _ => 0,
        };
        let doubts = self.presence.as_ref().map_or(0, |presence| presence.doubts);
        self.held.counts_from = self
            .presence
            .as_ref()
            .map(|presence| presence.known_since.map(|(tick, doubts)| instant_after(tick, doubts)));
        let step = self.machine.on(input, instant_after(clock, doubts), &mut self.held);
        self.held.counts_from = None;
        if let Some(read) = step.read {
            assert!(self.under_way.is_none(), "one read at a time");
            self.under_way = Some(match read {
                Read::Position => {
                    if let Some(presence) = &mut self.presence {
                        presence.asked_at = Some((clock, doubts));
                    }
                    UnderWay::Position(None)
                }
                Read::Changes { after } => {
                    UnderWay::Changes { after: u8::try_from(after.0).expect("few revisions"), answer: None }
                }
                Read::Ancestor { latest, heads } => {
                    UnderWay::Ancestor { latest: u8::try_from(latest.0).expect("few revisions"), heads, answer: None }
                }
                Read::Items(subjects) => {
                    let asked = subjects.iter().fold(0, |tokens, subject| tokens | about(subject));
                    UnderWay::Items { asked, answer: None }
                }
                Read::Snapshot => {
                    self.held.begin_merge();
                    // What the file will hold has no position then.
                    self.saving = self.saving.map(|(_, as_of)| (None, as_of));
                    UnderWay::Snapshot { base: None, next: 0 }
                }
            });
        }
        self.sworn |= self.held.tombstones;
        if std::mem::take(&mut self.held.mended) {
            self.saving = self.saving.map(|(_, as_of)| (None, as_of));
        }
        // As the driver does.
        if std::mem::take(&mut self.held.confirmed) && self.machine.is_caught_up() {
            self.lost = self.held.suppressed & !self.told;
        }
    }

    /// The store works on the read.
    fn serve(&mut self, store: &Store, is_known: bool, tokens: u8, clock: u8) {
        match &mut self.under_way {
            Some(UnderWay::Position(answer @ None)) => *answer = Some((store.at(), store.recalled, is_known)),
            Some(UnderWay::Changes { after, answer: answer @ None }) => *answer = Some(store.changes(*after)),
            Some(UnderWay::Ancestor { latest, heads, answer: answer @ None }) => {
                *answer = Some(store.ancestor(*latest, heads));
            }
            Some(UnderWay::Items { asked, answer: answer @ None }) => *answer = Some(store.at().active & *asked),
            Some(UnderWay::Snapshot { base: base @ None, .. }) => *base = Some(store.at()),
            Some(UnderWay::Snapshot { base: Some(base), next }) => {
                if store.at().active >> *next & 1 == 1 {
                    self.held.put(1 << *next);
                }
                *next += 1;
                if *next == tokens {
                    let position = base.position();
                    self.under_way = None;
                    let checksum = self.held.checksum();
                    self.on(Input::Snapshot { position, checksum }, clock);
                }
            }
            _ => {}
        }
    }

    /// The answer arrives.
    fn deliver(&mut self, clock: u8) {
        let input = match &self.under_way {
            Some(UnderWay::Position(Some((at, recalled, is_known)))) => {
                self.told = *recalled;
                // As the driver does.
                if let Some(presence) = &mut self.presence {
                    let asked_at = presence.asked_at.take();
                    presence.known_since = presence.known_since.or(asked_at).filter(|_| *is_known);
                    presence.doubts = (presence.doubts + u8::from(!is_known)).min(MOST_DOUBTS);
                }
                self.held.refuse(*recalled);
                self.sworn |= *recalled;
                Input::Position(Probe::from(at.position()))
            }
            Some(UnderWay::Changes { answer: Some(answer), .. }) => Input::Changes(match answer {
                Log::Entries(commits) => Changes::Entries(commits.iter().map(|commit| commit.entry()).collect()),
                Log::Truncated => Changes::Truncated,
                Log::Below => Changes::Below,
            }),
            Some(UnderWay::Ancestor { answer: Some(answer), .. }) => {
                Input::Ancestor(answer.map(|revision| Revision(revision.into())))
            }
            Some(UnderWay::Items { answer: Some(answer), .. }) => {
                let there = all().filter(|token| answer >> token & 1 == 1);
                Input::Items(there.map(|token| SnapshotItem::Grant(digest(token), grant(token))).collect())
            }
            _ => return,
        };
        self.under_way = None;
        self.on(input, clock);
    }

    fn is_answered(&self) -> bool {
        matches!(
            self.under_way,
            Some(
                UnderWay::Position(Some(_))
                    | UnderWay::Changes { answer: Some(_), .. }
                    | UnderWay::Ancestor { answer: Some(_), .. }
                    | UnderWay::Items { answer: Some(_), .. }
            )
        )
    }

    fn begin_save(&mut self) {
        self.saving = self.held.as_of.is_some().then(|| (self.machine.position(), self.held.as_of));
    }

    fn end_save(&mut self) {
        let Some((position, as_of)) = self.saving.take() else { return };
        let (holds, tombstones) = (self.held.grants | self.held.suppressed, self.held.tombstones);
        self.file = Some(File { position, as_of, holds, tombstones, sworn: self.sworn });
    }

    /// Starts again, from its file if there is one.
    fn start(&mut self) {
        let file = self.file.take();
        *self = Self::new(self.presence.take().map(|_| Presence::default()));
        if let Some(file) = &file {
            self.held.begin_merge();
            all().filter(|token| file.holds >> token & 1 == 1).for_each(|token| self.held.put(1 << token));
            self.held.adopt(file.tombstones, file.as_of);
            self.sworn = file.sworn;
        }
        self.file = file;
        self.machine = self.as_resumed();
    }

    /// What goes on from the file.
    fn as_resumed(&self) -> Synchroniser {
        match &self.file {
            Some(File { position: Some(position), .. }) => Synchroniser::resumed(*position, self.held.checksum()),
            _ => Synchroniser::new(),
        }
    }

    /// It serves what its file holds, and has heard nothing since.
    pub(crate) fn runs_on_its_file(&self) -> bool {
        self.held.as_of.is_some() && self.held.grants != 0 && self.machine == self.as_resumed()
    }

    /// The store has answered with the log's entries.
    pub(crate) fn is_given_entries(&self) -> bool {
        matches!(&self.under_way, Some(UnderWay::Changes { answer: Some(Log::Entries(entries)), .. }) if !entries.is_empty())
    }

    pub(crate) fn makes_up_for_lost_writes(&self) -> bool {
        matches!(self.under_way, Some(UnderWay::Items { .. }))
    }

    pub(crate) fn reads_a_snapshot(&self) -> bool {
        matches!(self.under_way, Some(UnderWay::Snapshot { .. }))
    }

    /// Nothing breaks any more: it probes, and every read is answered at once.
    pub(crate) fn settle(&mut self, store: &mut Store, tokens: u8, clock: u8) {
        for _ in 0..PROBES {
            self.on(Input::Tick, clock);
            while self.under_way.is_some() {
                self.serve(store, true, tokens, clock);
                self.deliver(clock);
            }
            self.recall(store, clock);
            self.ask(store);
            self.explain();
        }
    }

    /// The store is asked about what is gone.
    fn ask(&mut self, store: &Store) {
        let asked = self.held.vanished;
        self.explained = (asked != 0).then(|| (asked, asked & store.at().revoked));
    }

    /// Its answer comes.
    fn explain(&mut self) {
        let Some((asked, revoked)) = self.explained.take() else { return };
        self.held.explain(asked, revoked);
        self.sworn |= revoked;
    }

    /// The store has said that something is revoked of which no commit was seen.
    pub(crate) fn is_told_of_what_it_missed(&self) -> bool {
        self.explained.is_some_and(|(_, revoked)| revoked & !self.held.tombstones != 0)
    }

    fn recall(&mut self, store: &mut Store, clock: u8) {
        store.recalled |= std::mem::take(&mut self.lost);
        store.date(clock);
    }
}

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// Time goes on this often.
    pub(crate) ticks: u8,
    /// Tokens are created or revoked.
    pub(crate) commits: u8,
    /// A token is reassigned: read, and written later.
    pub(crate) reassigns: u8,
    /// A token is revoked by a command that waits.
    pub(crate) waits: u8,
    /// A sidecar reports.
    pub(crate) reports: u8,
    /// The store loses its last commits.
    pub(crate) losses: u8,
    /// Then it may lose reports too.
    pub(crate) lost_reports: bool,
    /// A backup becomes the store.
    pub(crate) restores: u8,
    /// The log is trimmed to nothing.
    pub(crate) trims: u8,
    /// A read fails.
    pub(crate) failures: u8,
    /// A notice says only that something moved.
    pub(crate) moves: u8,
    /// Whether notices say what was committed.
    pub(crate) notices: bool,
    /// A snapshot file is written.
    pub(crate) saves: u8,
    /// A sidecar is killed, or stopped, and started again.
    pub(crate) restarts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) clock: u8,
    pub(crate) store: Store,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) left: Bounds,
    pub(crate) registry: Registry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Time goes on.
    Clock,
    /// A token is created, or revoked.
    Commit(u8),
    /// A token's record is read; and the reassigned one is written, if it is still as it was read.
    Read(u8),
    Write,
    /// A command revokes a token, looks at the sidecars' reports, and says whether all have applied it.
    RevokeAndWait(u8),
    Look,
    Conclude,
    /// With the recalls and reports, or without.
    Lose {
        commits: u8,
        rest: bool,
    },
    Restore {
        commits: u8,
    },
    Trim,
    /// The registry has committed recalled revocations again.
    Settle,
    /// A sidecar says what it has applied.
    Report(usize),
    /// To a sidecar: time to probe; or its subscription was lost and came back.
    Probe(usize),
    /// To a sidecar: something moved.
    Moved(usize),
    /// To a sidecar: the notice of something that was published.
    Notice(usize, usize),
    /// The store works on a sidecar's read.
    Serve(usize),
    Deliver(usize),
    Fail(usize),
    Recall(usize),
    /// The store is asked which of the tokens that are gone were revoked; and its answer comes.
    Ask(usize),
    Explain(usize),
    BeginSave(usize),
    EndSave(usize),
    /// A sidecar is killed and starts again.
    Kill(usize),
    /// A sidecar writes its file, stops, and starts again.
    Stop(usize),
    /// Its machine, or its disk, is new.
    Replace(usize),
}

impl World {
    /// Some sidecars, in step with a store that has these tokens.
    pub(crate) fn new(sidecars: usize, tokens: u8, active: Tokens, bounds: Bounds, rules: Rules) -> Self {
        let (mut store, registry) = (Store::new(active), Registry::new(rules));
        let must_report = bounds.waits > 0 && registry.requires_reports();
        let mut sidecar = Sidecar::new(must_report.then(Presence::default));
        sidecar.settle(&mut store, tokens, 1);
        assert!(sidecar.machine.position().is_some());
        if bounds.waits > 0 {
            store.reports = vec![Some(Report { applied: sidecar.machine.position(), tick: 1 }); sidecars];
        }
        Self { clock: 1, store, sidecars: vec![sidecar; sidecars], left: bounds, registry }
    }

    pub(crate) fn actions(&self, tokens: u8, actions: &mut Vec<Action>) {
        let left = &self.left;
        let history = u8::try_from(self.store.commits.len()).expect("few commits");
        if left.ticks > 0 {
            actions.push(Action::Clock);
        }
        if left.commits > 0 {
            let usable = (0..tokens).filter(|token| (self.store.at().active | !self.store.created) >> token & 1 == 1);
            actions.extend(usable.map(Action::Commit));
        }
        if left.reassigns > 0 && !self.registry.is_reassigning() {
            let active = (0..tokens).filter(|token| self.store.at().active >> token & 1 == 1);
            actions.extend(active.map(Action::Read));
        }
        if self.registry.is_reassigning() {
            actions.push(Action::Write);
        }
        if left.waits > 0 {
            let active = (0..tokens).filter(|token| self.store.at().active >> token & 1 == 1);
            actions.extend(active.map(Action::RevokeAndWait));
        }
        if self.registry.is_waiting() {
            actions.push(if self.registry.has_looked() { Action::Conclude } else { Action::Look });
        }
        if left.losses > 0 {
            let has_reports = left.lost_reports && self.store.reports.iter().any(Option::is_some);
            let has_rest = has_reports || self.store.recalled != 0;
            let rest: &[bool] = if has_rest { &[false, true] } else { &[false] };
            for commits in 0..=history {
                let some = |rest: &&bool| commits > 0 || **rest;
                actions.extend(rest.iter().filter(some).map(|rest| Action::Lose { commits, rest: *rest }));
            }
        }
        if left.restores > 0 {
            actions.extend((0..=history).map(|commits| Action::Restore { commits }));
        }
        if left.trims > 0 && self.store.trimmed < self.store.at().revision {
            actions.push(Action::Trim);
        }
        if self.store.recalled & !self.store.at().active != 0 {
            actions.push(Action::Settle);
        }
        for (index, sidecar) in self.sidecars.iter().enumerate() {
            actions.push(Action::Probe(index));
            if left.reports > 0 {
                actions.push(Action::Report(index));
            }
            if left.moves > 0 {
                actions.push(Action::Moved(index));
            }
            if left.notices {
                actions.extend((0..self.store.published.len()).map(|notice| Action::Notice(index, notice)));
            }
            if sidecar.under_way.is_some() {
                actions.push(if sidecar.is_answered() { Action::Deliver(index) } else { Action::Serve(index) });
                if left.failures > 0 {
                    actions.push(Action::Fail(index));
                }
            }
            if sidecar.lost != 0 {
                actions.push(Action::Recall(index));
            }
            if sidecar.explained.is_some() {
                actions.push(Action::Explain(index));
            } else if sidecar.held.vanished != 0 {
                actions.push(Action::Ask(index));
            }
            if sidecar.saving.is_some() {
                actions.push(Action::EndSave(index));
            } else if left.saves > 0 && sidecar.held.as_of.is_some() {
                actions.push(Action::BeginSave(index));
            }
            if left.restarts > 0 {
                actions.extend([Action::Kill(index), Action::Stop(index)]);
                if sidecar.file.is_some() {
                    actions.push(Action::Replace(index));
                }
            }
        }
    }

    pub(crate) fn act(&mut self, tokens: u8, action: Action) {
        let (clock, left, store) = (self.clock, &mut self.left, &mut self.store);
        match action {
            Action::Clock => {
                left.ticks -= 1;
                self.clock += 1;
                self.sidecars.iter_mut().filter_map(|sidecar| sidecar.presence.as_mut()).for_each(|it| it.doubts = 0);
            }
            Action::Commit(token) => {
                left.commits -= 1;
                store.commit(token, clock);
            }
            Action::Read(token) => {
                left.reassigns -= 1;
                self.registry.read(store, token);
            }
            Action::Write => self.registry.write(store, clock),
            Action::RevokeAndWait(token) => {
                left.waits -= 1;
                store.commit(token, clock);
                self.registry.wait(*store.commits.last().expect("just committed"));
            }
            Action::Look => self.registry.look(store, clock),
            Action::Conclude => self.registry.conclude(store, clock),
            Action::Report(index) => {
                left.reports -= 1;
                let applied = self.sidecars[index].machine.position();
                store.reports[index] = Some(Report { applied, tick: clock });
            }
            Action::Lose { commits, rest } => {
                left.losses -= 1;
                store.lose(commits, rest, clock);
                self.registry.forget(store.at().revoked);
            }
            Action::Restore { commits } => {
                left.restores -= 1;
                store.restore(commits, clock);
                self.registry.forget(store.at().revoked);
            }
            Action::Trim => {
                left.trims -= 1;
                store.trimmed = store.at().revision;
            }
            Action::Settle => {
                store.recalled &= store.at().active;
                store.date(clock);
            }
            Action::Probe(index) => self.sidecars[index].on(Input::Tick, clock),
            Action::Moved(index) => {
                left.moves -= 1;
                self.sidecars[index].on(Input::Notice(Notice::Moved), clock);
            }
            Action::Notice(index, notice) => {
                let commit = store.published[notice];
                let (epoch, entry) = (Epoch(commit.at.epoch.into()), commit.entry().into());
                self.sidecars[index].on(Input::Notice(Notice::Committed { epoch, entry }), clock);
            }
            Action::Serve(index) => {
                // One of the tick before is forgotten too early for what a proof would be worth.
                let report = store.reports.get(index).copied().flatten();
                let is_known = report.is_some_and(|report| report.tick == clock);
                self.sidecars[index].serve(store, is_known, tokens, clock);
            }
            Action::Deliver(index) => self.sidecars[index].deliver(clock),
            Action::Fail(index) => {
                left.failures -= 1;
                self.sidecars[index].under_way = None;
                self.sidecars[index].on(Input::Failed, clock);
            }
            Action::Recall(index) => self.sidecars[index].recall(store, clock),
            Action::Ask(index) => self.sidecars[index].ask(store),
            Action::Explain(index) => self.sidecars[index].explain(),
            Action::BeginSave(index) => {
                left.saves -= 1;
                self.sidecars[index].begin_save();
            }
            Action::EndSave(index) => self.sidecars[index].end_save(),
            Action::Kill(index) => {
                left.restarts -= 1;
                self.sidecars[index].start();
            }
            Action::Stop(index) => {
                left.restarts -= 1;
                self.sidecars[index].begin_save();
                self.sidecars[index].end_save();
                self.sidecars[index].start();
            }
            Action::Replace(index) => {
                left.restarts -= 1;
                let presence = self.sidecars[index].presence.take().map(|_| Presence::default());
                self.sidecars[index] = Sidecar::new(presence);
            }
        }
    }
}
