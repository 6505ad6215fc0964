//! The writer's side of the replica: what changes and snapshots do to the grants.
//!
//! There is one writer at a time, the synchroniser; requests read the grants meanwhile. A snapshot is merged into the
//! living table: [`Ledger::begin_merge`] opens a generation, every item is stamped with it, changes from the log too,
//! and [`Ledger::sweep`] removes what carries an older stamp. So memory never doubles, and no request waits for more
//! than one entry of one shard.
//!
//! The checksum covers what the *store* holds, as far as the current generation has seen it: also grants that are
//! suppressed here because their digest has a tombstone.

mod ahead;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;

use super::OwnerEntry;
use super::entry::{DigestHasher, Entry, Generation, Terms};
use super::recalled::Recalled;
use super::tombstone::{self, Tombstones};
use crate::clock::Instant;
use crate::store::{Change, CommitId, LogEntry, Revision, SnapshotItem, Stamp, Subject};
use crate::token::{Digest, Grant, Owner, PermissionSet, Role, TokenId, UserId};
use ahead::Reread;

pub(super) use ahead::Ahead;

/// What requests look digests up in.
pub(super) type Grants = DashMap<Digest, Entry, BuildHasherDefault<DigestHasher>>;

/// Enough that growing or sweeping one shard (16,000 entries of a million) holds its lock for about 0.2 ms, and of a size
/// that the allocator does not round up by much: 32 and 128 take 5 MiB more for a million tokens.
const SHARDS: usize = 64;

/// Changes after which requests that wait for this core go first: a bulk command is in no hurry that they should notice.
const TURN: usize = 32;

/// Damaged entries of one snapshot that are logged by name; the rest are counted only.
const DAMAGED_NAMED: u64 = 10;

/// Characters of a damaged entry's key that are logged.
const DAMAGED_KEY: usize = 24;

pub(super) fn new_grants() -> Grants {
    DashMap::with_capacity_and_hasher_and_shard_amount(0, BuildHasherDefault::default(), SHARDS)
}

/// The grants of one shard; `None` after the last. The shard is locked for as long as copying takes, about 0.3 ms of a
/// million's, which requests do not notice: they only read, and wait only behind a change that waits.
pub(super) fn copy_shard(grants: &Grants, index: usize) -> Option<Vec<(Digest, Grant)>> {
    let copy = grants.shards().get(index)?.read().clone();
    Some(copy.into_iter().map(|(digest, entry)| (digest, entry.get().grant())).collect())
}

/// Makes room for this many grants in all. A table that grows by doubling leaves as much again behind in pieces, which
/// the allocator cannot give back.
fn make_room(grants: &Grants, expected: usize) {
    let each = expected / SHARDS;
    // Shards fill unevenly, by about the square root of their share; four times that is practically never exceeded.
    let each = each + 4 * each.isqrt();
    for shard in grants.shards() {
        let mut shard = shard.write();
        let more = each.saturating_sub(shard.len());
        shard.reserve(more, |(digest, _)| grants.hasher().hash_one(digest));
    }
}

/// Everything that only the writer needs.
#[derive(Debug)]
pub(super) struct Ledger {
    owners: HashMap<UserId, OwnerSlot>,
    /// Grants that the store holds although their digest was seen removed.
    suppressed: HashMap<Digest, Suppressed, BuildHasherDefault<DigestHasher>>,
    tombstones: Tombstones,
    recalled: Recalled,
    /// XOR of the fingerprints of everything stamped with `generation`.
    checksum: u64,
    generation: Generation,
    /// Tokens that the store showed and then did not, without a commit that was seen to take them away. No more than could get
    /// tombstones.
    vanished: VecDeque<Digest>,
    /// How often lost writes were made up for.
    mended: u64,
    /// The latest entry of the log that was applied since the current generation was opened, or last mended.
    applied: Revision,
    /// Entries of the latest snapshot that could not be read.
    damaged: u64,
    /// What requests look at beside the grants.
    ahead: Arc<Ahead>,
    reread: Reread,
}

