//! A batch: edits of records, computed from records that were read, to be committed whole or not at all.

use std::collections::{BTreeSet, HashSet};

use super::{Change, CommitId, Versioned};
use crate::token::{Grant, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord, UserStatus};

/// One record's part in a batch. What was read comes along, so that the store can check that it still is so, and so that
/// what replicas must know follows from the batch alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit<R> {
    /// A new record; none with its id may exist.
    Create(R),
    /// A changed record.
    Update {
        /// As it was read.
        before: Versioned<R>,
        /// As it shall be.
        after: R,
    },
    /// A record that goes, with its history.
    Delete(Versioned<R>),
    /// A record that the decision rests on and that must not have changed.
    Require(Versioned<R>),
}

impl<R> Edit<R> {
    /// The record as it was read.
    #[must_use]
    pub fn before(&self) -> Option<&Versioned<R>> {
        match self {
            Self::Create(_) => None,
            Self::Update { before, .. } | Self::Delete(before) | Self::Require(before) => Some(before),
        }
    }

    /// The record as it will be, or as it was where it goes.
    #[must_use]
    pub fn record(&self) -> &R {
        match self {
            Self::Create(record) | Self::Update { after: record, .. } => record,
            Self::Delete(before) | Self::Require(before) => &before.record,
        }
    }

    /// The record as it will be.
    #[must_use]
    pub fn after(&self) -> Option<&R> {
        match self {
            Self::Create(after) | Self::Update { after, .. } => Some(after),
            Self::Require(before) => Some(&before.record),
            Self::Delete(_) => None,
        }
    }
}

/// Edits that are committed together. No record occurs twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Of users.
    pub users: Vec<Edit<UserRecord>>,
    /// Of tokens.
    pub tokens: Vec<Edit<TokenRecord>>,
    /// Lines to add to the histories of tokens that exist afterwards.
    pub history: Vec<(TokenId, HistoryEntry)>,
    /// Entries of the audit trail about all this, as they are written.
    pub audit: Vec<Vec<u8>>,
    /// What must hold still: for decisions that rest on what does *not* exist.
    pub pins: Vec<Pin>,
}

/// What no store can do with a batch. Only a bug makes such a one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two edits of a user.
    #[error("the batch contradicts itself: user {0} occurs twice")]
    UserTwice(UserId),
    /// An edit makes another user of it.
    #[error("the batch contradicts itself: the id of user {0} changes")]
    UserId(UserId),
    /// Two edits of a token.
    #[error("the batch contradicts itself: token {0} occurs twice")]
    TokenTwice(TokenId),
    /// An edit makes another token of it.
    #[error("the batch contradicts itself: the id or digest of token {0} changes")]
    TokenId(TokenId),
    /// A history goes with its token.
    #[error("the batch contradicts itself: token {0} is deleted, and its history continued")]
    HistoryOfDeleted(TokenId),
}

/// Something that a decision rests on, and that no record shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// There is no user.
    NoUsers,
    /// No token came to the user, by being made or reassigned, since [`Records::token_set`](super::Records::token_set) said
    /// this of the user.
    TokensOf {
        /// Whose tokens were read.
        user: UserId,
        /// What the store said.
        since: Option<CommitId>,
    },
}

impl Batch {
    /// The users to whom a token comes with this batch.
    #[must_use]
    pub fn receivers(&self) -> BTreeSet<UserId> {
        let comes = |edit: &&Edit<TokenRecord>| match edit {
            Edit::Create(_) => true,
            Edit::Update { before, after } => before.record.owner != after.owner,
            Edit::Delete(_) | Edit::Require(_) => false,
        };
        self.tokens.iter().filter(comes).map(|edit| edit.record().owner).collect()
    }

