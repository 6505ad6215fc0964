//! What is done to a selection of tokens: revoke, delete, reassign.
//!
//! Everything is checked before anything is done. Up to [`CHUNK`] tokens are one batch: all of it or nothing. More are
//! committed chunk by chunk, in the order of the ids, each chunk resting on the same records as a single batch would; a
//! failure in between says how far it got.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::actor::Authority;
use super::draft::Draft;
use super::steps::CHUNK;
use super::{Actor, Attempts, Outcome, PAGE, Registry, RegistryError, now};
use crate::store::{Position, StateFilter, StoreError, TokenFilter, Versioned};
use crate::token::{Role, TokenId, TokenRecord, UserId, UserRecord, UserStatus};

/// What revoking or deleting did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The tokens, in the order of the ids: as they are now, or as they were before they were deleted.
    pub tokens: Vec<TokenRecord>,
    /// Where the store stood then: whoever has come this far in the same history refuses all of them. `None` where there
    /// was nothing to do.
    pub position: Option<Position>,
}

/// What is done to each token of a selection.
#[derive(Debug, Clone, Copy)]
enum BulkAction<'a> {
    Revoke,
    Delete,
    Reassign { to: &'a str },
}

impl Registry {
    /// Revokes tokens for good; the records stay. Those that are revoked already stay as they are.
    ///
    /// # Errors
    /// When an id is unknown or repeated, when the Owner would be left without a usable token (unless `force`), and when
    /// the actor may not. [`RegistryError::Interrupted`] says how many of more than a chunk are done.
    pub async fn revoke(&self, actor: &Actor, ids: &[TokenId], force: bool) -> Result<Removed, RegistryError> {
        self.in_bulk(actor, BulkAction::Revoke, ids, force).await
    }

    /// Deletes tokens, active or revoked, with their histories.
    ///
    /// # Errors
    /// As for [`Registry::revoke`].
    pub async fn delete(&self, actor: &Actor, ids: &[TokenId], force: bool) -> Result<Removed, RegistryError> {
        self.in_bulk(actor, BulkAction::Delete, ids, force).await
    }

    /// Gives active tokens to another user. They lose what that user's role does not have, and stay valid otherwise.
    /// Those that the user has already stay as they are. Returns all of them, in the order of `ids`.
    ///
    /// # Errors
    /// When an id is unknown, repeated or revoked, when `to` is unknown or disabled, when the Owner would be left
    /// without a usable token (unless `force`), and when the actor may not; and as for [`Registry::revoke`].
    pub async fn reassign(
        &self,
        actor: &Actor,
        ids: &[TokenId],
        to: &str,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        Ok(self.in_bulk(actor, BulkAction::Reassign { to }, ids, force).await?.tokens)
    }

    async fn in_bulk(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        ids: &[TokenId],
        force: bool,
    ) -> Result<Removed, RegistryError> {
        let mut removed = Removed { tokens: Vec::with_capacity(ids.len()), position: None };
        let mut attempts = Attempts::new(action.operation());
        loop {
            let before = removed.tokens.len();
            // What was done leaves a selection like any other: whatever changed meanwhile, it is decided anew.
            let rest = ids.get(before..).unwrap_or_default();
            let attempt = match attempts.begin().await {
                Ok(()) => self.try_in_bulk(actor, action, rest, force, &mut removed).await,
                Err(error) => Err(error),
            };
            match (attempt, removed.tokens.len()) {
                (Ok(true), _) => return Ok(removed),
                (Ok(false), done) if done > before => attempts = Attempts::new(action.operation()), // this one got further
                (Ok(false), _) => {}
                (Err(error), 0) => return Err(error),
                (Err(error), done) => return Err(action.interrupted(done, ids.len(), error)),
            }
        }
    }

