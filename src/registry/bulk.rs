//! What is done to a selection of tokens: revoke, delete, reassign.
//!
//! Everything is checked before anything is done. Up to [`CHUNK`] tokens are one batch: all of it or nothing. More are
//! committed chunk by chunk, in the order of the ids, each chunk resting on the same records as a single batch would; a
//! failure in between says how far it got. Whoever only asks what would be done gets the same plan, and commits nothing of it.

use std::collections::HashSet;

use jiff::Timestamp;

use super::actor::{Authority, Right};
use super::audit::{of_tokens, of_user};
use super::draft::Draft;
use super::steps::CHUNK;
use super::{Actor, Attempts, Owners, PAGE, PartlyDone, Registry, RegistryError, Seen, now};
use crate::audit::{Action, Subject};
use crate::store::{StateFilter, TokenFilter, Versioned};
use crate::token::{Role, TokenId, TokenRecord, UserId, UserRecord, UserStatus};

/// What is done to each token of a selection.
#[derive(Debug, Clone, Copy)]
pub enum BulkAction<'a> {
    /// [`Registry::revoke`].
    Revoke,
    /// [`Registry::delete`].
    Delete,
    /// [`Registry::reassign`].
    Reassign {
        /// The new owner.
        to: &'a str,
    },
}

/// A selection that passed all rules, and what its commits rest on.
struct Plan {
    authority: Authority,
    /// The new owner of reassigned tokens.
    recipient: Option<Versioned<UserRecord>>,
    owners: Owners,
    /// The token that the Owner keeps, where usable ones of the Owner's are taken.
    remaining: Option<Versioned<TokenRecord>>,
    /// In the order of the ids.
    tokens: Vec<Versioned<TokenRecord>>,
}

