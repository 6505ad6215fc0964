//! The synchroniser and the real table against a store that does everything stores do: commits, loses its last writes,
//! is restored under another epoch, trims its log, fails reads, shows later commits in snapshots, and whose notices are
//! lost, late, repeated and out of order.

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use self::store::{Content, ModelStore, Node, digest};
use super::*;
use crate::replica::Replica;
use crate::store::{Change, CommitId, SnapshotItem, Stamp};
use crate::token::permission::HEARTBEAT_WRITE;
use crate::token::{Digest, Grant, Owner, Permission, PermissionSet, Role, TokenId, UserId};

const USERS: u64 = 4;

/// What requests need: all grants have the first, and only Administrators may have the second.
fn permissions() -> [Permission; 2] {
    [HEARTBEAT_WRITE, "users:read".parse().expect("a permission")]
}

#[derive(Debug, Clone)]
enum Op {
    /// A token: one that was created before, where the store has lost that.
    Create {
        owner: u8,
        again: bool,
    },
    Revoke {
        token: u8,
    },
    Regrant {
        token: u8,
        owner: u8,
        full: bool,
    },
    SetOwner {
        owner: u8,
        role: u8,
        enabled: bool,
    },
    DeleteOwner {
        owner: u8,
    },
    Deliver {
        notice: u8,
    },
    Repeat {
        notice: u8,
    },
    Lose {
        notice: u8,
    },
    Moved,
    ConnectionLost,
    Serve {
        keys: u8,
    },
    Answer,
    /// The store says which of the tokens that are gone it knows as removed, or what it said comes back.
    Explain,
    Fail,
    Tick,
    Trim {
        retain: u8,
    },
    LoseWrites {
        count: u8,
    },
    /// The store loses writes, an operator says something new of a user, once or as often as takes it beyond them, and the log no
    /// longer goes back to what was lost.
    LoseAndGoOn {
        count: u8,
        beyond: bool,
        owner: u8,
        enabled: bool,
    },
    Restore {
        state: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => any::<(u8, bool)>().prop_map(|(owner, again)| Op::Create { owner, again }),
        6 => any::<u8>().prop_map(|token| Op::Revoke { token }),
        3 => any::<(u8, u8, bool)>().prop_map(|(token, owner, full)| Op::Regrant { token, owner, full }),
        3 => any::<(u8, u8, bool)>().prop_map(|(owner, role, enabled)| Op::SetOwner { owner, role, enabled }),
        1 => any::<u8>().prop_map(|owner| Op::DeleteOwner { owner }),
        12 => any::<u8>().prop_map(|notice| Op::Deliver { notice: notice % 4 }),
        1 => any::<u8>().prop_map(|notice| Op::Deliver { notice }),
        2 => any::<u8>().prop_map(|notice| Op::Repeat { notice }),
        3 => any::<u8>().prop_map(|notice| Op::Lose { notice }),
        1 => Just(Op::Moved),
        1 => Just(Op::ConnectionLost),
        16 => any::<u8>().prop_map(|keys| Op::Serve { keys }),
        12 => Just(Op::Answer),
        3 => Just(Op::Explain),
        2 => Just(Op::Fail),
        6 => Just(Op::Tick),
        1 => any::<u8>().prop_map(|retain| Op::Trim { retain: retain % 4 }),
        1 => any::<u8>().prop_map(|count| Op::LoseWrites { count: 1 + count % 4 }),
        1 => any::<(u8, bool, u8, bool)>().prop_map(|(count, beyond, owner, enabled)| {
            Op::LoseAndGoOn { count: 1 + count % 4, beyond, owner, enabled }
        }),
        1 => any::<u8>().prop_map(|state| Op::Restore { state }),
    ]
}

/// A read under way.
#[derive(Debug)]
enum UnderWay {
    Position(Option<Position>),
    Changes(Revision, Option<Changes>),
    Ancestor(Revision, Vec<Head>, Option<Option<Revision>>),
    Items(Vec<Subject>, Option<Vec<SnapshotItem>>),
    Snapshot { base: Option<Position>, cursor: u64, done: bool },
}

