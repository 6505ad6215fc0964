//! What is known of commits that the table has not reached yet.
//!
//! A notice that is not the next one announces what a user or a token becomes; and what a snapshot or a repair has read may be
//! later than the log entries that are applied over it. The table must stay what the log makes it, or its checksum says
//! nothing. So what is known is held beside it: where the table lets somebody in whom this does not, the replica knows that it
//! is not complete, and answers neither yes nor no. It ends when its commit is applied in its turn, and at the latest with the
//! first proof that was asked for after it was known: what was committed by then is in the table, or lost.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Basis, Grants, Ledger, Seen, Touch};
use crate::clock::Instant;
use crate::lock::RwLock;
use crate::replica::OwnerEntry;
use crate::store::{Change, Epoch, LogEntry, Revision, Stamp, Subject};
use crate::token::{Digest, Grant, Permission, Role, UserId};

/// Most states that are held, in some 4 MiB. What is more waits for its turn, as what a notice has no room for does.
const LIMIT: usize = 16_384;

/// Empty nearly always: then a lookup reads one flag.
#[derive(Debug, Default)]
pub(in crate::replica) struct Ahead {
    is_any: AtomicBool,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The role; `None` while the user's tokens do not authenticate.
    users: HashMap<UserId, Vec<Later<Option<Role>>>>,
    /// `None`: the store has no such token.
    tokens: HashMap<Digest, Vec<Later<Option<Promise>>>>,
    count: usize,
}

/// What a subject is at a later commit.
#[derive(Debug, Clone)]
struct Later<T> {
    state: T,
    source: Source,
}

/// A grant as a later commit has it.
#[derive(Debug, Clone)]
struct Promise {
    grant: Grant,
    /// Its owner, if known.
    owner: Option<Arc<OwnerEntry>>,
}

/// From where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Notice {
        epoch: Epoch,
        stamp: Stamp,
        received: Instant,
        /// Of a user: which commit the table has reached on the way to this one, zeros before the user's first;
        /// `None`: one that may be later.
        since: Option<Stamp>,
        /// What the table went by then.
        basis: Basis,
    },
    /// The store was read when the log had not been; of a user it tells the commit.
    Reading(Option<Stamp>),
}

impl Source {
    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Notice { stamp, .. } => Some(*stamp),
            Self::Reading(stamp) => *stamp,
        }
    }

    /// Whether this is a later word within one life of the store. Had that lost the earlier one, it would be so too: a
    /// commit that touches a subject says all of it.
    fn replaces(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Notice { epoch, stamp, .. }, Self::Notice { epoch: other, stamp: earlier, .. }) => {
                epoch == other && stamp.revision > earlier.revision
            }
            _ => false,
        }
    }

    /// A proof as of this moment, of what was read later than everything that was read before, leaves nothing of it open.
    fn is_over(&self, as_of: Instant) -> bool {
        match self {
            Self::Notice { received, .. } => *received <= as_of,
            Self::Reading(_) => true,
        }
    }
}

/// What the table shows of a later commit than the log that was applied.
#[derive(Debug, Default)]
pub(super) enum Reread {
    #[default]
    Nothing,
    /// These were read again for a repair.
    These(HashSet<Subject>),
    /// A snapshot was read, which mixes in commits up to this one.
    All { up_to: Revision },
}

impl Reread {
    /// These too.
    pub(super) fn extend(&mut self, subjects: &[Subject]) {
        match self {
            Self::Nothing => *self = Self::These(subjects.iter().copied().collect()),
            Self::These(all) => all.extend(subjects),
            Self::All { .. } => {}
        }
    }

    /// Whether this may have been read later than an entry of this revision.
    fn covers(&self, subject: &Subject, revision: Revision) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(all) => all.contains(subject),
            Self::All { up_to } => revision <= *up_to,
        }
    }
}

impl Ledger {
    /// Takes what an entry makes of users and tokens whose turn has not come: revocations hold for good, everything else
    /// until it is reached. True when something may have become narrower.
    pub(in crate::replica) fn anticipate(
        &mut self,
        grants: &Grants,
        epoch: Epoch,
        entry: &LogEntry,
        now: Instant,
    ) -> bool {
        let revoked = self.revoke(grants, entry, now);
        let (basis, _) = self.progress();
        let source = |since| Source::Notice { epoch, stamp: entry.stamp(), received: now, since, basis };
        entry.changes.iter().fold(revoked, |narrowed, change| match change {
            Change::PutOwner(id, owner) => {
                let since = match self.owners.get(id) {
                    Some(slot) => slot.known.map(|known| known.touch.by),
                    None => Some(Stamp::default()),
                };
                self.ahead.user(*id, owner.enabled.then_some(owner.role), source(since));
                true
            }
            Change::PutGrant(digest, grant) => {
                self.ahead.token(*digest, Some(self.promise(grant)), source(None));
                true
            }
            // Whoever deletes a user deletes their tokens.
            Change::RemoveGrant(_) | Change::RemoveOwner(_) => narrowed,
        })
    }

