//! Rotation: a successor takes the place of a token, which goes on for a while so that agents can change over.
//!
//! It hands out a value, so it is allowed only where creating that very token would be, and the token is decided by the
//! same function. A token is rotated once. Its record says so, and is what the commit rests on: of two at once, one has
//! made the successor, and the other is told which.

use std::time::Duration;

use jiff::Timestamp;

use super::actor::Right;
use super::audit::of_tokens;
use super::draft::Draft;
use super::tokens::{NewToken, Requested, decide_token, mint, whole_seconds};
use super::{Actor, Attempts, Created, Registry, RegistryError, Seen, now};
use crate::audit::Action;
use crate::token::{RawToken, TokenId, TokenRecord};

/// What to rotate, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Which token.
    pub token: TokenId,
    /// For how long it still works; never longer than it would have.
    pub overlap: Duration,
    /// When the successor expires, in whole seconds. `None`: as long from now as the token was made for, or never.
    pub expires_at: Option<Timestamp>,
}

/// A token that was rotated.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// It, with its new end.
    pub old: TokenRecord,
    /// What takes its place: the only time that the raw token is known.
    pub successor: Created,
}

impl Registry {
    /// Makes a token that takes the place of another one, with the same owner, permissions and description. The other one
    /// ends after the overlap.
    ///
    /// # Errors
    /// When the token is unknown, revoked, expired or was rotated before; and as for [`Registry::create_token`].
    pub async fn rotate(
        &self,
        actor: &Actor,
        rotation: impl Into<Seen<Rotation>> + Send,
    ) -> Result<Rotated, RegistryError> {
        self.rotate_observed(actor, rotation.into(), None).await
    }

    /// The same with a value that the caller brings ([`RawToken::brought`]).
    ///
    /// # Errors
    /// As for [`Registry::rotate`], and when a token has or had that value: nothing is changed then.
    pub async fn rotate_to_value(
        &self,
        actor: &Actor,
        rotation: impl Into<Seen<Rotation>> + Send,
        value: RawToken,
    ) -> Result<Rotated, RegistryError> {
        self.rotate_observed(actor, rotation.into(), Some(value)).await
    }

    async fn rotate_observed(
        &self,
        actor: &Actor,
        seen: Seen<Rotation>,
        value: Option<RawToken>,
    ) -> Result<Rotated, RegistryError> {
        let rotated = self.rotate_to(actor, seen, value).await;
        self.observed(actor, Action::TokenRotate, of_tokens(&[seen.what.token]), rotated).await
    }

    async fn rotate_to(
        &self,
        actor: &Actor,
        seen: Seen<Rotation>,
        value: Option<RawToken>,
    ) -> Result<Rotated, RegistryError> {
        let (rotation, mut attempts) = (seen.what, Attempts::default());
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check(Right::ManageTokens)?;
            let old = seen.check(self.find_tokens(&authority, &[rotation.token]).await?.swap_remove(0))?;
            // A user who was deleted between these reads took the token along; reading again shows it.
            let Some(owner) = self.store.user(old.record.owner).await? else { continue };
            authority.check_makes_tokens_for(&owner.record.name)?;
            let (now, token) = (now(), value.clone().map_or_else(mint, Ok)?);
            let ends_at = decide_end(&old.record, rotation.overlap, now)?;
            let mut new = successor_of(&old.record, owner.record.name.clone(), rotation.expires_at, now);
            new.expires_at = match self.bounded_expiry(new.expires_at, now) {
                // Nobody asked for it: the old one was made before there was this policy.
                Err(_) if rotation.expires_at.is_none() => self.bounded_expiry(None, now)?,
                bounded => bounded?,
            };
            let record = decide_token(&authority, &owner.record, &new, token.digest(), token.hint(), now)?;
            let mut draft = Draft::new(&authority, now);
            draft.require_user(&owner);
            let (old, record) = draft.rotate(old, ends_at, record);
            let committed = self.commit(draft.into_batch()).await.map_err(|error| match value {
                // Who brought the value has it, and can try again.
                Some(_) => authority.not_telling(error),
                None => error.of_creating(record.id),
            });
            if committed? {
                return Ok(Rotated { old, successor: Created { record, owner: owner.record, token } });
            }
        }
    }
}