struct Sim {
    store: ModelStore,
    replica: Replica,
    machine: Synchroniser,
    under_way: Option<UnderWay>,
    /// What the store has said of tokens that are gone.
    explained: Option<(Vec<Digest>, Vec<bool>)>,
    notices: Vec<Notice>,
    start: Instant,
    /// Milliseconds since the start; every operation takes one.
    time: u64,
    /// What the replica was notified is removed, or the store said so.
    removed: BTreeSet<Digest>,
    /// What it knows of commits that it has not reached.
    ahead: Vec<Ahead>,
    /// Where the store was when it answered what it has of some subjects.
    found_at: usize,
    /// The commits that were applied from the log.
    applied: BTreeSet<CommitId>,
    /// The latest word on each user that the replica was shown. Ids of commits are in the order of time.
    words: BTreeMap<u64, (CommitId, Option<Role>)>,
    confirmed: Option<u64>,
}

/// What a subject is at a commit that the replica has a notice of, or has read, and not reached.
#[derive(Debug)]
struct Ahead {
    subject: Subject,
    /// `None`: it is not there.
    item: Option<SnapshotItem>,
    from: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Notice {
        epoch: Epoch,
        stamp: Stamp,
        received: Instant,
    },
    /// When the store was at this node.
    Reading(usize),
}

impl Ahead {
    fn is_reading_of(&self, subject: &Subject) -> bool {
        self.subject == *subject && matches!(self.from, Source::Reading(_))
    }

    /// Whether a token of this user may have this permission by it.
    fn lets_in(&self, token: &Digest, user: UserId, permission: Permission) -> bool {
        match (&self.subject, &self.item) {
            (Subject::User(id), _) if *id != user => true,
            (Subject::Token(other), _) if other != token => true,
            (_, Some(SnapshotItem::Owner(_, owner, _))) => {
                owner.enabled && owner.role.permissions().contains(permission)
            }
            (_, Some(SnapshotItem::Grant(_, grant))) => grant.permissions.contains(permission),
            _ => false,
        }
    }
}

/// What a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes(UserId),
    No,
    Neither,
}

impl Replica {
    /// As the gate decides.
    fn answer(&self, digest: &Digest, permission: Permission) -> Answer {
        match self.lookup(digest) {
            Some(holder) if holder.permissions.contains(permission) => {
                let is_in_doubt = self.doubts(digest, &holder, permission);
                assert!(!(is_in_doubt && self.permits(digest, permission)) || holder.expires_at.is_some());
                if is_in_doubt { Answer::Neither } else { Answer::Yes(holder.owner.id) }
            }
            Some(_) | None => Answer::No,
        }
    }
}

/// The real table, with every proof checked against the store.
struct Checked<'a> {
    replica: &'a Replica,
    store: &'a ModelStore,
    removed: &'a mut BTreeSet<Digest>,
    ahead: &'a mut Vec<Ahead>,
    applied: &'a mut BTreeSet<CommitId>,
    found_at: usize,
    start: Instant,
    confirmed: Option<u64>,
}

impl Checked<'_> {
    fn note_removals(&mut self, entry: &LogEntry) {
        self.removed.extend(entry.changes.iter().filter_map(|change| match change {
            Change::RemoveGrant(digest) => Some(*digest),
            _ => None,
        }));
    }
}

