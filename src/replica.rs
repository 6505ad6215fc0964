//! The replica: every usable token in memory, as requests read it.
//!
//! ```text
//!   requests ── lookup, staleness, narrowed ──►  Replica  ◄── apply, merge, sweep, confirm ── synchroniser ◄── store
//! ```
//!
//! A request does one [`Replica::lookup`] and waits for nothing but, at worst, one entry being written in the same
//! shard. Once a snapshot file has been loaded, the synchroniser is the only writer. When it fails, or the store does, the
//! replica retains what it has and [`Replica::staleness`] grows: that is what ends the serving.

pub(crate) mod alarm;
pub mod driver;
mod entry;
mod freshness;
mod identity;
pub mod presence;
mod recalled;
mod settings;
pub mod snapshot_file;
pub mod sync;
mod table;
mod tombstone;

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::clock::{Instant, unix_seconds};
use crate::histogram::{Durations, Histogram};
use crate::lock::Mutex;
use crate::store::{Epoch, LogEntry, Position, Revision, SnapshotItem, Subject};
use crate::token::{Digest, Permission, PermissionSet, Role, TokenId, UserId};
use freshness::Freshness;
use table::{Ahead, Basis, Grants, Ledger, Seen};

pub use identity::{SidecarIdentity, SnapshotFileInUse};
pub use settings::{FreshnessConfig, MaxStaleness};

/// What a request path sees of a user: shared by all of that user's grants, so that one change reaches them all.
#[derive(Debug)]
pub struct OwnerEntry {
    /// The user's id.
    pub id: UserId,
    /// Set once; a grant may arrive before its owner does.
    name: OnceLock<Box<str>>,
    /// The role as a number plus one, or 0 while the user's tokens do not authenticate.
    role: AtomicU8,
}

impl OwnerEntry {
    /// A user of whom only the id is known. Their tokens do not authenticate.
    fn unknown(id: UserId) -> Self {
        Self { id, name: OnceLock::new(), role: AtomicU8::new(0) }
    }

    /// The user's name; never changes. Empty while the user is not known yet, which no [`Holder`] shows.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.get().map_or("", |name| name)
    }

    /// The user's role; `None` while disabled, deleted or not known yet.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        let index = self.role.load(Ordering::Acquire).checked_sub(1)?;
        Role::ALL.get(usize::from(index)).copied()
    }

    /// Sets the role, or takes it away, for all of the user's tokens at once. Returns the role before, as stored; a lower one
    /// is narrower.
    fn set_role(&self, role: Option<Role>) -> u8 {
        self.role.swap(role.map_or(0, |role| role as u8 + 1), Ordering::AcqRel)
    }
}

/// What the replica says of a digest that is usable: the grant, with its owner's role applied.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The token's id.
    pub token: TokenId,
    /// Its owner.
    pub owner: Arc<OwnerEntry>,
    /// The owner's role at the lookup.
    pub role: Role,
    /// What it permits: the grant's permissions that the role has too.
    pub permissions: PermissionSet,
    /// The second, since 1970, from which it is refused.
    pub expires_at: Option<i64>,
}

impl Holder {
    /// For how long the token has been expired at this second since 1970; `None`: it is not.
    #[must_use]
    pub fn expired_for(&self, now: i64) -> Option<Duration> {
        let seconds = now.checked_sub(self.expires_at?)?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }
}

/// The state of the replica, for metrics and health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The store's position that the replica has reached; `None` while it is being rebuilt.
    pub position: Option<Position>,
    /// Usable tokens, the expired ones and those of disabled users included.
    pub grants: usize,
    /// Known users.
    pub owners: usize,
    /// Digests that can never authenticate again.
    pub tombstones: usize,
    /// Digests that the store shows as recalled, and that no command has settled yet.
    pub recalled: usize,
    /// Grants that the store holds although their digest has a tombstone, or was recalled.
    pub suppressed: usize,
    /// Users who were seen disabled, or with a weaker role, than the store shows: it has lost that.
    pub held: usize,
    /// Entries of the latest snapshot that could not be read.
    pub damaged: u64,
    /// Times that the replica held something else than the store at the same revision, since the start.
    pub divergences: u64,
    /// Snapshots that were needed after the first one, since the start.
    pub resyncs: u64,
    /// Times that the store was found to have lost writes, since the start.
    pub forks: u64,
    /// Reads of the store that failed, since the start.
    pub reads_failed: u64,
    /// Times that the store's notices were, or may have been, lost, since the start: a subscription that was cut, or a
    /// replica that could not keep up.
    pub notices_lost: u64,
}

/// See [`Replica::extent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    basis: Basis,
    applied: Revision,
    /// Besides what was applied: what was recalled, and revoked ahead of its turn.
    narrowed: u64,
}