/// Whether a token can be rotated, whoever asks.
///
/// # Errors
/// Why not: it was revoked, has expired, or was rotated already.
pub(crate) fn check_rotates(token: &TokenRecord, now: Timestamp) -> Result<(), RegistryError> {
    decide_end(token, Duration::ZERO, now).map(drop)
}

/// When a token ends that is rotated now.
fn decide_end(old: &TokenRecord, overlap: Duration, now: Timestamp) -> Result<Timestamp, RegistryError> {
    if !old.is_active() {
        return Err(RegistryError::RotatesRevoked(old.id));
    }
    if old.is_expired(now) {
        return Err(RegistryError::RotatesExpired(old.id));
    }
    if let Some(successor) = old.successor {
        return Err(RegistryError::RotatedAlready { token: old.id, successor });
    }
    let ends_at = whole_seconds(now.checked_add(overlap).unwrap_or(Timestamp::MAX));
    Ok(old.expires_at.map_or(ends_at, |expires_at| expires_at.min(ends_at)))
}

/// What takes a token's place.
fn successor_of(old: &TokenRecord, user: String, expires_at: Option<Timestamp>, now: Timestamp) -> NewToken {
    let as_before = || {
        let made_for = old.expires_at?.duration_since(old.created_at);
        Some(now.checked_add(made_for).unwrap_or(Timestamp::MAX))
    };
    NewToken {
        user,
        description: old.description.clone(),
        permissions: Requested::Permissions(old.permissions),
        expires_at: expires_at.or_else(as_before),
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::samples::{at, token, user};
    use super::*;
    use crate::token::{PermissionSet, Role, TokenState};

    fn old() -> TokenRecord {
        token(1, &user("max", Role::Manager), PermissionSet::TELEGRAF_AGENT).record
    }

    #[test]
    fn the_overlap_never_lengthens_a_life() {
        let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
        let expiring = |second| TokenRecord { expires_at: Some(at(second)), ..old() };
        for (old, overlap, ends_at) in [
            (old(), day, 100 + 86_400),
            (old(), Duration::ZERO, 100),
            (expiring(101), hour, 101),
            (expiring(10_000), hour, 3_700),
        ] {
            assert_eq!(decide_end(&old, overlap, at(100)).expect("active"), at(ends_at));
        }
        assert_eq!(decide_end(&expiring(101), Duration::MAX, at(100)).expect("active"), at(101));
    }

    #[test]
    fn what_is_over_or_was_rotated_is_not_rotated() {
        let revoked = TokenRecord { state: TokenState::Revoked { at: at(1), by: "anna".to_owned() }, ..old() };
        let expired = TokenRecord { expires_at: Some(at(100)), ..old() };
        let rotated = TokenRecord { successor: Some(TokenId::from_u64(2)), ..old() };
        let refused = |old| decide_end(&old, Duration::ZERO, at(100)).expect_err("refused");
        assert!(matches!(refused(revoked), RegistryError::RotatesRevoked(_)));
        assert!(matches!(refused(expired), RegistryError::RotatesExpired(_)));
        assert!(matches!(refused(rotated), RegistryError::RotatedAlready { successor, .. } if successor.to_u64() == 2));
    }

    #[test]
    fn a_successor_is_made_for_as_long_as_its_predecessor_was() {
        let expires = |old: &TokenRecord, asked| successor_of(old, "max".to_owned(), asked, at(100)).expires_at;
        let month = TokenRecord { created_at: at(10), expires_at: Some(at(40)), ..old() };
        assert_eq!(expires(&month, None), Some(at(130)));
        assert_eq!(expires(&month, Some(at(500))), Some(at(500)));
        assert_eq!(expires(&old(), None), None);
    }
}