impl Registry {
    /// Revokes tokens for good; the records stay. Those that are revoked already stay as they are. Returns all of them, in
    /// the order of `ids`.
    ///
    /// # Errors
    /// When an id is unknown or repeated, when the Owner would be left without a usable token (unless `force`), when the token
    /// that acts is one of several, and when the actor may not. [`RegistryError::Interrupted`] says how many of more than a chunk are done.
    pub async fn revoke<'a>(
        &self,
        actor: &Actor,
        ids: impl Into<Seen<&'a [TokenId]>> + Send,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let seen = ids.into();
        let revoked = self.in_bulk(actor, BulkAction::Revoke, seen, force).await;
        self.observed(actor, Action::TokenRevoke, of_tokens(seen.what), revoked).await
    }

    /// Deletes tokens, active or revoked, with their histories. Returns them as they were.
    ///
    /// # Errors
    /// As for [`Registry::revoke`].
    pub async fn delete<'a>(
        &self,
        actor: &Actor,
        ids: impl Into<Seen<&'a [TokenId]>> + Send,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let seen = ids.into();
        let deleted = self.in_bulk(actor, BulkAction::Delete, seen, force).await;
        self.observed(actor, Action::TokenDelete, of_tokens(seen.what), deleted).await
    }

    /// Gives active tokens to another user. They lose what that user's role does not have, and stay valid otherwise.
    /// Those that the user has already stay as they are. Returns all of them, in the order of `ids`.
    ///
    /// # Errors
    /// When an id is unknown, repeated or revoked, when `to` is unknown or disabled, when the Owner would be left
    /// without a usable token (unless `force`), and when the actor may not; and as for [`Registry::revoke`].
    pub async fn reassign<'a>(
        &self,
        actor: &Actor,
        ids: impl Into<Seen<&'a [TokenId]>> + Send,
        to: &str,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let seen = ids.into();
        let reassigned = self.in_bulk(actor, BulkAction::Reassign { to }, seen, force).await;
        let subject = Subject { user_name: of_user(to).user_name, ..of_tokens(seen.what) };
        self.observed(actor, Action::TokenReassign, subject, reassigned).await
    }

    /// The tokens that this would be done to, as they are, in the order of `ids`. Nothing is changed.
    ///
    /// # Errors
    /// Those of the command itself, less what only a commit can meet.
    pub async fn preview<'a>(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        ids: impl Into<Seen<&'a [TokenId]>> + Send,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let plan = self.plan(actor, action, ids.into(), force).await?;
        Ok(plan.tokens.into_iter().map(|token| token.record).collect())
    }

    async fn in_bulk(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        seen: Seen<&[TokenId]>,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let ids = seen.what;
        let mut done: Vec<TokenRecord> = Vec::with_capacity(ids.len());
        let mut attempts = Attempts::default();
        loop {
            let before = done.len();
            // What is left is a selection like any other: whatever changed meanwhile, it is decided anew. Those that were left out
            // are none of those that are done.
            let last = done.last().and_then(|last| ids.iter().position(|id| *id == last.id));
            let rest = Seen { what: &ids[last.map_or(0, |last| last + 1)..], ..seen };
            let attempt = match attempts.begin().await {
                Ok(()) => self.try_in_bulk(actor, action, rest, force, &mut done).await,
                Err(error) => Err(error),
            };
            match attempt {
                Ok(true) => return Ok(done),
                Ok(false) if done.len() > before => attempts = Attempts::default(),
                Ok(false) => {}
                Err(error) if done.is_empty() => return Err(error),
                Err(error) => return Err(RegistryError::interrupted(action.partly_done(done.len(), ids.len()), error)),
            }
        }
    }

    /// Checks a selection.
    async fn plan(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        seen: Seen<&[TokenId]>,
        force: bool,
    ) -> Result<Plan, RegistryError> {
        let authority = self.authority(actor).await?;
        let recipient = match action {
            BulkAction::Revoke | BulkAction::Delete => {
                authority.check(Right::ManageTokens)?;
                None
            }
            BulkAction::Reassign { to } => Some(self.find_recipient(&authority, to).await?),
        };
        let (tokens, missing) = self.look_up_tokens(&authority, seen.what).await?;
        if !missing.is_empty() && !seen.if_exists {
            return Err(self.not_found(RegistryError::NoSuchTokens(missing)).await);
        }
        let tokens = tokens.into_iter().map(|token| seen.check(token)).collect::<Result<Vec<_>, _>>()?;
        check_acting_token(&authority, &tokens)?;
        if let Some(recipient) = &recipient {
            check_reassignable(&tokens, &recipient.record)?;
        }
        let owners = self.users_by_id(tokens.iter().map(|token| token.record.owner)).await?;
        // The Owner's own tokens come to no harm when they go to the Owner.
        let goes_to_owner = recipient.as_ref().is_some_and(|recipient| recipient.record.role == Role::Owner);
        let remaining = match force || goes_to_owner {
            true => None,
            false => self.find_remaining_owner_token(&owners, &tokens, now()).await?,
        };
        Ok(Plan { authority, recipient, owners, remaining, tokens })
    }

    /// Checks a selection, and commits it chunk by chunk; `false` when records changed meanwhile. What was committed is
    /// added to `done`.
    async fn try_in_bulk(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        seen: Seen<&[TokenId]>,
        force: bool,
        done: &mut Vec<TokenRecord>,
    ) -> Result<bool, RegistryError> {
        let Plan { authority, recipient, owners, remaining, tokens } = self.plan(actor, action, seen, force).await?;
        let mut tokens = tokens.into_iter().peekable();
        while tokens.peek().is_some() {
            let mut draft = Draft::new(&authority, now());
            recipient.iter().for_each(|recipient| draft.require_user(recipient));
            let chunk = tokens.by_ref().take(CHUNK);
            // Shown as done only once they are committed.
            let records: Vec<_> =
                chunk.map(|token| action.apply(&mut draft, token, recipient.as_ref(), &owners)).collect();
            remaining.iter().for_each(|remaining| draft.require_token(remaining));
            if !self.commit(draft.into_batch()).await? {
                return Ok(false);
            }
            done.extend(records);
        }
        Ok(true)
    }

    /// The new owner of reassigned tokens.
    async fn find_recipient(&self, authority: &Authority, name: &str) -> Result<Versioned<UserRecord>, RegistryError> {
        authority.check(Right::ReassignTokens)?;
        let recipient = self.find_user(authority, name).await?;
        authority.check_gives_tokens_to(&recipient.record)?;
        Ok(recipient)
    }

    /// A usable token of the Owner's that is not among those selected; `None` where none of these is a usable one of the
    /// Owner's. Each batch then rests on the one that was found, so that two commands cannot each rely on what the other
    /// one takes.
    async fn find_remaining_owner_token(
        &self,
        owners: &Owners,
        tokens: &[Versioned<TokenRecord>],
        now: Timestamp,
    ) -> Result<Option<Versioned<TokenRecord>>, RegistryError> {
        let mut users = owners.values().map(|user| &user.record);
        let Some(owner) = users.find(|user| user.role == Role::Owner) else { return Ok(None) };
        let lost = usable_of(owner.id, tokens, now);
        if lost.is_empty() {
            return Ok(None);
        }
        let selected: HashSet<TokenId> = tokens.iter().map(|token| token.record.id).collect();
        let state = Some(StateFilter::Active { now: now.as_second() });
        let filter = TokenFilter { owner: Some(owner.id), state, ..TokenFilter::default() };
        let mut before = None;
        loop {
            let page = self.store.tokens(filter, before, PAGE).await?;
            before = page.last().map(|token| token.record.id);
            if before.is_none() {
                return Err(RegistryError::LastOwnerToken { owner: owner.name.clone(), tokens: lost });
            }
            if let Some(remaining) = page.into_iter().find(|token| !selected.contains(&token.record.id)) {
                return Ok(Some(remaining));
            }
        }
    }
}