impl Table for Checked<'_> {
    fn apply(&mut self, entry: &LogEntry, now: Instant) -> u64 {
        self.note_removals(entry);
        let subjects: Vec<_> = entry.changes.iter().map(Change::subject).collect();
        self.ahead.retain(|ahead| match ahead.from {
            Source::Notice { stamp, .. } => stamp != entry.stamp(),
            // What comes after it counts.
            Source::Reading(node) => !subjects.contains(&ahead.subject) || self.store.has_come_by(node, entry.id),
        });
        self.applied.insert(entry.id);
        self.replica.apply(entry, now)
    }

    fn revoke(&mut self, entry: &LogEntry, now: Instant) {
        self.note_removals(entry);
        self.replica.revoke(entry, now);
    }

    fn anticipate(&mut self, epoch: Epoch, entry: &LogEntry, now: Instant) {
        self.note_removals(entry);
        for change in &entry.changes {
            let item = match change {
                Change::PutOwner(id, owner) => SnapshotItem::Owner(*id, owner.clone(), entry.stamp()),
                Change::PutGrant(digest, grant) => SnapshotItem::Grant(*digest, *grant),
                Change::RemoveGrant(_) | Change::RemoveOwner(_) => continue,
            };
            let (subject, stamp) = (change.subject(), entry.stamp());
            let earlier = |before: &Ahead| match before.from {
                Source::Notice { epoch: of, stamp, .. } if before.subject == subject && of == epoch => Some(stamp),
                Source::Notice { .. } | Source::Reading(_) => None,
            };
            // It says all that an earlier one said.
            self.ahead.retain(|before| earlier(before).is_none_or(|earlier| earlier.revision >= stamp.revision));
            if self.ahead.iter().filter_map(earlier).all(|known| known != stamp) {
                self.ahead.push(Ahead {
                    subject,
                    item: Some(item),
                    from: Source::Notice { epoch, stamp, received: now },
                });
            }
        }
        self.replica.anticipate(epoch, entry, now);
    }

    fn repair(&mut self, subjects: &[Subject], found: &[SnapshotItem], _now: Instant) -> u64 {
        for subject in subjects {
            self.ahead.retain(|before| !before.is_reading_of(subject));
            let item = found.iter().find(|item| item.subject() == Some(*subject)).cloned();
            self.ahead.push(Ahead { subject: *subject, item, from: Source::Reading(self.found_at) });
        }
        self.replica.repair(subjects, found)
    }

    fn sweep(&mut self) {
        self.replica.sweep();
    }

    fn confirm(&mut self, as_of: Instant) {
        self.replica.reach(as_of);
        self.ahead.retain(|ahead| matches!(ahead.from, Source::Notice { received, .. } if received > as_of));
        let as_of = u64::try_from((as_of - self.start).as_millis()).expect("milliseconds");
        let checksum = self.replica.checksum();
        assert!(self.store.was_current_since(checksum, as_of), "fresh as of {as_of}, but the store was elsewhere");
        let node =
            self.store.nodes.iter().find(|node| node.position.checksum == checksum).expect("a state of the store");
        assert_same(self.replica, &node.content, self.store, self.removed);
        self.confirmed = Some(as_of);
    }
}

/// Every lookup is what the content says, but for revoked tokens, which are refused whatever it says.
fn assert_same(replica: &Replica, content: &Content, store: &ModelStore, removed: &BTreeSet<Digest>) {
    let held = replica.ledger().held();
    assert!(held.is_empty() || store.has_lost, "only a store that lost writes shows more than was seen");
    for token in 0..store.tokens {
        let digest = digest(token);
        let expected = content.grants.get(&token).and_then(|grant| {
            let (owner, _) = content.owners.get(&grant.owner.to_u64())?;
            let shown = owner.enabled.then_some(owner.role);
            // What was seen narrower, and was lost, stays so.
            let seen = held.iter().find(|(id, _)| *id == grant.owner).map(|(_, seen)| seen.role);
            let role = seen.map_or(shown, |seen| seen.min(shown))?;
            let permissions = grant.permissions.intersect(role.permissions());
            Some((grant.token, owner.name.clone(), role, permissions, grant.expires_at))
        });
        let found = replica.lookup(&digest).map(|holder| {
            (holder.token, holder.owner.name().to_owned(), holder.role, holder.permissions, holder.expires_at)
        });
        match removed.contains(&digest) {
            true => assert_eq!(found, None, "token {token} was revoked"),
            false => assert_eq!(found, expected, "token {token}, which nobody has seen revoked"),
        }
    }
}

impl Sim {
    fn new() -> Self {
        Self {
            store: ModelStore::new(),
            replica: Replica::new(),
            machine: Synchroniser::new(),
            under_way: None,
            explained: None,
            notices: Vec::new(),
            start: Instant::now(),
            time: 0,
            removed: BTreeSet::new(),
            ahead: Vec::new(),
            found_at: 0,
            applied: BTreeSet::new(),
            words: BTreeMap::new(),
            confirmed: None,
        }
    }

