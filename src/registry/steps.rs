//! What is done to a user and to all of the user's tokens: it goes in steps, and each step leaves a state in which nobody
//! has more than before, and from which the same command goes on. A step is one batch; a user with few tokens takes one.
//!
//! A commit stalls whoever waits for the store, and every replica while it applies the changes, so none edits more than
//! [`CHUNK`] tokens. What makes the steps safe is that a user's role and status count for all of the user's tokens at
//! once: replicas intersect each grant with its owner's role.
//!
//! - A weaker role, or the deletion of a user: first the user changes, which takes effect at once; then the tokens
//!   follow. Broken off in between, tokens may be left whose records permit more than they can do.
//! - So that these never come to it again, a stronger role first narrows all tokens to what the *present* one permits.
//!   There is no mark that this is needed, and so none that could be lost: it is always looked at.
//! - Becoming a Viewer revokes, and a Viewer may own usable tokens that were given to them. Which ones an interrupted
//!   command left could not be determined later, so here the tokens go first and the role changes with the last of them.

use std::fmt;
use std::ops::AddAssign;

use super::actor::Authority;
use super::draft::Draft;
use super::users::decide_role;
use super::{Attempts, Outcome, Registry, RegistryError, now};
use crate::store::{Pin, StateFilter, StoreError, TokenFilter, Versioned};
use crate::token::{Role, TokenRecord, UserId, UserRecord};

/// Most tokens that one commit edits: a Redis is busy with them for some 5 to 10 ms, a sidecar for a fraction of one.
pub(super) const CHUNK: usize = 500;

/// Every token that was not revoked, whether it expired or not: at this second none had.
pub(super) const UNREVOKED: StateFilter = StateFilter::Active { now: i64::MIN };

/// What was done to tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Tokens that lost permissions.
    pub(super) narrowed: usize,
    pub(super) revoked: usize,
    pub(super) deleted: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.narrowed += more.narrowed;
        self.revoked += more.revoked;
        self.deleted += more.deleted;
    }
}

/// What the steps of one command on a user did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is true of the user already, if it is more than of their tokens.
    pub(super) change: Option<UserChange>,
    pub(super) tokens: Counts,
}

/// What a command on a user does in its first step, where it takes several.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UserChange {
    #[error("{name} is {role} now")]
    Role { name: String, role: Role },
    #[error("{name} is disabled, so that none of their tokens authenticates")]
    Disabled { name: String },
    #[error("{new} is the owner now, and {old} an administrator")]
    Owner { new: String, old: String },
}

impl Progress {
    /// The error of a command that did this much before it failed.
    pub(super) fn interrupted(self, error: RegistryError) -> RegistryError {
        if self == Self::default() { error } else { RegistryError::interrupted(self.into(), error) }
    }
}

impl std::error::Error for Progress {}

impl fmt::Display for Progress {
    /// `interrupted: max is manager now, 500 tokens were narrowed; run the command again to finish`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { narrowed, revoked, deleted } = self.tokens;
        let counts = [(narrowed, "narrowed"), (revoked, "revoked"), (deleted, "deleted")];
        let tokens = counts.iter().filter(|(count, _)| *count > 0);
        let tokens = tokens.map(|(count, done)| format!("{count} tokens were {done}"));
        let done: Vec<_> = self.change.iter().map(ToString::to_string).chain(tokens).collect();
        let remedy = match self.change {
            Some(UserChange::Owner { .. }) => {
                "`tollgate user set-role` with the role administrator for the old owner finishes it"
            }
            _ => "run the command again to finish",
        };
        write!(f, "interrupted: {}; {remedy}", done.join(", "))
    }
}

impl Registry {
    /// All tokens of a user in this state, if one commit can take them.
    pub(super) async fn few_tokens_of(
        &self,
        owner: UserId,
        state: Option<StateFilter>,
    ) -> Result<Option<Vec<Versioned<TokenRecord>>>, StoreError> {
        let filter = TokenFilter { owner: Some(owner), state, ..TokenFilter::default() };
        let tokens = self.store.tokens(filter, None, CHUNK + 1).await?;
        Ok((tokens.len() <= CHUNK).then_some(tokens))
    }