    /// Whether a record goes.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.users.iter().any(|edit| matches!(edit, Edit::Delete(_)))
            || self.tokens.iter().any(|edit| matches!(edit, Edit::Delete(_)))
    }

    /// Whether a store can do this with its records.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), Contradiction> {
        let (mut users, mut tokens, mut gone) = (HashSet::new(), HashSet::new(), HashSet::new());
        for edit in &self.users {
            let id = edit.record().id;
            if !users.insert(id) {
                return Err(Contradiction::UserTwice(id));
            }
            if edit.before().is_some_and(|before| before.record.id != id) {
                return Err(Contradiction::UserId(id));
            }
        }
        for edit in &self.tokens {
            let TokenRecord { id, digest, .. } = edit.record();
            if !tokens.insert(*id) {
                return Err(Contradiction::TokenTwice(*id));
            }
            if edit.before().is_some_and(|before| (&before.record.id, &before.record.digest) != (id, digest)) {
                return Err(Contradiction::TokenId(*id));
            }
            if edit.after().is_none() {
                gone.insert(*id);
            }
        }
        let orphan = self.history.iter().find(|(id, _)| gone.contains(id));
        orphan.map_or(Ok(()), |(id, _)| Err(Contradiction::HistoryOfDeleted(*id)))
    }

    /// Whether nobody can do more after it than before: it revokes, deletes, disables and narrows, and nothing else.
    #[must_use]
    pub fn only_takes_away(&self) -> bool {
        let narrows_user = |before: &UserRecord, after: &UserRecord| {
            let stays_off = after.status == before.status || after.status == UserStatus::Disabled;
            after.name == before.name && after.role <= before.role && stays_off
        };
        let narrows_token = |before: &TokenRecord, after: &TokenRecord| match (before.grant(), after.grant()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(before), Some(after)) => after.owner == before.owner && lasts_in(&after, &before),
        };
        self.users.iter().all(|edit| takes_away(edit, narrows_user))
            && self.tokens.iter().all(|edit| takes_away(edit, narrows_token))
    }

    /// Whether somebody can do less after it than before, or something else.
    #[must_use]
    pub fn takes_away(&self) -> bool {
        let changes_user = |before: &UserRecord, after: &UserRecord| {
            let ends = before.status == UserStatus::Active && after.status != UserStatus::Active;
            ends || after.role < before.role || after.name != before.name
        };
        let changes_token = |before: &TokenRecord, after: &TokenRecord| match (before.grant(), after.grant()) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => after.owner != before.owner || !lasts_in(&before, &after),
        };
        self.users.iter().any(|edit| ends_or(edit, changes_user))
            || self.tokens.iter().any(|edit| ends_or(edit, changes_token))
    }

    /// What replicas must know of it, in an order in which each step alone is right: tokens first, then users. So no
    /// token is seen as it was with what its owner has become: one that is revoked since its owner becomes a Viewer is
    /// never refused for that role, one that is narrowed before its owner rises never gets what it loses.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.users.len() + self.tokens.len());
        for edit in &self.tokens {
            let before = edit.before().and_then(|token| token.record.grant());
            let digest = edit.record().digest;
            changes.extend(match edit.after().and_then(TokenRecord::grant) {
                after if after == before => None,
                Some(grant) => Some(Change::PutGrant(digest, grant)),
                None => Some(Change::RemoveGrant(digest)),
            });
        }
        for edit in &self.users {
            let before = edit.before().map(|user| user.record.owner());
            match (edit.after().map(UserRecord::owner), edit) {
                (Some(owner), _) if before.as_ref() == Some(&owner) => {}
                (Some(owner), Edit::Create(user) | Edit::Update { after: user, .. }) => {
                    changes.push(Change::PutOwner(user.id, owner));
                }
                (None, Edit::Delete(user)) => changes.push(Change::RemoveOwner(user.record.id)),
                _ => {}
            }
        }
        changes
    }

    /// By what the batch changes the checksum (XOR it in).
    #[must_use]
    pub fn checksum_delta(&self) -> u64 {
        let user = |user: &UserRecord| user.owner().fingerprint(user.id);
        let token = |token: &TokenRecord| token.grant().map_or(0, |grant| grant.fingerprint(&token.digest));
        let users = self.users.iter().fold(0, |delta, edit| {
            delta ^ edit.before().map_or(0, |before| user(&before.record)) ^ edit.after().map_or(0, user)
        });
        self.tokens.iter().fold(users, |delta, edit| {
            delta ^ edit.before().map_or(0, |before| token(&before.record)) ^ edit.after().map_or(0, token)
        })
    }
}

/// Whether another grant permits all that one does, for as long.
fn lasts_in(grant: &Grant, other: &Grant) -> bool {
    let ends = |grant: &Grant| grant.expires_at.unwrap_or(i64::MAX);
    grant.permissions.intersect(other.permissions) == grant.permissions && ends(grant) <= ends(other)
}

