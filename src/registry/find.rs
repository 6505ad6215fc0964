//! Whose a token is.

use super::{Actor, Registry, RegistryError};
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
            RegistryError::NoSuchDigest(DigestPrefix::whole(digest))
        };
        Err(self.not_found(error).await)
    }
}