    /// Checks a selection, and commits it chunk by chunk; `false` when records changed meanwhile. What was committed is
    /// added to `removed`.
    async fn try_in_bulk(
        &self,
        actor: &Actor,
        action: BulkAction<'_>,
        ids: &[TokenId],
        force: bool,
        removed: &mut Removed,
    ) -> Result<bool, RegistryError> {
        let authority = self.authority(actor).await?;
        let recipient = match action {
            BulkAction::Revoke | BulkAction::Delete => {
                authority.check_manages_tokens()?;
                None
            }
            BulkAction::Reassign { to } => Some(self.find_recipient(&authority, to).await?),
        };
        let tokens = self.find_tokens(&authority, ids).await?;
        if let Some(recipient) = &recipient {
            check_reassignable(&tokens, &recipient.record)?;
        }
        let selection = self.selection(&tokens).await?;
        let goes_to_owner = recipient.as_ref().is_some_and(|recipient| recipient.record.role == Role::Owner);
        let remaining = match force || goes_to_owner {
            true => None,
            false => self.find_remaining_owner_token(&selection, &tokens, now()).await?,
        };
        let mut tokens = tokens.into_iter().peekable();
        while tokens.peek().is_some() {
            let mut draft = Draft::new(&authority, now());
            remaining.iter().for_each(|remaining| draft.require_token(remaining.clone()));
            recipient.iter().for_each(|recipient| draft.require_user(recipient));
            let mut done = Vec::with_capacity(CHUNK);
            for token in tokens.by_ref().take(CHUNK) {
                done.push(action.apply(&mut draft, token, recipient.as_ref(), &selection));
            }
            match self.try_commit(draft.into_batch()).await? {
                Outcome::Committed(committed) => removed.position = Some(committed.position),
                // They were revoked already, by a commit that this position comes after.
                Outcome::Idle => removed.position = Some(self.store.position().await?),
                Outcome::Conflict => return Ok(false),
            }
            removed.tokens.append(&mut done);
        }
        Ok(true)
    }

    /// The new owner of reassigned tokens.
    async fn find_recipient(&self, authority: &Authority, name: &str) -> Result<Versioned<UserRecord>, RegistryError> {
        authority.check_reassigns()?;
        let recipient = self.find_user(authority, name).await?;
        authority.check_gives_tokens_to(&recipient.record)?;
        Ok(recipient)
    }

    async fn selection(&self, tokens: &[Versioned<TokenRecord>]) -> Result<Selection, StoreError> {
        Ok(Selection { owners: self.users_by_id(tokens.iter().map(|token| token.record.owner)).await? })
    }

    /// The Owner has a usable token other than those selected, or none of them is a usable one of the Owner's. Each
    /// batch then rests on the one that was found, so that two commands cannot each rely on what the other one takes.
    async fn find_remaining_owner_token(
        &self,
        selection: &Selection,
        tokens: &[Versioned<TokenRecord>],
        now: Timestamp,
    ) -> Result<Option<Versioned<TokenRecord>>, RegistryError> {
        let Some(owner) = selection.the_owner() else { return Ok(None) };
        let lost = usable_of(owner.id, tokens, now);
        if lost.is_empty() {
            return Ok(None);
        }
        let selected: HashSet<TokenId> = tokens.iter().map(|token| token.record.id).collect();
        let filter = TokenFilter { owner: Some(owner.id), state: Some(StateFilter::Active { now: now.as_second() }) };
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
    const fn operation(self) -> &'static str {
        match self {
            Self::Revoke => "revoking the tokens",
            Self::Delete => "deleting the tokens",
            Self::Reassign { .. } => "reassigning the tokens",
        }
    }

    /// Adds what is done to one token to the draft, and returns the record to show for it.
    fn apply(
        self,
        draft: &mut Draft<'_>,
        token: Versioned<TokenRecord>,
        recipient: Option<&Versioned<UserRecord>>,
        selection: &Selection,
    ) -> TokenRecord {
        match (self, recipient) {
            (Self::Revoke, _) if token.record.is_active() => draft.revoke(token, None),
            (Self::Delete, _) => {
                let record = token.record.clone();
                draft.delete_token(token);
                record
            }
            (Self::Reassign { .. }, Some(recipient)) if token.record.owner != recipient.record.id => {
                let from = selection.name_of(token.record.owner);
                draft.reassign(token, from, recipient)
            }
            (Self::Revoke | Self::Reassign { .. }, _) => token.record,
        }
    }

    fn interrupted(self, done: usize, of: usize, error: RegistryError) -> RegistryError {
        let (did, remedy) = match self {
            Self::Revoke => ("revoked", "run the command again for the others"),
            Self::Delete => ("deleted", "run the command again without these, which were named first"),
            Self::Reassign { .. } => ("reassigned", "run the command again for the others"),
        };
        RegistryError::interrupted(format!("broke off after {done} of {of} tokens were {did}; {remedy}"), error)
    }
}

/// Whose the selected tokens are.
struct Selection {
    owners: HashMap<UserId, Versioned<UserRecord>>,
}

impl Selection {
    fn the_owner(&self) -> Option<&UserRecord> {
        self.owners.values().map(|user| &user.record).find(|user| user.role == Role::Owner)
    }

    /// For the history. A user who is gone took the token along, and the commit will find that out.
    fn name_of(&self, id: UserId) -> String {
        self.owners.get(&id).map_or_else(|| id.to_string(), |user| user.record.name.clone())
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