/// What a replica knows of a digest.
#[derive(Debug)]
pub enum Known {
    /// A token that is in force, as far as its owner goes; it may have expired.
    Usable {
        /// Its id.
        token: TokenId,
        /// Whose it is.
        owner: Arc<OwnerEntry>,
    },
    /// A token whose owner is disabled.
    OwnerDisabled {
        /// Its id.
        token: TokenId,
        /// Whose it is.
        owner: Arc<OwnerEntry>,
    },
    /// No token.
    Nothing,
}

/// Every usable token, by digest.
pub struct Replica {
    grants: Grants,
    /// The most that each role permits, by the role's number.
    limits: [PermissionSet; Role::ALL.len()],
    /// What is known of later commits than the grants show.
    ahead: Arc<Ahead>,
    freshness: Freshness,
    ledger: Mutex<Ledger>,
    position: watch::Sender<Option<Position>>,
    divergences: AtomicU64,
    resyncs: AtomicU64,
    forks: AtomicU64,
    reads_failed: AtomicU64,
    notices_lost: AtomicU64,
    narrowed: watch::Sender<u64>,
    /// Of what was narrowed: how old the last proof was.
    revocation_lag: Histogram,
    ready: watch::Sender<bool>,
    /// A proof was recorded.
    confirmed: Notify,
}

impl Replica {
    /// An empty replica, never fresh until the synchroniser has filled it.
    #[must_use]
    pub fn new() -> Self {
        let ahead = Arc::<Ahead>::default();
        Self {
            grants: table::new_grants(),
            limits: Role::ALL.map(Role::permissions),
            freshness: Freshness::default(),
            ledger: Mutex::new(Ledger::new(Arc::clone(&ahead))),
            ahead,
            position: watch::Sender::new(None),
            divergences: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            forks: AtomicU64::new(0),
            reads_failed: AtomicU64::new(0),
            notices_lost: AtomicU64::new(0),
            narrowed: watch::Sender::new(0),
            revocation_lag: Histogram::default(),
            ready: watch::Sender::new(false),
            confirmed: Notify::new(),
        }
    }

    /// What is known of a digest: one lookup. `None`: unknown, revoked, deleted, or its owner is disabled.
    #[must_use]
    pub fn lookup(&self, digest: &Digest) -> Option<Holder> {
        let entry = self.grants.get(digest)?;
        let terms = &*entry.terms;
        let role = terms.owner.role()?;
        Some(Holder {
            token: entry.token,
            owner: Arc::clone(&terms.owner),
            role,
            permissions: terms.permissions.intersect(self.limits[role as usize]),
            expires_at: entry.expires_at(),
        })
    }

    /// What is known of a digest that is not let in, for whoever asks why.
    #[must_use]
    pub fn known(&self, digest: &Digest) -> Known {
        let Some(entry) = self.grants.get(digest) else { return Known::Nothing };
        let (token, owner) = (entry.token, Arc::clone(&entry.terms.owner));
        match owner.role() {
            Some(_) => Known::Usable { token, owner },
            None => Known::OwnerDisabled { token, owner },
        }
    }

    /// Whether a digest was seen to be revoked or deleted. `None` while the replica is being changed: nobody waits for it.
    #[must_use]
    pub fn was_removed(&self, digest: &Digest) -> Option<bool> {
        self.ledger.try_lock().map(|ledger| ledger.is_tombstone(digest))
    }

    /// Whether a digest that was let in still has the permission that was needed, for requests that are running; without
    /// one, whether it still is let in. Does not look at the expiry: that a token expires while its request runs is no
    /// reason to end it.
    #[must_use]
    pub fn permits(&self, digest: &Digest, needed: impl Into<Option<Permission>>) -> bool {
        let needed = needed.into();
        let Some(entry) = self.grants.get(digest) else { return false };
        let owner = &entry.terms.owner;
        entry.terms.permissions.satisfies(needed)
            && owner.role().is_some_and(|role| self.limits[role as usize].satisfies(needed))
            && !(self.ahead.is_any() && self.is_forbidden(digest, owner.id, needed, None))
    }

    /// Whether a digest that was just found to have what is needed does not have it by a commit that is known and not reached
    /// yet: the replica is not complete, and can say neither yes nor no.
    #[must_use]
    pub fn doubts(&self, digest: &Digest, holder: &Holder, needed: impl Into<Option<Permission>>) -> bool {
        self.ahead.is_any() && self.is_forbidden(digest, holder.owner.id, needed.into(), Some(unix_seconds()))
    }

    /// Whether commits are known that the table has not reached: it may let in whom they do not.
    pub(crate) fn is_behind_notices(&self) -> bool {
        self.ahead.is_any()
    }

