//! The replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::token::{Digest, PermissionSet, Role, TokenId, UserId};

/// What a request path sees of a user: shared by all of that user's grants, so that one change reaches them all.
#[derive(Debug)]
pub struct OwnerEntry {
    /// The user's id.
    pub id: UserId,
    /// The user's name; never changes.
    pub name: Box<str>,
    /// The role as a number plus one, or 0 while the user's tokens do not authenticate.
    standing: AtomicU8,
}

impl OwnerEntry {
    /// The user's role; `None` while disabled, deleted or not known yet.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        let standing = self.standing.load(Ordering::Acquire);
        Role::ALL.into_iter().find(|role| *role as u8 + 1 == standing)
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

/// What requests read.
#[derive(Debug)]
pub struct Replica {
    narrowed: tokio::sync::watch::Sender<u64>,
}

impl Replica {
    /// What is known of a digest: one lookup. `None`: unknown, revoked, deleted, or its owner is disabled.
    #[must_use]
    pub fn lookup(&self, _digest: &Digest) -> Option<Holder> {
        None
    }

    /// How long ago the replica was last proven to be at the store's position; `None` before the first time.
    #[must_use]
    pub fn staleness(&self, _now: Instant) -> Option<Duration> {
        None
    }

    /// Changes each time that some grant may have become narrower: whoever admitted something that still runs looks it
    /// up again.
    #[must_use]
    pub fn narrowed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.narrowed.subscribe()
    }
}
