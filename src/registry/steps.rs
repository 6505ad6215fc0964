//! Commands that touch more tokens than one commit should: they go in steps, and each step leaves a state in which
//! nobody has more than before, and from which the same command goes on.
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
//!   command left could not be told later, so here the tokens go first and the role changes with the last of them.

use super::actor::Standing;
use super::draft::Draft;
use super::users::{RoleChange, Transfer};
use super::{Outcome, Registry, RegistryError, Tries, now};
use crate::store::{StateFilter, StoreError, TokenFilter, Versioned};
use crate::token::{Role, TokenRecord, UserId, UserRecord, UserStatus};

/// Most tokens that one commit edits: a Redis is busy with them for some 5 to 10 ms, a sidecar for a fraction of one.
pub(super) const CHUNK: usize = 500;

/// Every token that was not revoked, whether it expired or not: at this second none had.
pub(super) const UNREVOKED: StateFilter = StateFilter::Active { now: i64::MIN };

/// What the steps of one command did so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// What is true of the user already, if it is more than of their tokens: `max is manager now`.
    pub(super) effect: Option<String>,
    /// Tokens that lost permissions.
    pub(super) narrowed: usize,
    /// Tokens that were revoked.
    pub(super) revoked: usize,
    /// Tokens that were deleted.
    pub(super) deleted: usize,
}

impl Progress {
    /// The error of a command that did this much before it failed.
    pub(super) fn interrupted(&self, remedy: &str, error: RegistryError) -> RegistryError {
        let counts = [(self.narrowed, "narrowed"), (self.revoked, "revoked"), (self.deleted, "deleted")];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let tokens: Vec<_> = counts.map(|(count, did)| format!("{count} tokens were {did}")).collect();
        let did: Vec<_> = self.effect.iter().chain(&tokens).map(String::as_str).collect();
        if did.is_empty() {
            return error;
        }
        RegistryError::interrupted(format!("broke off half-way: {}; {remedy}", did.join(", ")), error)
    }
}

impl Registry {
    /// All tokens of a user in this state, if one commit can take them.
    pub(super) async fn few_tokens_of(
        &self,
        owner: UserId,
        state: Option<StateFilter>,
    ) -> Result<Option<Vec<Versioned<TokenRecord>>>, StoreError> {
        let filter = TokenFilter { owner: Some(owner), state };
        let tokens = self.store.tokens(filter, None, CHUNK + 1).await?;
        Ok((tokens.len() <= CHUNK).then_some(tokens))
    }

    /// Edits a user's tokens page by page, while neither the user's nor the actor's record changes; `false` when one
    /// did. `edit` says whether it changed the token; `done` counts those.
    ///
    /// Tokens that come to the user meanwhile may be left out: they are made by what the user's record says now.
    pub(super) async fn each_token_of(
        &self,
        standing: &Standing,
        user: &Versioned<UserRecord>,
        state: Option<StateFilter>,
        done: &mut usize,
        edit: impl Fn(&mut Draft<'_>, Versioned<TokenRecord>) -> bool + Send + Sync,
    ) -> Result<bool, RegistryError> {
        const OPERATION: &str = "changing the user's tokens";
        let filter = TokenFilter { owner: Some(user.record.id), state };
        let (mut before, mut tries) = (None, Tries::new(OPERATION));
        loop {
            tries.begin().await?;
            let page = self.store.tokens(filter, before, CHUNK).await?;
            let Some(last) = page.last().map(|token| token.record.id) else { return Ok(true) };
            let is_last = page.len() < CHUNK;
            let mut draft = Draft::new(standing, now());
            draft.require_user(user);
            let changed: usize = page.into_iter().map(|token| usize::from(edit(&mut draft, token))).sum();
            if self.commit(draft.into_batch()).await? {
                *done += changed;
                (before, tries) = (Some(last), Tries::new(OPERATION));
                if is_last {
                    return Ok(true);
                }
            } else if !self.is_unchanged(user).await? {
                return Ok(false);
            } else if let Some(actor) = standing.user()
                && !self.is_unchanged(actor).await?
            {
                return Ok(false);
            }
        }
    }

    async fn is_unchanged(&self, user: &Versioned<UserRecord>) -> Result<bool, StoreError> {
        let found = self.store.user(user.record.id).await?;
        Ok(found.is_some_and(|found| found.version == user.version))
    }

    /// Changes the role of a user with many tokens. `None`: records changed meanwhile, or only few tokens are left, so
    /// decide again.
    pub(super) async fn set_role_in_steps(
        &self,
        standing: &Standing,
        user: Versioned<UserRecord>,
        role: Role,
        progress: &mut Progress,
    ) -> Result<Option<RoleChange>, RegistryError> {
        let before = user.record.role;
        let after = UserRecord { role, ..user.record.clone() };
        if role != before && !role.manages_tokens() {
            let reason = format!("role of {} changed to {role}", after.name);
            let revoke = |draft: &mut Draft<'_>, token| {
                draft.revoke(token, Some(reason.clone()));
                true
            };
            self.each_token_of(standing, &user, Some(UNREVOKED), &mut progress.revoked, revoke).await?;
            return Ok(None);
        }
        if role > before {
            let narrowed = &mut progress.narrowed;
            let narrow = |draft: &mut Draft<'_>, token| draft.narrow(token, before);
            if !self.each_token_of(standing, &user, Some(UNREVOKED), narrowed, narrow).await? {
                return Ok(None);
            }
            let changed = self.change_user(standing, user, after).await?;
            return Ok(changed.map(|user| RoleChange::new(before, user.record, progress)));
        }
        let changed = if role < before { self.change_user(standing, user, after).await? } else { Some(user) };
        let Some(user) = changed else { return Ok(None) };
        if role < before {
            progress.effect = Some(format!("{} is {role} now", user.record.name));
        }
        let record = user.record.clone();
        self.finish_narrowing(standing.name(), user, &mut progress.narrowed).await?;
        Ok(Some(RoleChange::new(before, record, progress)))
    }