    fn is_forbidden(&self, digest: &Digest, owner: UserId, needed: Option<Permission>, now: Option<i64>) -> bool {
        let permits = |role: Role| self.limits[role as usize].satisfies(needed);
        self.ahead.forbids(digest, owner, permits, needed, now)
    }

    /// How long ago the replica was last proven to be at the store's position; `None` before the first time.
    #[must_use]
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.proven()?))
    }

    /// The moment as of which the replica was last proven to be at the store's position; `None` before the first time.
    #[must_use]
    pub fn proven(&self) -> Option<Instant> {
        self.freshness.proven()
    }

    /// Changes each time that some grant may have become narrower: whoever admitted something that still runs looks it
    /// up again.
    #[must_use]
    pub fn narrowed(&self) -> watch::Receiver<u64> {
        self.narrowed.subscribe()
    }

    /// The store's position that the replica has reached; `None` while it is being rebuilt. Changes after whatever led
    /// there was applied, so who waits for a revision finds its effects.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    /// How long whatever narrows a grant took to get here, at most: from the last proof without it.
    pub(crate) fn revocation_lag(&self) -> Durations {
        let mut lag = Durations::default();
        lag.add(&self.revocation_lag);
        lag
    }

    /// Waits until the replica is complete and was proven fresh for the first time. Cancel-safe.
    pub async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives as long as `self` does, so the wait cannot fail.
        drop(ready.wait_for(|ready| *ready).await);
    }

    /// The state of the replica. Counts every shard: for metrics and health, not for requests.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let counts = self.ledger().counts();
        ReplicaStatus {
            position: *self.position.borrow(),
            grants: self.grants.len(),
            owners: counts.owners,
            tombstones: counts.tombstones,
            recalled: counts.recalled,
            suppressed: counts.suppressed,
            held: counts.held,
            damaged: counts.damaged,
            divergences: self.divergences.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            forks: self.forks.load(Ordering::Relaxed),
            reads_failed: self.reads_failed.load(Ordering::Relaxed),
            notices_lost: self.notices_lost.load(Ordering::Relaxed),
        }
    }

    /// Tokens that the store holds although they were seen revoked or deleted: it lost those writes, or has not announced
    /// them in order yet. They are refused here whatever the store says.
    #[must_use]
    pub fn suppressed(&self) -> Vec<(TokenId, Digest)> {
        self.ledger().suppressed()
    }

    /// The names of users who were seen disabled, or with a weaker role, and whom the store shows otherwise since it lost
    /// that. They stay so here until a commit touches them.
    #[must_use]
    pub fn held_users(&self) -> Vec<String> {
        self.ledger().held_names()
    }

    /// Whether there is any token of [`Replica::suppressed`].
    pub(crate) fn suppresses(&self) -> bool {
        self.ledger().suppresses()
    }

    /// Those of [`Replica::suppressed`] that the store does not show as recalled.
    pub(crate) fn unrecalled(&self) -> Vec<Digest> {
        self.ledger().unrecalled()
    }
}

/// The writer's methods. There is one writer: [`driver::run`].
impl Replica {
    /// Applies one entry of the change log and returns the checksum of what the store holds then, as far as the current
    /// snapshot and the changes since have shown it.
    pub fn apply(&self, entry: &LogEntry, now: Instant) -> u64 {
        let (narrowed, checksum) = {
            let mut ledger = self.ledger();
            (ledger.apply(&self.grants, entry, now), ledger.checksum())
        };
        self.announce(narrowed);
        checksum
    }

    /// Takes what an entry takes away whose turn has not come yet, in this life of the store: a revoked digest stays revoked
    /// whatever was committed before or after, and whoever can do less is in doubt until the commit is reached.
    pub fn anticipate(&self, epoch: Epoch, entry: &LogEntry, now: Instant) {
        let narrowed = self.ledger().anticipate(&self.grants, epoch, entry, now);
        self.announce(narrowed);
    }

    /// Applies only the revocations of an entry whose turn is over, or was.
    pub fn revoke(&self, entry: &LogEntry, now: Instant) {
        let narrowed = self.ledger().revoke(&self.grants, entry, now);
        self.announce(narrowed);
    }

    /// Begins a reading of the recalled digests.
    pub fn begin_recalls(&self) {
        self.ledger().begin_recalls();
    }

    /// Refuses these digests, whatever the store says of them.
    pub fn recall(&self, digests: &[Digest]) {
        let narrowed = self.ledger().recall(&self.grants, digests);
        self.announce(narrowed);
    }

    /// How many different digests the store has shown since the reading began that was ended last.
    pub(crate) fn recalls_shown(&self) -> usize {
        self.ledger().recalls_shown()
    }