    /// What was announced of users to an earlier run, which had come as far as the table has: it goes on to count.
    pub(in crate::replica) fn announced_before(&mut self, epoch: Epoch, announced: &[(UserId, Seen)], now: Instant) {
        let (basis, _) = self.progress();
        for (id, Seen { role, touch: Touch { by, before } }) in announced {
            let source = Source::Notice { epoch, stamp: *by, received: now, since: *before, basis };
            self.ahead.user(*id, *role, source);
        }
    }

    /// Before a log entry changes what was read later than it: what was read goes on to count.
    pub(super) fn retain_later(&self, grants: &Grants, change: &Change, stamp: Stamp) {
        let is_reread = || self.reread.covers(&change.subject(), stamp.revision);
        match change {
            Change::PutOwner(id, _) => {
                let slot = self.owners.get(id).filter(|slot| slot.seen == self.generation);
                match slot.and_then(|slot| Some((slot.known?, slot.entry.role()))) {
                    Some((known, role)) if known.touch.by.revision > stamp.revision => {
                        self.ahead.user(*id, role, Source::Reading(Some(known.touch.by)));
                    }
                    // Deleted since. (Those of a snapshot are new: their tokens are held back.)
                    None if matches!(self.reread, Reread::These(_)) && is_reread() => {
                        self.ahead.user(*id, None, Source::Reading(None));
                    }
                    Some(_) | None => {}
                }
            }
            Change::PutGrant(digest, _) if is_reread() => {
                let read =
                    grants.get(digest).filter(|entry| entry.seen() == self.generation).map(|entry| entry.grant());
                self.ahead.token(*digest, read.map(|grant| self.promise(&grant)), Source::Reading(None));
            }
            Change::PutGrant(..) | Change::RemoveGrant(_) | Change::RemoveOwner(_) => {}
        }
    }

    /// Everything committed before `as_of` is in the table, and so is everything that was read. What was announced by then
    /// and is not there, the store has lost: users stay so. True when something may have become narrower.
    pub(in crate::replica) fn reach(&mut self, as_of: Instant) -> bool {
        self.reread = Reread::Nothing;
        if !self.ahead.is_any() {
            return false;
        }
        let announced = self.ahead.announced(|received| received <= as_of).into_iter();
        let lost = announced.fold(false, |narrowed, (user, seen)| self.hold_if_lost(user, seen) | narrowed);
        self.ahead.release_reached(as_of);
        lost
    }

    /// Users who are announced to become narrower than the table shows.
    pub(in crate::replica) fn announced(&self) -> Vec<(UserId, Seen)> {
        let mut announced = self.ahead.announced(|_| true);
        announced.retain(|(id, seen)| self.owners.get(id).is_some_and(|slot| seen.role < slot.entry.role()));
        announced
    }

    fn promise(&self, grant: &Grant) -> Promise {
        Promise { grant: *grant, owner: self.owners.get(&grant.owner).map(|slot| Arc::clone(&slot.entry)) }
    }
}

