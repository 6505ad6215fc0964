//! What commits take away whose turn has not come yet.
//!
//! A notice that is not the next one tells what will be narrower: a user who is disabled, deleted or has a weaker role, a
//! token with fewer permissions. The table must stay what the log has made it, or its checksum says nothing; so this lies
//! above it, and each lookup goes through it. It only ever takes away, and ends when the commit was applied in its turn, or
//! with the first proof that was asked for after the notice: what was committed before is in the table then, or lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::Instant;
use crate::lock::RwLock;
use crate::store::{Change, LogEntry, Stamp};
use crate::token::{Digest, Grant, PermissionSet, Role, UserId};

/// Most subjects. Of what is more, each narrowing takes its turn.
const LIMIT: usize = 65_536;

/// Most times it is empty: then a lookup reads one flag.
#[derive(Debug, Default)]
pub(super) struct Foretold {
    is_there: AtomicBool,
    limits: RwLock<Limits>,
}

#[derive(Debug, Default)]
struct Limits {
    users: HashMap<UserId, Limit<Option<Role>>>,
    tokens: HashMap<Digest, Limit<Terms>>,
}

/// The narrowest that was told of, and the last commit that told.
#[derive(Debug, Clone, Copy)]
struct Limit<T> {
    to: T,
    stamp: Stamp,
    heard: Instant,
}

/// What a token is limited to.
#[derive(Debug, Clone, Copy)]
struct Terms {
    permissions: PermissionSet,
    expires_at: Option<i64>,
}

/// A user who was told to be no more than this by a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) user: UserId,
    pub(super) standing: Option<Role>,
    pub(super) stamp: Stamp,
}

impl Foretold {
    /// Takes what an entry says of users and tokens that are not removed. True when something may be narrower.
    pub(super) fn hear(&self, entry: &LogEntry, now: Instant) -> bool {
        let (stamp, mut limits) = (entry.stamp(), self.limits.write());
        let mut may_narrow = false;
        for change in &entry.changes {
            may_narrow |= !matches!(change, Change::RemoveGrant(_));
            match change {
                Change::PutOwner(id, owner) => limits.user(*id, owner.enabled.then_some(owner.role), stamp, now),
                Change::RemoveOwner(id) => limits.user(*id, None, stamp, now),
                Change::PutGrant(digest, grant) => limits.token(*digest, grant, stamp, now),
                Change::RemoveGrant(_) => {}
            }
        }
        self.is_there.store(!limits.is_empty(), Ordering::Release);
        may_narrow
    }

    /// A commit was applied in its turn: what it told is in the table.
    pub(super) fn applied(&self, stamp: Stamp) {
        if self.is_there.load(Ordering::Acquire) {
            let mut limits = self.limits.write();
            limits.users.retain(|_, limit| limit.stamp != stamp);
            limits.tokens.retain(|_, limit| limit.stamp != stamp);
            self.is_there.store(!limits.is_empty(), Ordering::Release);
        }
    }

    /// What was heard up to `as_of` is in the table, or lost. `take` learns what was told of users, while it holds still.
    pub(super) fn proven(&self, as_of: Instant, take: impl FnOnce(Vec<Told>)) {
        if self.is_there.load(Ordering::Acquire) {
            let mut limits = self.limits.write();
            let over = limits.users.iter().filter(|(_, limit)| limit.heard <= as_of);
            take(over.map(|(user, limit)| Told { user: *user, standing: limit.to, stamp: limit.stamp }).collect());
            limits.users.retain(|_, limit| limit.heard > as_of);
            limits.tokens.retain(|_, limit| limit.heard > as_of);
            self.is_there.store(!limits.is_empty(), Ordering::Release);
        }
    }

    /// What a user's role comes to.
    pub(super) fn role(&self, user: UserId, role: Role) -> Option<Role> {
        if !self.is_there.load(Ordering::Acquire) {
            return Some(role);
        }
        self.limits.read().users.get(&user).map_or(Some(role), |limit| limit.to.min(Some(role)))
    }

    /// What a token's permissions and its end come to.
    pub(super) fn terms(
        &self,
        digest: &Digest,
        permissions: PermissionSet,
        expires_at: Option<i64>,
    ) -> (PermissionSet, Option<i64>) {
        let limit = || Some(self.limits.read().tokens.get(digest)?.to);
        match self.is_there.load(Ordering::Acquire).then(limit).flatten() {
            Some(to) => (permissions.intersect(to.permissions), earlier(expires_at, to.expires_at)),
            None => (permissions, expires_at),
        }
    }
}

impl Limits {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.tokens.is_empty()
    }

    fn has_room(&self) -> bool {
        self.users.len() + self.tokens.len() < LIMIT
    }

    fn user(&mut self, id: UserId, standing: Option<Role>, stamp: Stamp, heard: Instant) {
        if self.has_room() || self.users.contains_key(&id) {
            let limit = self.users.entry(id).or_insert(Limit { to: standing, stamp, heard });
            limit.to = limit.to.min(standing);
            limit.hear(stamp, heard);
        }
    }

    fn token(&mut self, digest: Digest, grant: &Grant, stamp: Stamp, heard: Instant) {
        if self.has_room() || self.tokens.contains_key(&digest) {
            let Grant { permissions, expires_at, .. } = *grant;
            let limit =
                self.tokens.entry(digest).or_insert(Limit { to: Terms { permissions, expires_at }, stamp, heard });
            limit.to.permissions = limit.to.permissions.intersect(permissions);
            limit.to.expires_at = earlier(limit.to.expires_at, expires_at);
            limit.hear(stamp, heard);
        }
    }
}

impl<T> Limit<T> {
    fn hear(&mut self, stamp: Stamp, heard: Instant) {
        self.heard = self.heard.max(heard);
        if stamp.revision >= self.stamp.revision {
            self.stamp = stamp;
        }
    }
}

/// `None` is never.
fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}
