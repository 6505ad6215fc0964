//! Whose a token is.

use super::{Actor, Registry, RegistryError, TokenDetails, TokenQuery, now};
use crate::token::{Digest, DigestPrefix, TokenId, UserStatus};

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
            RegistryError::NoSuchDigest(DigestPrefix::whole(digest))
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
    /// [`RegistryError::DigestTaken`] when it is another user's; [`RegistryError::DigestUseless`] when it is there and does not
    /// work, and [`RegistryError::UserDisabled`]: whoever asked for a token that does would not have one.
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
        let TokenDetails { record, owner, .. } = &token;
        if owner.name != user {
            return Err(RegistryError::DigestTaken(record.digest));
        }
        let why = match record.expires_at.filter(|_| record.is_expired(now())) {
            _ if !record.is_active() => "was revoked".to_owned(),
            Some(expired_at) => format!("expired at {expired_at}"),
            None if owner.status == UserStatus::Disabled => return Err(RegistryError::UserDisabled(user.to_owned())),
            None => return Ok(Some(token)),
        };
        Err(RegistryError::DigestUseless { token: id, why })
    }
}