/// A user as the writer sees it.
#[derive(Debug)]
struct OwnerSlot {
    /// Shared by the user's grants. Never replaced while one refers to it, so that one store reaches them all.
    entry: Arc<OwnerEntry>,
    /// Those of the user's grants, by what they permit.
    terms: HashMap<PermissionSet, Arc<Terms>>,
    /// `None` while only grants have named the user.
    known: Option<Known>,
    /// What the user was seen to be, where the store has lost that and shows more.
    held: Option<Seen>,
    seen: Generation,
}

/// What the store says of a user, as far as the shared entry does not show it.
#[derive(Debug, Clone, Copy)]
struct Known {
    role: Role,
    enabled: bool,
    touch: Touch,
    fingerprint: u64,
}

impl Known {
    /// The role, if the user's tokens authenticate.
    fn authority(&self) -> Option<Role> {
        self.enabled.then_some(self.role)
    }
}

/// What a user was seen to be, and which commit had made it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The role; `None` for a disabled user.
    pub(super) role: Option<Role>,
    pub(super) touch: Touch,
}

/// The commit that made a user what the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) by: Stamp,
    /// The commit that touched the user before: none did in between. `None`: not known.
    pub(super) before: Option<Stamp>,
}

impl Touch {
    /// Whether the store, which shows the user as made by another commit, has lost this one. If not, that one is a new word
    /// on the user.
    ///
    /// Revisions tell the order only within one history. A commit at or after the revision of the commit before this one,
    /// other than both, is not in the history of this one: nothing touched the user there in between, and what comes
    /// later would have followed it. So it was made after the loss, or follows this one. Of what is below that, or where
    /// the commit before is not known, that cannot be said, and it counts as old.
    fn is_lost_to(&self, shown: Stamp) -> bool {
        let known = self.before.unwrap_or(self.by);
        let is_new = shown.revision > known.revision || (shown.revision == known.revision && shown.id != known.id);
        // The version before showed no commits. What was seen of it then may have been undone since.
        let has_commits = self.by.id != CommitId::default();
        has_commits && shown.id != self.by.id && (shown.id == CommitId::default() || !is_new)
    }
}

impl OwnerSlot {
    fn new(entry: OwnerEntry, seen: Generation) -> Self {
        Self { entry: Arc::new(entry), terms: HashMap::new(), known: None, held: None, seen }
    }

    /// The terms that all of the user's grants with these permissions share.
    fn terms(&mut self, permissions: PermissionSet) -> Arc<Terms> {
        let terms = || Arc::new(Terms { owner: Arc::clone(&self.entry), permissions });
        Arc::clone(self.terms.entry(permissions).or_insert_with(terms))
    }

    /// Forgets terms that no grant has. Besides the table and this slot only [`copy_shard`] holds any, for a moment;
    /// what is left because of that is forgotten by the next sweep.
    fn forget(&mut self, permissions: PermissionSet) {
        if self.terms.get(&permissions).is_some_and(|terms| Arc::strong_count(terms) == 1) {
            self.terms.remove(&permissions);
        }
    }

    /// Neither the store nor a grant names the user.
    fn is_idle(&self) -> bool {
        self.known.is_none() && self.terms.is_empty()
    }
}

#[derive(Debug, Clone, Copy)]
struct Suppressed {
    grant: Grant,
    seen: Generation,
}

/// What the log makes exact: a snapshot, and what was read again since. Another one has another past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Basis {
    generation: Generation,
    mended: u64,
}

/// How many of each thing the ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) owners: usize,
    pub(super) tombstones: usize,
    pub(super) recalled: usize,
    pub(super) suppressed: usize,
    pub(super) damaged: u64,
    pub(super) held: usize,
}