impl BulkAction<'_> {
    fn partly_done(self, done: usize, of: usize) -> PartlyDone {
        match self {
            Self::Revoke => PartlyDone::Revoked(done, of),
            Self::Delete => PartlyDone::Deleted(done, of),
            Self::Reassign { .. } => PartlyDone::Reassigned(done, of),
        }
    }

    /// Adds what is done to one token to the draft, and returns the record to show for it.
    fn apply(
        self,
        draft: &mut Draft<'_>,
        token: Versioned<TokenRecord>,
        recipient: Option<&Versioned<UserRecord>>,
        owners: &Owners,
    ) -> TokenRecord {
        match (self, recipient) {
            (Self::Revoke, _) if token.record.is_active() => draft.revoke(token, None),
            (Self::Delete, _) => {
                let record = token.record.clone();
                draft.delete_token(token);
                record
            }
            (Self::Reassign { .. }, Some(recipient)) if token.record.owner != recipient.record.id => {
                // A user who is gone took the token along, and the commit will find that out.
                let owner = token.record.owner;
                let from = owners.get(&owner).map_or_else(|| owner.to_string(), |user| user.record.name.clone());
                draft.reassign(token, from, recipient)
            }
            (Self::Revoke | Self::Reassign { .. }, _) => token.record,
        }
    }
}

/// Nobody shuts themselves out by choosing many: the token that acts has to be named alone.
fn check_acting_token(authority: &Authority, tokens: &[Versioned<TokenRecord>]) -> Result<(), RegistryError> {
    let is_among = |acting: &TokenId| tokens.len() > 1 && tokens.iter().any(|token| token.record.id == *acting);
    match authority.token().map(|token| token.record.id).filter(is_among) {
        Some(acting) => Err(RegistryError::ActingTokenAmong(acting)),
        None => Ok(()),
    }
}

fn usable_of(owner: UserId, tokens: &[Versioned<TokenRecord>], now: Timestamp) -> Vec<TokenId> {
    let records = tokens.iter().map(|token| &token.record);
    let usable = records.filter(|token| token.owner == owner && token.is_active() && !token.is_expired(now));
    usable.map(|token| token.id).collect()
}

fn check_reassignable(tokens: &[Versioned<TokenRecord>], to: &UserRecord) -> Result<(), RegistryError> {
    if to.status == UserStatus::Disabled {
        return Err(RegistryError::UserDisabled(to.name.clone()));
    }
    let revoked = tokens.iter().map(|token| &token.record).filter(|token| !token.is_active());
    let revoked: Vec<_> = revoked.map(|token| token.id).collect();
    if revoked.is_empty() { Ok(()) } else { Err(RegistryError::NotActive(revoked)) }
}

#[cfg(test)]
mod tests;