    /// Ends the reading: those that it has not shown are not recalled any more.
    pub fn end_recalls(&self) {
        self.ledger().end_recalls();
    }

    /// Opens a snapshot: what it does not show is removed by [`Replica::sweep`]. One that was opened before and never
    /// swept is given up; what it brought stays until the next sweep.
    pub fn begin_merge(&self) {
        self.ledger().begin_merge();
    }

    /// Takes one item of the open snapshot. True when something may have become narrower: call [`Replica::announce`]
    /// once for the whole snapshot.
    pub fn merge(&self, item: &SnapshotItem) -> bool {
        self.ledger().merge(&self.grants, item)
    }

    /// The checksum of what the store holds, as far as the current snapshot and the changes since have shown it.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        self.ledger().checksum()
    }

    /// The store has lost writes about these, and shows them as `found`, or no longer. Returns the checksum, as
    /// [`Replica::checksum`]. A revoked digest stays revoked, and a user stays as narrow as was seen.
    pub fn repair(&self, subjects: &[Subject], found: &[SnapshotItem]) -> u64 {
        let (narrowed, checksum) = {
            let mut ledger = self.ledger();
            (ledger.repair(&self.grants, subjects, found), ledger.checksum())
        };
        self.announce(narrowed);
        checksum
    }

    /// Closes the snapshot: removes what neither it nor the changes since have shown. What is gone is among
    /// [`Replica::vanished`] from then on.
    pub fn sweep(&self) {
        let narrowed = self.ledger().sweep(&self.grants);
        self.announce(narrowed);
    }

    /// The first of those tokens that the store showed and then did not, without a commit that was seen to take them away: it
    /// was not read yet which of them the store knows as revoked or deleted.
    #[must_use]
    pub fn vanished(&self, most: usize) -> Vec<Digest> {
        self.ledger().vanished(most)
    }

    /// The store was asked whether it knows these as revoked or deleted, the first of [`Replica::vanished`]: those stay so, and
    /// the others may come again.
    pub fn explain(&self, vanished: &[Digest], is_removed: &[bool], now: Instant) {
        let narrowed = self.ledger().explain(&self.grants, vanished, is_removed, now);
        self.announce(narrowed);
    }

    /// Everything committed before `as_of` is in the table. What was announced by then and is not, the store has lost: users
    /// stay so.
    pub fn reach(&self, as_of: Instant) {
        let narrowed = self.ledger().reach(as_of);
        self.announce(narrowed);
    }

    /// Records a proof that the replica held everything committed before `as_of`. Never moves backwards.
    pub fn confirm(&self, as_of: Instant) {
        self.freshness.confirm(as_of);
        self.confirmed.notify_waiters();
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    /// Closes a merge of what an earlier run held; `as_of`, if known, is when that was proven last. The replica counts
    /// as ready with its first proof of its own only. Returns the checksum, as [`Replica::checksum`].
    fn adopt(
        &self,
        tombstones: &[(Digest, u32)],
        announced: Option<(Epoch, &[(UserId, Seen)])>,
        reaches: Revision,
        as_of: Option<Instant>,
        now: Instant,
    ) -> u64 {
        let checksum = {
            let mut ledger = self.ledger();
            ledger.adopt(&self.grants, tombstones, reaches, now);
            if let Some((epoch, announced)) = announced {
                ledger.announced_before(epoch, announced, now);
            }
            ledger.checksum()
        };
        if let Some(as_of) = as_of {
            self.freshness.confirm(as_of);
            self.confirmed.notify_waiters();
        }
        checksum
    }

    /// What the replica holds: the same again says that nothing was added or taken away since.
    fn extent(&self) -> Extent {
        let (basis, applied) = self.ledger().progress();
        Extent { basis, applied, narrowed: *self.narrowed.borrow() }
    }

    /// Sets the position that [`Replica::position`] returns.
    fn set_position(&self, position: Option<Position>) {
        self.position.send_if_modified(|held| std::mem::replace(held, position) != position);
    }

    /// Wakes those who wait on [`Replica::narrowed`], if something was narrowed.
    pub fn announce(&self, narrowed: bool) {
        if narrowed {
            self.wake_waiters();
            // What is new here was committed after the last proof: no clock but this one is needed to say so.
            if let Some(lag) = self.staleness(Instant::now()) {
                self.revocation_lag.observe(lag);
            }
        }
    }

    /// Wakes those who wait on [`Replica::narrowed`], for what may end what they rest on and is no change.
    fn wake_waiters(&self) {
        self.narrowed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Replica {
    /// Counts only: digests belong in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

#[cfg(test)]
mod tests;