impl Ahead {
    /// Whether there is anything. The only thing that most lookups ask.
    pub(in crate::replica) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed)
    }

    /// A user becomes this.
    fn user(&self, id: UserId, role: Option<Role>, source: Source) {
        self.change(|known| note(&mut known.users, &mut known.count, id, role, source));
    }

    /// A token becomes this.
    fn token(&self, digest: Digest, promise: Option<Promise>, source: Source) {
        self.change(|known| note(&mut known.tokens, &mut known.count, digest, promise, source));
    }

    /// This was read again, and the table shows it.
    pub(super) fn forget_reading(&self, subject: &Subject) {
        if self.is_any() {
            self.change(|known| known.end_of(subject, |source| matches!(source, Source::Reading(_))));
        }
    }

    /// An entry of the log was applied: the table has come to what was known of it.
    pub(super) fn release_applied(&self, entry: &LogEntry, basis: Basis) {
        if self.is_any() {
            let stamp = Some(entry.stamp());
            self.change(|known| {
                for subject in entry.changes.iter().map(Change::subject) {
                    known.end_of(&subject, |source| source.stamp() == stamp);
                    known.touch(&subject, entry.stamp(), basis);
                }
            });
        }
    }

    /// What was announced of users at some moments, and was not applied. As the commit before counts the last one that the
    /// table has reached, which is not the next before perhaps: what lies between is taken for a new word.
    fn announced(&self, is_meant: impl Fn(Instant) -> bool) -> Vec<(UserId, Seen)> {
        let known = self.known.read();
        let all = known.users.iter().flat_map(|(user, all)| all.iter().map(|later| (*user, later)));
        all.filter_map(|(user, later)| match later.source {
            Source::Notice { stamp, received, since: Some(before), .. }
                if is_meant(received) && before.revision < stamp.revision =>
            {
                Some((user, Seen { role: later.state, touch: Touch { by: stamp, before: Some(before) } }))
            }
            Source::Notice { .. } | Source::Reading(_) => None,
        })
        .collect()
    }

    /// Everything committed before `as_of` is in the table, and everything that was read is reached.
    fn release_reached(&self, as_of: Instant) {
        if self.is_any() {
            self.change(|known| {
                end(&mut known.users, &mut known.count, |source| source.is_over(as_of));
                end(&mut known.tokens, &mut known.count, |source| source.is_over(as_of));
            });
        }
    }

    /// Whether a token that the table lets in with what is needed, by this owner, is not let in by what is known. With
    /// `now`, in seconds since 1970, its end counts too.
    pub(in crate::replica) fn forbids(
        &self,
        digest: &Digest,
        owner: UserId,
        permits: impl Fn(Role) -> bool,
        needed: Option<Permission>,
        now: Option<i64>,
    ) -> bool {
        let known = self.known.read();
        let stands = |user: &UserId| {
            let mut all = known.users.get(user).into_iter().flatten();
            all.all(|later| later.state.is_some_and(&permits))
        };
        let lets_in = |Promise { grant, owner: receiver }: &Promise| {
            let has_ended = now.zip(grant.expires_at).is_some_and(|(now, end)| end <= now);
            let is_received = || {
                let role = receiver.as_ref().and_then(|receiver| receiver.role());
                role.is_some_and(&permits) && stands(&grant.owner)
            };
            grant.permissions.satisfies(needed) && !has_ended && (grant.owner == owner || is_received())
        };
        let mut all = known.tokens.get(digest).into_iter().flatten();
        !(stands(&owner) && all.all(|later| later.state.as_ref().is_some_and(lets_in)))
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.write();
        change(&mut known);
        if known.count == 0 {
            *known = Known::default();
        }
        self.is_any.store(known.count > 0, Ordering::Relaxed);
    }
}

impl Known {
    /// A user was touched by this entry of the log. What is announced of it comes after that; or, where the table was read
    /// again meanwhile, perhaps for a loss, before: then this is a new word.
    fn touch(&mut self, subject: &Subject, by: Stamp, on: Basis) {
        let Subject::User(id) = subject else { return };
        for later in self.users.get_mut(id).into_iter().flatten() {
            if let Source::Notice { since, basis, .. } = &mut later.source {
                *since = since.and(Some(by)).filter(|_| *basis == on);
            }
        }
    }

    fn end_of(&mut self, subject: &Subject, is_over: impl Fn(&Source) -> bool) {
        match subject {
            Subject::User(id) => end_one(&mut self.users, &mut self.count, id, is_over),
            Subject::Token(digest) => end_one(&mut self.tokens, &mut self.count, digest, is_over),
        }
    }
}

/// Of what was read, the first state counts until it is read again: what the table shows after it is the log's.
fn note<K: Hash + Eq, T>(all: &mut HashMap<K, Vec<Later<T>>>, count: &mut usize, key: K, state: T, source: Source) {
    end_one(all, count, &key, |earlier| source.replaces(earlier));
    let is_known = |later: &Later<T>| match (later.source, source) {
        (Source::Notice { stamp, .. }, Source::Notice { stamp: other, .. }) => stamp == other,
        (Source::Reading(_), Source::Reading(_)) => true,
        _ => false,
    };
    if *count < LIMIT && !all.get(&key).is_some_and(|known| known.iter().any(is_known)) {
        all.entry(key).or_default().push(Later { state, source });
        *count += 1;
    }
}

fn end_one<K: Hash + Eq, T>(
    all: &mut HashMap<K, Vec<Later<T>>>,
    count: &mut usize,
    key: &K,
    is_over: impl Fn(&Source) -> bool,
) {
    let Some(known) = all.get_mut(key) else { return };
    let before = known.len();
    known.retain(|later| !is_over(&later.source));
    *count -= before - known.len();
    if known.is_empty() {
        all.remove(key);
    }
}

fn end<K: Hash + Eq, T>(all: &mut HashMap<K, Vec<Later<T>>>, count: &mut usize, is_over: impl Fn(&Source) -> bool) {
    all.retain(|_, known| {
        let before = known.len();
        known.retain(|later| !is_over(&later.source));
        *count -= before - known.len();
        !known.is_empty()
    });
}