    /// Transfers the ownership where the two have many tokens. `None`: records changed meanwhile, so decide again.
    pub(super) async fn transfer_in_steps(
        &self,
        standing: &Standing,
        old: Versioned<UserRecord>,
        to: Versioned<UserRecord>,
        progress: &mut Progress,
    ) -> Result<Option<Transfer>, RegistryError> {
        let role = to.record.role;
        let narrow = |draft: &mut Draft<'_>, token| draft.narrow(token, role);
        if !self.each_token_of(standing, &to, Some(UNREVOKED), &mut progress.narrowed, narrow).await? {
            return Ok(None);
        }
        let of_heir = progress.narrowed;
        let mut draft = Draft::new(standing, now());
        let after = UserRecord { role: Role::Administrator, ..old.record.clone() };
        let new = UserRecord { role: Role::Owner, ..to.record.clone() };
        draft.update_user(old, after.clone());
        draft.update_user(to, new.clone());
        let Outcome::Committed(committed) = self.try_commit(draft.into_batch()).await? else { return Ok(None) };
        progress.effect = Some(format!("{} is the owner now, and {} an administrator", new.name, after.name));
        let old = Versioned { record: after.clone(), version: committed.id };
        self.finish_narrowing(standing.name(), old, &mut progress.narrowed).await?;
        Ok(Some(Transfer { old: after, new, narrowed: progress.narrowed - of_heir }))
    }

    /// Disables a user who is to be deleted, and deletes all of their tokens. Returns also when records changed
    /// meanwhile: decide again.
    pub(super) async fn delete_tokens_of(
        &self,
        standing: &Standing,
        user: Versioned<UserRecord>,
        progress: &mut Progress,
    ) -> Result<(), RegistryError> {
        let disabled = UserRecord { status: UserStatus::Disabled, ..user.record.clone() };
        // A disabled user gets no more tokens, so what is read from here on is all.
        let user = match user.record.status {
            UserStatus::Active => self.change_user(standing, user, disabled).await?,
            UserStatus::Disabled => Some(user),
        };
        let Some(user) = user else { return Ok(()) };
        progress.effect = Some(format!("{} is disabled, so that none of their tokens authenticates", user.record.name));
        let delete = |draft: &mut Draft<'_>, token| {
            draft.delete_token(token);
            true
        };
        self.each_token_of(standing, &user, None, &mut progress.deleted, delete).await?;
        Ok(())
    }

    /// Changes only the user. `None`: records changed meanwhile.
    async fn change_user(
        &self,
        standing: &Standing,
        before: Versioned<UserRecord>,
        after: UserRecord,
    ) -> Result<Option<Versioned<UserRecord>>, RegistryError> {
        let mut draft = Draft::new(standing, now());
        draft.update_user(before, after.clone());
        Ok(match self.try_commit(draft.into_batch()).await? {
            Outcome::Committed(committed) => Some(Versioned { record: after, version: committed.id }),
            Outcome::Idle | Outcome::Conflict => None,
        })
    }

    /// Takes from a user's tokens what the user's role does not have: a consequence of what was committed, so that
    /// nobody's role is asked any more, not even the actor's, who may have given it away just now.
    async fn finish_narrowing(
        &self,
        actor: &str,
        mut user: Versioned<UserRecord>,
        narrowed: &mut usize,
    ) -> Result<(), RegistryError> {
        let (standing, role) = (Standing::operator(actor), user.record.role);
        let narrow = |draft: &mut Draft<'_>, token| draft.narrow(token, role);
        while !self.each_token_of(&standing, &user, Some(UNREVOKED), narrowed, narrow).await? {
            match self.store.user(user.record.id).await? {
                // Enabled or disabled meanwhile.
                Some(found) if found.record.role == role => user = found,
                // Whoever changed the role, or deleted the user, saw to the tokens too.
                _ => break,
            }
        }
        Ok(())
    }
}
