//! Whose a token is.

use super::{Actor, PAGE, Registry, RegistryError, TokenDetails, TokenQuery};
use crate::token::{Digest, DigestPrefix, TokenId};

impl Registry {
    /// The token with this digest.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchDigest`], also if the actor may not see it; [`RegistryError::DigestDeleted`].
    pub async fn token_with(&self, actor: &Actor, digest: &Digest) -> Result<TokenId, RegistryError> {
        let authority = self.authority(actor).await?;
        let found = self.store.tokens_by_digest(&[*digest]).await?.pop().flatten();
        if let Some(token) = found.filter(|token| authority.sees_tokens_of(token.record.owner)) {
            return Ok(token.record.id);
        }
        let shown = DigestPrefix::of(digest);
        let is_deleted = self.store.retired(&[*digest]).await?.contains(&true);
        let error = if is_deleted && authority.sees_all_tokens() {
            RegistryError::DigestDeleted(shown)
        } else {
            RegistryError::NoSuchDigest(shown)
        };
        Err(self.not_found(error).await)
    }

    /// The tokens whose digests begin with these digits.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchDigest`] when there is none that the actor may see.
    pub async fn tokens_beginning(&self, actor: &Actor, digits: DigestPrefix) -> Result<Vec<TokenId>, RegistryError> {
        let query = TokenQuery { digest: Some(digits.clone()), ..TokenQuery::default() };
        let found = self.select(actor, &query).await?;
        if found.is_empty() { Err(RegistryError::NoSuchDigest(digits)) } else { Ok(found) }
    }

    /// The token with this digest, if this user has it and it was not revoked: one that was to be made is there already.
    ///
    /// # Errors
    /// [`RegistryError::DigestTaken`] when it is another user's, or was revoked.
    pub async fn token_made_before(
        &self,
        actor: &Actor,
        user: &str,
        digest: &Digest,
    ) -> Result<Option<TokenDetails>, RegistryError> {
        let id = match self.token_with(actor, digest).await {
            Ok(id) => id,
            // A deleted one is refused by who creates it, with the reason.
            Err(RegistryError::NoSuchDigest(_) | RegistryError::DigestDeleted(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let token = self.token(actor, id).await?;
        match token.owner.name == user && token.record.is_active() {
            true => Ok(Some(token)),
            false => Err(RegistryError::DigestTaken(token.record.digest)),
        }
    }

    /// Those of these tokens that exist and that the actor may see, in their order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn existing(&self, actor: &Actor, ids: &[TokenId]) -> Result<Vec<TokenId>, RegistryError> {
        let authority = self.authority(actor).await?;
        let mut existing = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PAGE) {
            let found = self.store.tokens_by_id(ids).await?.into_iter().flatten();
            let seen = found.filter(|token| authority.sees_tokens_of(token.record.owner));
            existing.extend(seen.map(|token| token.record.id));
        }
        Ok(existing)
    }
}
