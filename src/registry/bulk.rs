//! What is done to a selection of tokens: revoke, delete, reassign. One selection is one batch: all of it or nothing.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::draft::Draft;
use super::{Actor, PAGE, Registry, RegistryError, Tries, now};
use crate::store::{StateFilter, StoreError, TokenFilter, Versioned};
use crate::token::{Role, TokenId, TokenRecord, UserId, UserRecord, UserStatus};

impl Registry {
    /// Revokes tokens for good; the records stay. Those that are revoked already stay as they are. Returns all of them,
    /// in the order of `ids`.
    ///
    /// # Errors
    /// When an id is unknown or repeated, when the Owner would be left without a usable token (unless `force`), and when
    /// the actor may not.
    pub async fn revoke(&self, actor: &Actor, ids: &[TokenId], force: bool) -> Result<Vec<TokenRecord>, RegistryError> {
        let mut tries = Tries::new("revoking the tokens");
        loop {
            tries.begin().await?;
            let standing = self.standing(actor).await?;
            standing.check_manages_tokens()?;
            let tokens = self.find_tokens(&standing, ids).await?;
            let (now, selection) = (now(), self.selection(&tokens).await?);
            let mut draft = Draft::new(&standing, now);
            if !force {
                self.keep_one_of_the_owners(&mut draft, &selection, &tokens, now).await?;
            }
            let revoked = tokens.into_iter().map(|token| match token.record.is_active() {
                true => draft.revoke(token, None),
                false => token.record,
            });
            let revoked = revoked.collect();
            if self.commit(draft.into_batch()).await? {
                return Ok(revoked);
            }
        }
    }

    /// Deletes tokens, active or revoked, with their histories, and returns what they were, in the order of `ids`.
    ///
    /// # Errors
    /// As for [`Registry::revoke`].
    pub async fn delete(&self, actor: &Actor, ids: &[TokenId], force: bool) -> Result<Vec<TokenRecord>, RegistryError> {
        let mut tries = Tries::new("deleting the tokens");
        loop {
            tries.begin().await?;
            let standing = self.standing(actor).await?;
            standing.check_manages_tokens()?;
            let tokens = self.find_tokens(&standing, ids).await?;
            let (now, selection) = (now(), self.selection(&tokens).await?);
            let mut draft = Draft::new(&standing, now);
            if !force {
                self.keep_one_of_the_owners(&mut draft, &selection, &tokens, now).await?;
            }
            let deleted = tokens.iter().map(|token| token.record.clone()).collect();
            tokens.into_iter().for_each(|token| draft.delete_token(token));
            if self.commit(draft.into_batch()).await? {
                return Ok(deleted);
            }
        }
    }

    /// Gives active tokens to another user. They lose what that user's role does not have, and stay valid otherwise.
    /// Those that the user has already stay as they are. Returns all of them, in the order of `ids`.
    ///
    /// # Errors
    /// When an id is unknown, repeated or revoked, when `to` is unknown or disabled, when the Owner would be left
    /// without a usable token (unless `force`), and when the actor may not.
    pub async fn reassign(
        &self,
        actor: &Actor,
        ids: &[TokenId],
        to: &str,
        force: bool,
    ) -> Result<Vec<TokenRecord>, RegistryError> {
        let mut tries = Tries::new("reassigning the tokens");
        loop {
            tries.begin().await?;
            let standing = self.standing(actor).await?;
            standing.check_reassigns()?;
            let to = self.find_user(&standing, to).await?;
            standing.check_gives_tokens_to(&to.record)?;
            let tokens = self.find_tokens(&standing, ids).await?;
            check_reassignable(&tokens, &to.record)?;
            let (now, selection) = (now(), self.selection(&tokens).await?);
            let mut draft = Draft::new(&standing, now);
            if !force && to.record.role != Role::Owner {
                self.keep_one_of_the_owners(&mut draft, &selection, &tokens, now).await?;
            }
            draft.require_user(&to);
            let reassigned = tokens.into_iter().map(|token| match token.record.owner == to.record.id {
                true => token.record,
                false => {
                    let from = selection.name_of(token.record.owner);
                    draft.reassign(token, from, &to)
                }
            });
            let reassigned = reassigned.collect();
            if self.commit(draft.into_batch()).await? {
                return Ok(reassigned);
            }
        }
    }

    async fn selection(&self, tokens: &[Versioned<TokenRecord>]) -> Result<Selection, StoreError> {
        Ok(Selection { owners: self.users_by_id(tokens.iter().map(|token| token.record.owner)).await? })
    }

    /// The Owner keeps a usable token other than those selected, or none of them is a usable one of the Owner's. The
    /// batch then rests on the one that was found, so that two commands cannot each rely on what the other one takes.
    async fn keep_one_of_the_owners(
        &self,
        draft: &mut Draft<'_>,
        selection: &Selection,
        tokens: &[Versioned<TokenRecord>],
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        let Some(owner) = selection.the_owner() else { return Ok(()) };
        let lost = usable_of(owner.id, tokens, now);
        if lost.is_empty() {
            return Ok(());
        }
        let selected: HashSet<TokenId> = lost.iter().copied().collect();
        let filter = TokenFilter { owner: Some(owner.id), state: Some(StateFilter::Active { now: now.as_second() }) };
        let mut before = None;
        loop {
            let page = self.store.tokens(filter, before, PAGE).await?;
            before = page.last().map(|token| token.record.id);
            if before.is_none() {
                return Err(RegistryError::LastOwnerToken { owner: owner.name.clone(), tokens: lost });
            }
            if let Some(kept) = page.into_iter().find(|token| !selected.contains(&token.record.id)) {
                draft.require_token(kept);
                return Ok(());
            }
        }
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