    fn on(&mut self, input: Input) {
        let now = self.start + Duration::from_millis(self.time);
        let (replica, store, removed, ahead) = (&self.replica, &self.store, &mut self.removed, &mut self.ahead);
        let (start, found_at, applied) = (self.start, self.found_at, &mut self.applied);
        let mut table = Checked { replica, store, removed, ahead, applied, found_at, start, confirmed: None };
        let step = self.machine.on(input, now, &mut table);
        self.confirmed = table.confirmed.or(self.confirmed);
        for finding in step.findings {
            assert!(!matches!(finding, Finding::Contradiction(_)), "{finding}");
        }
        if let Some(read) = step.read {
            assert!(self.under_way.is_none(), "one read at a time");
            self.under_way = Some(match read {
                Read::Position => UnderWay::Position(None),
                Read::Changes { after } => UnderWay::Changes(after, None),
                Read::Ancestor { latest, heads } => UnderWay::Ancestor(latest, heads, None),
                Read::Items(subjects) => UnderWay::Items(subjects, None),
                Read::Snapshot => {
                    self.replica.begin_merge();
                    UnderWay::Snapshot { base: None, cursor: 0, done: false }
                }
            });
        }
        for digest in &self.removed {
            assert!(self.replica.lookup(digest).is_none(), "a revoked token authenticates");
        }
        for token in 0..self.store.tokens {
            permissions().into_iter().for_each(|permission| self.check_answer(token, permission));
        }
        self.check_words();
    }

    /// Nobody is let in whom a commit that is known does not let in; and nobody is refused who was let in at every moment
    /// since the last proof.
    fn check_answer(&self, token: u64, permission: Permission) {
        match self.replica.answer(&digest(token), permission) {
            Answer::Yes(user) => {
                let ahead = self.ahead.iter().find(|ahead| !ahead.lets_in(&digest(token), user, permission));
                assert!(ahead.is_none(), "token {token} is let in with {permission} in spite of {ahead:?}");
            }
            Answer::No if !self.store.has_lost => {
                let since = self.confirmed.unwrap_or_default();
                let was_so = |node: &Node| {
                    node.until.is_none_or(|until| until >= since) && !node.content.lets_in(token, permission)
                };
                assert!(self.store.nodes.iter().any(was_so), "token {token} is blamed: {permission} since {since}");
            }
            Answer::No | Answer::Neither => {}
        }
    }

    /// What was seen of a user stays so while the store shows an older word on the user, and no longer.
    fn check_words(&mut self) {
        let ledger = self.replica.ledger();
        let (owners, held) = (ledger.owners(), BTreeMap::from_iter(ledger.held()));
        self.words.retain(|user, _| owners.iter().any(|(id, ..)| id.to_u64() == *user));
        for (id, owner, touch) in owners {
            let (shown, held) = (owner.enabled.then_some(owner.role), held.get(&id));
            if let Some(seen) = held {
                let known = seen.touch.before.unwrap_or(seen.touch.by);
                let is_next = touch.by.revision >= known.revision || self.applied.contains(&touch.by.id);
                let is_told = is_next && touch.by != known;
                assert!(touch.by.id < seen.touch.by.id || !is_told, "{owner:?} is held after a new word");
            }
            let effective = held.map_or(shown, |held| held.role.min(shown));
            let word = self.words.entry(id.to_u64()).or_insert((touch.by.id, shown));
            if touch.by.id >= word.0 || shown <= word.1 {
                *word = (touch.by.id, shown);
            } else if !self.store.was_restored {
                assert!(effective <= word.1, "{owner:?} is more than was seen");
            }
        }
    }

    fn run(&mut self, op: Op) {
        self.time += 1;
        match op {
            Op::Create { .. }
            | Op::Revoke { .. }
            | Op::Regrant { .. }
            | Op::SetOwner { .. }
            | Op::DeleteOwner { .. } => {
                let changes = self.changes_of(&op);
                let notice = self.store.commit(changes, self.time);
                self.notices.push(notice);
            }
            Op::Deliver { notice } => {
                if let Some(index) = self.pick(notice) {
                    let notice = self.notices.remove(index);
                    self.on(Input::Notice(notice));
                }
            }
            Op::Repeat { notice } => {
                let repeated = self.pick(notice).map(|index| self.notices[index].clone());
                self.notices.extend(repeated);
            }
            Op::Lose { notice } => {
                if let Some(index) = self.pick(notice) {
                    self.notices.remove(index);
                }
            }
            Op::Moved => self.on(Input::Notice(Notice::Moved)),
            Op::ConnectionLost => {
                self.notices.clear();
                self.on(Input::Notice(Notice::Lost));
            }
            Op::Serve { keys } => self.serve(keys),
            Op::Answer => self.answer(),
            Op::Explain => self.explain(),
            Op::Fail => {
                if self.under_way.take().is_some() {
                    self.on(Input::Failed);
                }
            }
            Op::Tick => self.on(Input::Tick),
            Op::Trim { retain } => {
                let log_from = Revision(self.store.now().position.revision.0.saturating_sub(retain.into()));
                self.store.log_from = self.store.log_from.max(log_from);
            }
            Op::LoseWrites { count } => self.store.lose_writes(count, self.time),
            Op::LoseAndGoOn { count, beyond, owner, enabled } => {
                let lost = self.store.now().position.revision;
                self.store.lose_writes(count, self.time);
                self.run(Op::SetOwner { owner, role: 0, enabled });
                while beyond && self.store.now().position.revision <= lost {
                    self.run(Op::SetOwner { owner, role: 0, enabled });
                }
                self.store.log_from = self.store.now().position.revision;
            }
            Op::Restore { state } => self.store.restore(state, self.time),
        }
    }