    /// Decides over all of a user's tokens in this state, step by step, and commits each step while neither the user's nor the
    /// actor's record changes. With the last one, `decide` is given what says that no token came to the user since the first
    /// was read, to rest on; then it decides over the user too. Returns what became of the last step; a conflict: decide
    /// again.
    ///
    /// Tokens that come to the user between two steps may be left out: they are made by what the user's record says.
    pub(super) async fn in_steps(
        &self,
        authority: &Authority,
        user: &Versioned<UserRecord>,
        state: Option<StateFilter>,
        progress: &mut Progress,
        decide: impl Fn(&mut Draft<'_>, Vec<Versioned<TokenRecord>>, Option<Pin>) -> Counts + Send + Sync,
    ) -> Result<Outcome, RegistryError> {
        let filter = TokenFilter { owner: Some(user.record.id), state, ..TokenFilter::default() };
        let pin = self.pin_tokens_of(user.record.id).await?;
        let (mut before, mut attempts) = (None, Attempts::default());
        loop {
            attempts.begin().await?;
            // One more than a step takes, to know whether this is the last.
            let mut page = self.store.tokens(filter, before, CHUNK + 1).await?;
            let is_last = page.len() <= CHUNK;
            page.truncate(CHUNK);
            let next = page.last().map(|token| token.record.id);
            let mut draft = Draft::new(authority, now());
            let counts = decide(&mut draft, page, is_last.then_some(pin));
            draft.require_user(user);
            match self.try_commit(draft.into_batch()).await? {
                // A token that changed is read again; a user that did may have another role, so the whole command is decided anew.
                Outcome::Conflict if is_last || !self.are_unchanged(authority, user).await? => {
                    return Ok(Outcome::Conflict);
                }
                Outcome::Conflict => {}
                outcome => {
                    progress.tokens += counts;
                    if is_last {
                        return Ok(outcome);
                    }
                    (before, attempts) = (next, Attempts::default());
                }
            }
        }
    }

    /// What a decision about all of a user's tokens rests on. To be read before the tokens.
    pub(super) async fn pin_tokens_of(&self, user: UserId) -> Result<Pin, StoreError> {
        Ok(Pin::TokensOf { user, since: self.store.token_set(user).await? })
    }

    /// Whether the records of this user and of the actor are those that were read.
    async fn are_unchanged(&self, authority: &Authority, user: &Versioned<UserRecord>) -> Result<bool, StoreError> {
        if let Some(acting) = authority.token() {
            let found = self.store.tokens_by_id(&[acting.record.id]).await?.pop().flatten();
            if found.is_none_or(|found| found.version != acting.version) {
                return Ok(false);
            }
        }
        Ok(self.is_unchanged(user).await?
            && match authority.user() {
                Some(actor) => self.is_unchanged(actor).await?,
                None => true,
            })
    }

    async fn is_unchanged(&self, user: &Versioned<UserRecord>) -> Result<bool, StoreError> {
        let found = self.store.user(user.record.id).await?;
        Ok(found.is_some_and(|found| found.version == user.version))
    }

    /// Changes only the user. `None`: records changed meanwhile.
    pub(super) async fn change_user(
        &self,
        authority: &Authority,
        before: Versioned<UserRecord>,
        after: UserRecord,
    ) -> Result<Option<Versioned<UserRecord>>, RegistryError> {
        let mut draft = Draft::new(authority, now());
        draft.update_user(before, after.clone());
        Ok(match self.try_commit(draft.into_batch()).await? {
            Outcome::Committed(committed) => Some(Versioned { record: after, version: committed.id }),
            Outcome::Idle | Outcome::Conflict => None,
        })
    }

    /// Takes from a user's tokens what the user's role does not have: a consequence of what was committed, so that
    /// nobody's role is asked any more, not even the actor's, who may have given it away just now.
    pub(super) async fn finish_narrowing(
        &self,
        authority: &Authority,
        mut user: Versioned<UserRecord>,
        progress: &mut Progress,
    ) -> Result<(), RegistryError> {
        let (authority, role, mut attempts) = (authority.unbound(), user.record.role, Attempts::default());
        loop {
            attempts.begin().await?;
            let narrow = |draft: &mut Draft<'_>, tokens, _| decide_role(draft, &user, tokens, role, None);
            if self.in_steps(&authority, &user, Some(UNREVOKED), progress, narrow).await? != Outcome::Conflict {
                return Ok(());
            }
            match self.store.user(user.record.id).await? {
                // Enabled or disabled meanwhile.
                Some(found) if found.record.role == role => user = found,
                // Whoever changed the role, or deleted the user, saw to the tokens too.
                _ => return Ok(()),
            }
        }
    }
}
