//! Revocations that the store lost, and that a sidecar remembered: they are committed again.

use super::actor::Authority;
use super::draft::Draft;
use super::steps::CHUNK;
use super::{Attempts, Registry, RegistryError, now};
use crate::token::Digest;

/// Who is recorded for such a revocation: whoever revoked the token before was forgotten along with it.
const ACTOR: &str = "sidecar recall";

/// Why, in the token's history.
const REASON: &str = "revoked or deleted before the store lost it";

impl Registry {
    /// Revokes the tokens that sidecars saw revoked or deleted although the store holds them as active, and says how many
    /// they were. Anybody may let this happen: it was decided once already.
    ///
    /// # Errors
    /// When the store fails. What was not settled stays recalled, and sidecars go on refusing it.
    pub async fn settle_recalls(&self) -> Result<usize, RegistryError> {
        let (mut place, mut revoked) = (None, 0);
        loop {
            let page = self.store.recalled(place.as_ref()).await?;
            for digests in page.digests.chunks(CHUNK) {
                revoked += self.revoke_again(digests).await?;
                // Only now: a sidecar that starts in between would let them in.
                self.store.settle_recalls(digests).await?;
            }
            if page.is_last {
                return Ok(revoked);
            }
            place = page.next;
        }
    }

    /// Revokes those of the tokens that are active.
    async fn revoke_again(&self, digests: &[Digest]) -> Result<usize, RegistryError> {
        let (authority, mut attempts) = (Authority::operator(ACTOR), Attempts::default());
        loop {
            attempts.begin().await?;
            let found = self.store.tokens_by_digest(digests).await?;
            let mut draft = Draft::new(&authority, now());
            let active = found.into_iter().flatten().filter(|token| token.record.is_active());
            let count = active.map(|token| draft.revoke(token, Some(REASON.to_owned()))).count();
            if self.commit(draft.into_batch()).await? {
                return Ok(count);
            }
        }
    }
}