    fn pick(&self, index: u8) -> Option<usize> {
        usize::from(index).checked_rem(self.notices.len())
    }

    /// The changes that a command leads to; none where it does not fit, which is a commit all the same.
    fn changes_of(&mut self, op: &Op) -> Vec<Change> {
        let created = match op {
            Op::Create { again, .. } => self.store.unknown_token(*again),
            _ => 0,
        };
        let content = &self.store.now().content;
        let token_at = |index: u8| {
            usize::from(index)
                .checked_rem(content.grants.len())
                .map(|index| *content.grants.keys().nth(index).expect("within"))
        };
        let permissions = |full| if full { PermissionSet::all() } else { PermissionSet::TELEGRAF_AGENT };
        let grant = |token, owner: u8, full| {
            let expires_at = (token % 3 == 0).then_some(i64::from(owner) << 30);
            let (owner, permissions) = (UserId::from_u64(u64::from(owner) % USERS), permissions(full));
            Change::PutGrant(digest(token), Grant { token: TokenId::from_u64(token), owner, permissions, expires_at })
        };
        match *op {
            Op::Create { owner, .. } => vec![grant(created, owner, true)],
            Op::Revoke { token } => {
                token_at(token).map(|token| Change::RemoveGrant(digest(token))).into_iter().collect()
            }
            Op::Regrant { token, owner, full } => {
                token_at(token).map(|token| grant(token, owner, full)).into_iter().collect()
            }
            Op::SetOwner { owner, role, enabled } => {
                let id = u64::from(owner) % USERS;
                let owner = Owner { name: format!("user {id}"), role: Role::ALL[usize::from(role) % 4], enabled };
                vec![Change::PutOwner(UserId::from_u64(id), owner)]
            }
            Op::DeleteOwner { owner } => {
                let id = UserId::from_u64(u64::from(owner) % USERS);
                let theirs = content.grants.iter().filter(|(_, grant)| grant.owner == id);
                let removed = theirs.map(|(token, _)| Change::RemoveGrant(digest(*token)));
                std::iter::once(Change::RemoveOwner(id)).chain(removed).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The store works on the read: answers it, or scans some keys, a few of them twice.
    fn serve(&mut self, keys: u8) {
        let store = &self.store;
        match &mut self.under_way {
            Some(UnderWay::Position(answer)) => *answer = Some(store.now().position),
            Some(UnderWay::Changes(after, answer)) => {
                *answer = Some(store.changes(*after, 1 + usize::from(keys % 8)));
            }
            Some(UnderWay::Ancestor(latest, heads, answer)) => *answer = Some(store.ancestor(*latest, heads)),
            Some(UnderWay::Items(subjects, answer)) => {
                *answer = Some(store.items(subjects));
                self.found_at = store.current;
            }
            Some(UnderWay::Snapshot { base, cursor, done }) => {
                base.get_or_insert(store.now().position);
                *cursor = cursor.saturating_sub(u64::from(keys % 3));
                let (from, to) = (*cursor, *cursor + 3 + u64::from(keys % 8));
                for key in from..to {
                    let content = &store.now().content;
                    let owner = content.owners.get(&key).filter(|_| key < USERS);
                    let item = match (owner, key.checked_sub(USERS)) {
                        (Some((owner, stamp)), _) => {
                            Some(SnapshotItem::Owner(UserId::from_u64(key), owner.clone(), *stamp))
                        }
                        (None, Some(token)) => {
                            content.grants.get(&token).map(|grant| SnapshotItem::Grant(digest(token), *grant))
                        }
                        (None, None) => None,
                    };
                    if let Some(item) = item {
                        self.replica.merge(&item);
                        let subject = item.subject().expect("an owner or a grant");
                        self.ahead.retain(|before| !before.is_reading_of(&subject));
                        self.ahead.push(Ahead { subject, item: Some(item), from: Source::Reading(store.current) });
                    }
                }
                *cursor = to;
                *done = to >= USERS + store.tokens;
            }
            None => {}
        }
        self.check_words();
    }

    fn answer(&mut self) {
        let input = match &self.under_way {
            Some(UnderWay::Position(Some(position))) => Input::Position((*position).into()),
            Some(UnderWay::Changes(_, Some(changes))) => Input::Changes(changes.clone()),
            Some(UnderWay::Ancestor(_, _, Some(ancestor))) => Input::Ancestor(*ancestor),
            Some(UnderWay::Items(_, Some(items))) => Input::Items(items.clone()),
            Some(UnderWay::Snapshot { base: Some(position), done: true, .. }) => {
                Input::Snapshot { position: *position, checksum: self.replica.checksum() }
            }
            _ => return,
        };
        self.under_way = None;
        self.on(input);
    }

    fn explain(&mut self) {
        match self.explained.take() {
            None => {
                let digests = self.replica.vanished(2);
                let is_removed = self.store.removed(&digests);
                self.explained = Some((digests, is_removed));
            }
            Some((digests, is_removed)) => {
                let now = self.start + Duration::from_millis(self.time);
                self.replica.explain(&digests, &is_removed, now);
                self.removed
                    .extend(digests.iter().zip(is_removed).filter_map(|(digest, removed)| removed.then_some(*digest)));
            }
        }
    }

    /// Nothing happens any more but probing, and every read succeeds, though none sooner than the next probe is due: the
    /// replica becomes equal to the store.
    fn settle(&mut self) {
        self.notices.clear();
        let quiet_since = self.time;
        let is_scanned = |read: &UnderWay| !matches!(read, UnderWay::Snapshot { done: false, .. });
        for _ in 0..200 {
            self.run(Op::Tick);
            self.run(Op::Serve { keys: 5 });
            while !self.under_way.as_ref().is_none_or(is_scanned) {
                self.run(Op::Serve { keys: 5 });
            }
            self.run(Op::Answer);
            self.run(Op::Explain);
        }
        assert_eq!(self.replica.vanished(1), []);
        assert_eq!(self.machine.position(), Some(self.store.now().position));
        assert_eq!(self.replica.checksum(), self.store.now().position.checksum);
        assert!(self.confirmed.is_some_and(|as_of| as_of > quiet_since), "not fresh");
        assert_same(&self.replica, &self.store.now().content, &self.store, &self.removed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_revoked_stays_revoked_fresh_means_equal_and_quiet_converges(
        ops in proptest::collection::vec(op(), 0..200),
    ) {
        let mut sim = Sim::new();
        for op in ops {
            sim.run(op);
        }
        sim.settle();
    }
}

/// What was lost is absent from the snapshot that is read after it, as is what was revoked meanwhile.
#[test]
fn tokens_that_were_lost_beyond_the_log_and_are_created_again_are_let_in() {
    let mut sim = Sim::new();
    sim.run(Op::SetOwner { owner: 0, role: 0, enabled: true });
    (0..3).for_each(|_| sim.run(Op::Create { owner: 0, again: false }));
    sim.settle();
    sim.run(Op::LoseAndGoOn { count: 2, beyond: true, owner: 1, enabled: true });
    sim.run(Op::Revoke { token: 0 });
    sim.run(Op::Trim { retain: 0 });
    sim.settle();
    assert_eq!(sim.replica.status().tombstones, 1, "of the one that was revoked");
    (0..2).for_each(|_| sim.run(Op::Create { owner: 0, again: true }));
    sim.settle();
    assert_eq!([0, 1, 2].map(|token| sim.replica.lookup(&digest(token)).is_some()), [false, true, true]);
}