impl Ledger {
    pub(super) fn new(ahead: Arc<Ahead>) -> Self {
        Self {
            owners: HashMap::new(),
            suppressed: HashMap::default(),
            tombstones: Tombstones::new(tombstone::LIMIT),
            recalled: Recalled::default(),
            checksum: 0,
            generation: Generation::default(),
            vanished: VecDeque::new(),
            mended: 0,
            applied: Revision::default(),
            damaged: 0,
            ahead,
            reread: Reread::default(),
        }
    }

    pub(super) fn checksum(&self) -> u64 {
        self.checksum
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            owners: self.owners.values().filter(|slot| slot.known.is_some()).count(),
            tombstones: self.tombstones.len(),
            recalled: self.recalled.len(),
            suppressed: self.suppressed.len(),
            damaged: self.damaged,
            held: self.owners.values().filter(|slot| slot.held.is_some()).count(),
        }
    }

    /// Users who were seen disabled, or with a weaker role, than the store shows: it has lost that.
    pub(super) fn held(&self) -> Vec<(UserId, Seen)> {
        self.owners.iter().filter_map(|(id, slot)| Some((*id, slot.held?))).collect()
    }

    /// Their names.
    pub(super) fn held_names(&self) -> Vec<String> {
        let held = self.owners.values().filter(|slot| slot.held.is_some());
        let mut names: Vec<_> = held.map(|slot| slot.entry.name().to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// What an earlier run held a user to, or what was announced to it. Comes after the user.
    pub(super) fn hold(&mut self, id: UserId, seen: Seen) {
        let slot = self.owner(id);
        slot.held = slot.held.filter(|held| held.role <= seen.role).or(Some(seen));
        let seen = slot.held.unwrap_or(seen);
        slot.entry.set_role(slot.known.and_then(|known| known.authority()).min(seen.role));
    }

    /// What an earlier run knew of the commit before the one that made a user so. Comes after the user.
    pub(super) fn touched_after(&mut self, id: UserId, before: Stamp) {
        if let Some(known) = self.owners.get_mut(&id).and_then(|slot| slot.known.as_mut()) {
            known.touch.before = Some(before);
        }
    }

    pub(super) fn suppressed(&self) -> Vec<(TokenId, Digest)> {
        self.suppressed.iter().map(|(digest, grant)| (grant.grant.token, *digest)).collect()
    }

    pub(super) fn suppresses(&self) -> bool {
        !self.suppressed.is_empty()
    }

    /// Whether a digest was seen to be revoked or deleted.
    pub(super) fn is_tombstone(&self, digest: &Digest) -> bool {
        self.tombstones.contains(digest)
    }

    /// Those of them that the store does not show as recalled.
    pub(super) fn unrecalled(&self) -> Vec<Digest> {
        self.suppressed.keys().filter(|digest| !self.recalled.is_shown(digest)).copied().collect()
    }

    /// Applies one entry of the change log. True when something may have become narrower.
    pub(super) fn apply(&mut self, grants: &Grants, entry: &LogEntry, now: Instant) -> bool {
        self.tombstones.expire(now);
        self.applied = entry.revision;
        let mut narrowed = false;
        for changes in entry.changes.chunks(TURN) {
            let change = |narrowed, change| self.change(grants, change, entry.stamp(), now) | narrowed;
            narrowed |= changes.iter().fold(false, change);
            if changes.len() == TURN {
                std::thread::yield_now();
            }
        }
        self.ahead.release_applied(entry, self.progress().0);
        narrowed
    }

    /// Applies only an entry's revocations, ahead of the entry itself: they hold whatever came before or comes after.
    pub(super) fn revoke(&mut self, grants: &Grants, entry: &LogEntry, now: Instant) -> bool {
        entry.changes.iter().fold(false, |narrowed, change| match change {
            Change::RemoveGrant(digest) => self.refuse(grants, digest, now) | narrowed,
            Change::PutGrant(..) | Change::PutOwner(..) | Change::RemoveOwner(_) => narrowed,
        })
    }

    /// Begins a reading of what other sidecars saw revoked or deleted.
    pub(super) fn begin_recalls(&mut self) {
        self.recalled.begin();
    }

    /// Refuses digests that another sidecar saw revoked or deleted.
    pub(super) fn recall(&mut self, grants: &Grants, digests: &[Digest]) -> bool {
        digests.iter().fold(false, |narrowed, digest| {
            self.recalled.insert(*digest);
            self.suppress_held(grants, digest) | narrowed
        })
    }

    /// How many different ones were shown since the reading began that was ended last.
    pub(super) fn recalls_shown(&self) -> usize {
        self.recalled.shown()
    }

    /// Ends the reading. What the store shows no more, and holds as active all the same, it has lost again.
    pub(super) fn end_recalls(&mut self) {
        self.recalled.end(|digest| self.suppressed.contains_key(digest));
    }

    /// Refuses a digest for good, ahead of what the store's position says: a grant of it still counts towards the
    /// checksum.
    fn refuse(&mut self, grants: &Grants, digest: &Digest, now: Instant) -> bool {
        self.refuse_aged(grants, digest, 0, now)
    }

    /// As [`Ledger::refuse`], for a digest that was seen removed this many seconds ago. The oldest must come first.
    fn refuse_aged(&mut self, grants: &Grants, digest: &Digest, age: u32, now: Instant) -> bool {
        self.tombstones.insert_aged(*digest, age, now);
        self.suppress_held(grants, digest)
    }

    /// Takes a grant out of the table that the store holds still.
    fn suppress_held(&mut self, grants: &Grants, digest: &Digest) -> bool {
        let Some((_, old)) = grants.remove(digest) else { return false };
        self.suppressed.insert(*digest, Suppressed { grant: old.grant(), seen: old.seen() });
        self.release(old);
        true
    }

    /// Opens a generation. Nothing seen before counts any more, everything is served until [`Ledger::sweep`].
    pub(super) fn begin_merge(&mut self) {
        self.generation = self.generation.next();
        self.checksum = 0;
        self.applied = Revision::default();
        self.damaged = 0;
        self.reread = Reread::All { up_to: Revision(u64::MAX) };
    }

    /// Takes one item of a snapshot. An item may come twice.
    pub(super) fn merge(&mut self, grants: &Grants, item: &SnapshotItem) -> bool {
        let narrowed = match item {
            SnapshotItem::Begin(expected) => {
                self.begin_merge();
                make_room(grants, *expected);
                false
            }
            SnapshotItem::Owner(id, owner, stamp) => {
                let held = self.held_to(*id, owner, *stamp);
                self.put_owner(grants, *id, owner, Touch { by: *stamp, before: None }, held)
            }
            SnapshotItem::Grant(digest, grant) => self.put_grant(grants, *digest, grant),
            SnapshotItem::Damaged { key } => {
                self.damaged += 1;
                if self.damaged <= DAMAGED_NAMED {
                    // Enough of it to find the entry by; a key may end in a digest, which belongs in no log.
                    let key = key.chars().take(DAMAGED_KEY).collect::<String>();
                    tracing::error!(key, "the store holds a damaged entry: the token or user it is about is refused");
                }
                false
            }
        };
        if let Some(subject) = item.subject() {
            self.ahead.forget_reading(&subject);
        }
        narrowed
    }

    /// The store has lost writes about these, and shows them as `found`, or no longer. What is gone may come again: it was
    /// not revoked. Everything else in the current generation stays as it is.
    pub(super) fn repair(&mut self, grants: &Grants, subjects: &[Subject], found: &[SnapshotItem]) -> bool {
        self.mended += 1;
        self.applied = Revision::default();
        self.reread.extend(subjects);
        let shown: HashSet<Subject> = found.iter().filter_map(SnapshotItem::subject).collect();
        let gone = subjects.iter().filter(|subject| !shown.contains(subject));
        let narrowed = gone.fold(false, |narrowed, subject| self.forget(grants, subject) | narrowed);
        found.iter().fold(narrowed, |narrowed, item| self.merge(grants, item) | narrowed)
    }

    /// Removes what the store no longer has.
    fn forget(&mut self, grants: &Grants, subject: &Subject) -> bool {
        let narrowed = match subject {
            Subject::Token(digest) => {
                let is_held = self.take_grant(grants, digest);
                if is_held && self.vanished.len() < tombstone::LIMIT {
                    self.vanished.push_back(*digest);
                }
                is_held
            }
            Subject::User(id) => self.remove_owner(*id),
        };
        self.ahead.forget_reading(subject);
        narrowed
    }

    /// Removes what the current generation has not seen. Whether it was revoked or deleted, that does not say.
    pub(super) fn sweep(&mut self, grants: &Grants) -> bool {
        let generation = self.generation;
        let gone = grants.iter().filter(|entry| entry.seen() != generation).count();
        let vanished = &mut self.vanished;
        // They may be a million: no more room than they need.
        vanished.reserve_exact(gone.min(tombstone::LIMIT.saturating_sub(vanished.len())));
        grants.retain(|digest, entry| {
            let is_shown = entry.seen() == generation;
            if !is_shown && vanished.len() < tombstone::LIMIT {
                vanished.push_back(*digest);
            }
            is_shown
        });
        let mut narrowed = gone > 0;
        self.suppressed.retain(|_, grant| grant.seen == generation);
        self.owners.retain(|_, slot| {
            if slot.seen != generation || slot.known.is_none() {
                (slot.known, slot.held) = (None, None);
                narrowed |= slot.entry.set_role(None) != 0;
            }
            slot.terms.retain(|_, terms| Arc::strong_count(terms) > 1);
            !slot.is_idle()
        });
        narrowed
    }

    /// See [`Replica::vanished`](super::Replica::vanished).
    pub(super) fn vanished(&self, most: usize) -> Vec<Digest> {
        self.vanished.iter().take(most).copied().collect()
    }

    /// Refuses those that the store knows as removed of these, the first of those that vanished.
    pub(super) fn explain(&mut self, grants: &Grants, asked: &[Digest], is_removed: &[bool], now: Instant) -> bool {
        let mut narrowed = false;
        for (digest, is_removed) in asked.iter().zip(is_removed) {
            self.vanished.pop_front_if(|vanished| vanished == digest);
            narrowed |= *is_removed && self.refuse(grants, digest, now);
        }
        if self.vanished.is_empty() {
            self.vanished = VecDeque::new();
        }
        narrowed
    }

    /// Closes a merge of what an earlier run held, which mixes in commits up to `reaches`, with its tombstones and their ages in
    /// seconds, the oldest first.
    pub(super) fn adopt(&mut self, grants: &Grants, tombstones: &[(Digest, u32)], reaches: Revision, now: Instant) {
        for (digest, age) in tombstones {
            self.refuse_aged(grants, digest, *age, now);
        }
        self.tombstones.expire(now);
        self.reread = Reread::All { up_to: reaches };
    }

    /// What there is to go by, and the latest entry of the log that was applied to it.
    pub(super) fn progress(&self) -> (Basis, Revision) {
        (Basis { generation: self.generation, mended: self.mended }, self.applied)
    }

    /// Every user that the store has shown, and which commit made the user so.
    pub(super) fn owners(&self) -> Vec<(UserId, Owner, Touch)> {
        let owner = |(id, slot): (&UserId, &OwnerSlot)| {
            let Known { role, enabled, touch, .. } = slot.known?;
            Some((*id, Owner { name: slot.entry.name().to_owned(), role, enabled }, touch))
        };
        self.owners.iter().filter_map(owner).collect()
    }

    /// The grants that are refused although the store holds them.
    pub(super) fn suppressed_grants(&self) -> Vec<(Digest, Grant)> {
        self.suppressed.iter().map(|(digest, suppressed)| (*digest, suppressed.grant)).collect()
    }

    /// See [`Tombstones::page`].
    pub(super) fn tombstones(&self, from: u64, limit: usize, now: Instant) -> Option<(Vec<(Digest, u32)>, u64)> {
        self.tombstones.page(from, limit, now)
    }

    fn change(&mut self, grants: &Grants, change: &Change, stamp: Stamp, now: Instant) -> bool {
        self.retain_later(grants, change, stamp);
        match change {
            Change::PutGrant(digest, grant) => self.put_grant(grants, *digest, grant),
            Change::RemoveGrant(digest) => self.remove_grant(grants, digest, now),
            // A commit that touches the user is a new word on it, whatever was seen before.
            Change::PutOwner(id, owner) => {
                let touch = Touch { by: stamp, before: self.touched_before(*id, stamp) };
                self.put_owner(grants, *id, owner, touch, None)
            }
            Change::RemoveOwner(id) => self.remove_owner(*id),
        }
    }

    fn put_grant(&mut self, grants: &Grants, digest: Digest, grant: &Grant) -> bool {
        let is_refused = self.tombstones.contains(&digest) || self.recalled.contains(&digest);
        if is_refused || self.suppressed.contains_key(&digest) {
            self.suppress(digest, grant);
            return false;
        }
        let terms = self.owner(grant.owner).terms(grant.permissions);
        let entry = Entry::new(grant, terms, self.generation);
        self.checksum ^= entry.grant().fingerprint(&digest);
        let Some(old) = grants.insert(digest, entry) else { return false };
        self.uncount(&digest, &old);
        let narrowed = old.is_narrowed_by(grant);
        self.release(old);
        narrowed
    }

    /// Remembers that the store holds a grant that is refused here for good.
    fn suppress(&mut self, digest: Digest, grant: &Grant) {
        self.checksum ^= grant.fingerprint(&digest);
        if let Some(old) = self.suppressed.insert(digest, Suppressed { grant: *grant, seen: self.generation })
            && old.seen == self.generation
        {
            self.checksum ^= old.grant.fingerprint(&digest);
        }
    }

    fn remove_grant(&mut self, grants: &Grants, digest: &Digest, now: Instant) -> bool {
        // Also when the digest is unknown here: a put of it may still be on its way.
        self.tombstones.insert(*digest, now);
        self.recalled.remove(digest);
        self.take_grant(grants, digest)
    }

    /// Removes what the store no longer has, with its part of the checksum.
    fn take_grant(&mut self, grants: &Grants, digest: &Digest) -> bool {
        if let Some(old) = self.suppressed.remove(digest)
            && old.seen == self.generation
        {
            self.checksum ^= old.grant.fingerprint(digest);
        }
        let Some((_, old)) = grants.remove(digest) else { return false };
        self.uncount(digest, &old);
        self.release(old);
        true
    }

    /// What a user stays held to although a snapshot shows it so: the narrowest that was seen, as long as the store has no
    /// later word on the user.
    fn held_to(&self, id: UserId, owner: &Owner, stamp: Stamp) -> Option<Seen> {
        let slot = self.owners.get(&id)?;
        let known = slot.known.map(|known| Seen { role: known.authority(), touch: known.touch });
        let shown = owner.enabled.then_some(owner.role);
        let seen = slot.held.or(known).filter(|seen| seen.touch.is_lost_to(stamp) && seen.role < shown)?;
        if slot.held.is_none() {
            log_lost(&owner.name);
        }
        Some(seen)
    }

    /// Holds a user to what was announced, if the store has lost that, and has no new word on the user.
    fn hold_if_lost(&mut self, id: UserId, seen: Seen) -> bool {
        let Some(slot) = self.owners.get_mut(&id) else { return false };
        let is_lost = |known: &Known| seen.touch.is_lost_to(known.touch.by);
        if slot.known.filter(is_lost).is_none() || seen.role >= slot.entry.role() {
            return false;
        }
        if slot.held.is_none() {
            log_lost(slot.entry.name());
        }
        slot.held = Some(seen);
        slot.entry.set_role(seen.role);
        true
    }

    /// The commit that touched a user before the next one of the log does. What a snapshot has mixed in is later.
    fn touched_before(&self, id: UserId, next: Stamp) -> Option<Stamp> {
        let slot = self.owners.get(&id).filter(|slot| slot.seen == self.generation)?;
        slot.known.map(|known| known.touch.by).filter(|before| before.revision < next.revision)
    }

    fn put_owner(&mut self, grants: &Grants, id: UserId, owner: &Owner, touch: Touch, held: Option<Seen>) -> bool {
        let generation = self.generation;
        let fingerprint = owner.fingerprint(id);
        let slot = self.owner(id);
        let mut narrowed = false;
        if slot.entry.name.get_or_init(|| owner.name.as_str().into()).as_ref() != owner.name {
            rename(grants, slot, owner);
            narrowed = true;
        }
        // The same commit once more: what came before it is the same too.
        let again = slot.known.map(|known| known.touch).filter(|known| known.by.id == touch.by.id);
        let touch = again.unwrap_or(touch);
        let known = Known { role: owner.role, enabled: owner.enabled, touch, fingerprint };
        slot.held = held;
        let old = slot.known.replace(known).filter(|_| slot.seen == generation);
        slot.seen = generation;
        let shown = known.authority();
        let before = slot.entry.set_role(held.map_or(shown, |held| held.role.min(shown)));
        narrowed |= slot.entry.role.load(Ordering::Relaxed) < before;
        self.checksum ^= fingerprint ^ old.map_or(0, |old| old.fingerprint);
        narrowed
    }

    fn remove_owner(&mut self, id: UserId) -> bool {
        let Some(slot) = self.owners.get_mut(&id) else { return false };
        if slot.seen == self.generation {
            self.checksum ^= slot.known.map_or(0, |known| known.fingerprint);
        }
        (slot.known, slot.held) = (None, None);
        let narrowed = slot.entry.set_role(None) != 0;
        if slot.is_idle() {
            self.owners.remove(&id);
        }
        narrowed
    }

    /// The slot of a user; one without a role for a user that is not known yet.
    fn owner(&mut self, id: UserId) -> &mut OwnerSlot {
        let seen = self.generation;
        self.owners.entry(id).or_insert_with(|| OwnerSlot::new(OwnerEntry::unknown(id), seen))
    }

    /// Takes a grant that left the table out of the checksum, if it was in it.
    fn uncount(&mut self, digest: &Digest, old: &Entry) {
        if old.seen() == self.generation {
            self.checksum ^= old.grant().fingerprint(digest);
        }
    }

    /// Forgets terms, and an unknown owner, with their last grant.
    fn release(&mut self, old: Entry) {
        // The slot's own, this one, and that of another grant.
        if Arc::strong_count(&old.terms) > 2 {
            return;
        }
        let Grant { owner: id, permissions, .. } = old.grant();
        drop(old);
        let Some(slot) = self.owners.get_mut(&id) else { return };
        slot.forget(permissions);
        if slot.is_idle() {
            self.owners.remove(&id);
        }
    }
}

fn log_lost(user: &str) {
    tracing::error!(
        user,
        "the store has lost that this user was disabled or given a weaker role: it stays so here until a command changes \
         the user"
    );
}

/// Names never change within a store. If another store knows the same user by another name, no request may go on under
/// the old one: the user's grants get new terms, with a new entry.
fn rename(grants: &Grants, slot: &mut OwnerSlot, owner: &Owner) {
    let id = slot.entry.id;
    let renamed = OwnerEntry::unknown(id);
    renamed.name.get_or_init(|| owner.name.as_str().into());
    slot.entry.set_role(None);
    slot.entry = Arc::new(renamed);
    slot.terms.clear();
    for mut entry in grants.iter_mut().filter(|entry| entry.terms.owner.id == id) {
        entry.terms = slot.terms(entry.terms.permissions);
    }
}
