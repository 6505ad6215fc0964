//! Deleting the tokens that have been of no use for long.
//!
//! All tokens are looked through, page by page, and each page's are deleted as `token delete` does, at most
//! [`CHUNK`] in one commit. There is no mark of how far it got: what is left fits the same description.

use jiff::Timestamp;

use super::actor::{Authority, Right};
use super::draft::Draft;
use super::steps::{CHUNK, UNREVOKED};
use super::{Actor, Attempts, PAGE, PartlyDone, Registry, RegistryError, now};
use crate::audit::{Action, Subject};
use crate::store::{StateFilter, TokenFilter, Versioned};
use crate::token::{TokenId, TokenRecord, TokenState};

/// Which tokens are deleted: those that expired, and those that were revoked, by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeFilter {
    /// Not revoked, and expired at this moment or before. `None`: none of these.
    pub expired_by: Option<Timestamp>,
    /// Revoked at this moment or before. `None`: none of these.
    pub revoked_by: Option<Timestamp>,
}

/// How many they are, or were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Not revoked, and expired.
    pub expired: usize,
    /// Revoked.
    pub revoked: usize,
}

impl Purged {
    /// All of them.
    pub fn tokens(self) -> usize {
        self.expired + self.revoked
    }

    fn add(&mut self, token: &TokenRecord) {
        if token.is_active() { self.expired += 1 } else { self.revoked += 1 }
    }
}

impl PurgeFilter {
    fn has(&self, token: &TokenRecord) -> bool {
        let by = |then: Timestamp, bound: Option<Timestamp>| bound.is_some_and(|bound| then <= bound);
        match &token.state {
            TokenState::Active => token.expires_at.is_some_and(|at| by(at, self.expired_by)),
            TokenState::Revoked { at, .. } => by(*at, self.revoked_by),
        }
    }

    /// The narrowest list that has all of them, as far as the actor may see them.
    fn list(&self, authority: &Authority) -> TokenFilter {
        let state = match (self.expired_by, self.revoked_by) {
            (None, _) => Some(StateFilter::Revoked),
            (_, None) => Some(UNREVOKED),
            (Some(_), Some(_)) => None,
        };
        let own = authority.user().map(|user| user.record.id);
        TokenFilter { owner: own.filter(|_| !authority.sees_all_tokens()), state, ..TokenFilter::default() }
    }
}

impl Registry {
    /// How many tokens [`Registry::purge`] would delete.
    ///
    /// # Errors
    /// When the actor may not delete tokens, and when the store fails.
    pub async fn count_purgeable(&self, actor: &Actor, filter: &PurgeFilter) -> Result<Purged, RegistryError> {
        let (mut found, mut before) = (Purged::default(), None);
        loop {
            let authority = self.may_purge(actor).await?;
            let page = self.store.tokens(filter.list(&authority), before, PAGE).await?;
            before = page.last().map(|token| token.record.id);
            if before.is_none() {
                return Ok(found);
            }
            page.iter().filter(|token| filter.has(&token.record)).for_each(|token| found.add(&token.record));
        }
    }

    /// Deletes tokens of no use, with their histories, and says how many they were. The Owner's last usable token is
    /// none of them.
    ///
    /// # Errors
    /// When the actor may not delete tokens, and when the store fails. [`RegistryError::Interrupted`] says how many are
    /// deleted: the same purge again deletes the others.
    pub async fn purge(&self, actor: &Actor, filter: &PurgeFilter) -> Result<Purged, RegistryError> {
        let mut done = Purged::default();
        let purged = self.purge_pages(actor, filter, &mut done).await;
        let purged = match purged {
            Ok(()) => Ok(done),
            Err(error) if done == Purged::default() => Err(error),
            Err(error) => Err(RegistryError::interrupted(PartlyDone::Purged(done.tokens()), error)),
        };
        self.observed(actor, Action::TokenDelete, Subject::default(), purged).await
    }

    async fn purge_pages(&self, actor: &Actor, filter: &PurgeFilter, done: &mut Purged) -> Result<(), RegistryError> {
        let (mut before, mut attempts): (Option<TokenId>, _) = (None, Attempts::default());
        loop {
            attempts.begin().await?;
            let authority = self.may_purge(actor).await?;
            let page = self.store.tokens(filter.list(&authority), before, PAGE).await?;
            let Some(last) = page.last().map(|token| token.record.id) else { return Ok(()) };
            let found: Vec<_> = page.into_iter().filter(|token| filter.has(&token.record)).collect();
            let deleted = self.delete_found(&authority, &found, done).await?;
            if deleted > 0 || found.is_empty() {
                attempts = Attempts::default();
            }
            // Where somebody else changed one of them meanwhile, the page is read again.
            if deleted == found.len() {
                before = Some(last);
            }
        }
    }

    async fn may_purge(&self, actor: &Actor) -> Result<Authority, RegistryError> {
        let authority = self.authority(actor).await?;
        authority.check(Right::ManageTokens)?;
        Ok(authority)
    }

    /// Deletes these, and says of how many before one that was changed meanwhile.
    async fn delete_found(
        &self,
        authority: &Authority,
        tokens: &[Versioned<TokenRecord>],
        done: &mut Purged,
    ) -> Result<usize, RegistryError> {
        let mut deleted = 0;
        for chunk in tokens.chunks(CHUNK) {
            let mut draft = Draft::new(authority, now());
            chunk.iter().cloned().for_each(|token| draft.delete_token(token));
            if !self.commit(draft.into_batch()).await? {
                break;
            }
            chunk.iter().for_each(|token| done.add(&token.record));
            deleted += chunk.len();
        }
        Ok(deleted)
    }
}