/// Whether a record goes, or changes so.
fn ends_or<R>(edit: &Edit<R>, changes: impl Fn(&R, &R) -> bool) -> bool {
    match edit {
        Edit::Create(_) | Edit::Require(_) => false,
        Edit::Update { before, after } => changes(&before.record, after),
        Edit::Delete(_) => true,
    }
}

fn takes_away<R>(edit: &Edit<R>, narrows: impl Fn(&R, &R) -> bool) -> bool {
    match edit {
        Edit::Create(_) => false,
        Edit::Update { before, after } => narrows(&before.record, after),
        Edit::Delete(_) | Edit::Require(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::token::{Digest, PermissionSet, Role, TokenState, UserId};

    fn user(role: Role, status: UserStatus) -> UserRecord {
        let (id, name) = (UserId::from_u64(1), "anna".to_owned());
        UserRecord { id, name, role, status, created_at: Timestamp::UNIX_EPOCH }
    }

    fn token(permissions: &[&str]) -> TokenRecord {
        TokenRecord {
            id: TokenId::from_u64(1),
            digest: Digest::of(b"token"),
            owner: UserId::from_u64(1),
            description: "sample".to_owned(),
            permissions: permissions.iter().map(|name| name.parse().expect("a permission")).collect(),
            state: TokenState::Active,
            hint: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            created_by: "cli:test".to_owned(),
            expires_at: None,
            predecessor: None,
            successor: None,
        }
    }

    fn users(before: UserRecord, after: UserRecord) -> Batch {
        Batch { users: vec![update(before, after)], ..Batch::default() }
    }

    fn tokens(before: TokenRecord, after: TokenRecord) -> Batch {
        Batch { tokens: vec![update(before, after)], ..Batch::default() }
    }

    fn update<R>(record: R, after: R) -> Edit<R> {
        Edit::Update { before: Versioned { record, version: CommitId(1) }, after }
    }

    #[test]
    fn what_gives_and_what_takes_are_told_apart() {
        use UserStatus::{Active, Disabled};
        let both = || token(&["configs:read", "heartbeat:write"]);
        let narrow = || token(&["configs:read"]);
        let revoked = TokenRecord { state: TokenState::Revoked { at: Timestamp::MAX, by: "x".to_owned() }, ..both() };
        let expiring = TokenRecord { expires_at: Some(Timestamp::MAX), ..both() };
        let version = CommitId(1);
        let deleted = vec![Edit::Delete(Versioned { record: both(), version })];
        for batch in [
            users(user(Role::Manager, Active), user(Role::Viewer, Active)),
            users(user(Role::Manager, Active), user(Role::Manager, Disabled)),
            tokens(both(), narrow()),
            tokens(both(), expiring.clone()),
            tokens(both(), revoked.clone()),
            Batch { tokens: deleted, ..Batch::default() },
            Batch::default(),
        ] {
            assert!(batch.only_takes_away(), "{batch:?}");
            assert_eq!(batch.takes_away(), batch != Batch::default(), "{batch:?}");
        }
        let elsewhere = TokenRecord { owner: UserId::from_u64(2), ..both() };
        let permitting = TokenRecord { permissions: PermissionSet::default(), ..both() };
        for batch in [
            users(user(Role::Viewer, Active), user(Role::Manager, Active)),
            users(user(Role::Manager, Disabled), user(Role::Manager, Active)),
            Batch { users: vec![Edit::Create(user(Role::Viewer, Disabled))], ..Batch::default() },
            tokens(narrow(), both()),
            tokens(permitting, narrow()),
            tokens(expiring.clone(), both()),
            tokens(revoked, both()),
            Batch { tokens: vec![Edit::Create(both())], ..Batch::default() },
        ] {
            assert!(!batch.only_takes_away() && !batch.takes_away(), "{batch:?}");
        }
        let renamed = UserRecord { name: "berta".to_owned(), ..user(Role::Manager, Active) };
        let other = token(&["users:read"]);
        for batch in [
            users(user(Role::Manager, Active), renamed),
            tokens(both(), elsewhere),
            tokens(narrow(), other),
            tokens(expiring, narrow()),
        ] {
            assert!(!batch.only_takes_away() && batch.takes_away(), "{batch:?}");
        }
    }
}
