//! Choosing tokens by what they are: lists, searches, and sets to do something to.
//!
//! Stores find tokens by owner and state. What else is asked for is judged by the records, page by page.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::actor::Authority;
use super::{Actor, Attempts, PAGE, Registry, RegistryError, Unused, now};
use crate::hex::Hex;
use crate::store::{StateFilter, TokenFilter, Versioned};
use crate::token::{DigestPrefix, Permission, TokenId, TokenRecord, UserRecord};
use crate::words::words;

/// Which tokens are meant: those for which all of it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenQuery {
    /// Only tokens of this user.
    pub user: Option<String>,
    /// Only those in this state.
    pub state: Option<ListState>,
    /// Only those that permit this.
    pub permission: Option<Permission>,
    /// Only those that expire before this moment, or did.
    pub expires_before: Option<Timestamp>,
    /// Only those that were not used. Where too little is known to say so of any, there are none.
    pub unused: Option<Unused>,
    /// Only those that were made before this moment.
    pub made_before: Option<Timestamp>,
    /// Only those with this text, in any case, in the description, the id, the hint or the owner's name.
    pub text: Option<String>,
    /// Only those whose digest begins so.
    pub digest: Option<DigestPrefix>,
}

words! {
    /// What a list of tokens can be narrowed to.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ListState ("states") {
        /// Neither revoked nor expired.
        Active = "active",
        /// Revoked.
        Revoked = "revoked",
        /// Not revoked, but past its expiry.
        Expired = "expired",
    }
}

impl ListState {
    fn at(self, now: Timestamp) -> StateFilter {
        match self {
            Self::Active => StateFilter::Active { now: now.as_second() },
            Self::Revoked => StateFilter::Revoked,
            Self::Expired => StateFilter::Expired { now: now.as_second() },
        }
    }
}

impl TokenQuery {
    /// Whether more is asked for than what stores find.
    fn judges_records(&self) -> bool {
        let Self { permission, expires_before, made_before, text, digest, user: _, state: _, unused: _ } = self;
        permission.is_some() || expires_before.or(*made_before).is_some() || text.is_some() || digest.is_some()
    }

    /// Whether a token of the right owner and state is meant.
    pub(super) fn fits(&self, token: &TokenRecord, owner: &UserRecord) -> bool {
        let has_text = |text: &String| {
            let text = text.to_lowercase();
            let places = [&token.description, &token.hint, &owner.name];
            places.iter().any(|place| place.to_lowercase().contains(&text)) || token.id.to_string().contains(&text)
        };
        self.permission.is_none_or(|permission| token.permissions.contains(permission))
            && self.expires_before.is_none_or(|then| token.expires_at.is_some_and(|expires_at| expires_at < then))
            && self.made_before.is_none_or(|then| token.id.made_before(then))
            && self.text.as_ref().is_none_or(has_text)
            && self.digest.as_ref().is_none_or(|digest| digest.fits(&token.digest))
    }
}

/// What a set of tokens is, in few characters: whoever confirms something confirms it for this very set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of these tokens, in whatever order.
    pub fn of(ids: &[TokenId]) -> Self {
        let mut ids: Vec<_> = ids.iter().map(|id| id.to_u64()).collect();
        ids.sort_unstable();
        let mut hasher = Sha256::new();
        ids.iter().for_each(|id| hasher.update(id.to_be_bytes()));
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize()[..16]);
        Self(short)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 32 hexadecimal digits")]
pub struct InvalidFingerprint;

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let word = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        word.map(|word| Self(word.to_be_bytes())).ok_or(InvalidFingerprint)
    }
}

impl Registry {
    /// Tokens that the actor may see, each with its owner, newest first: at most `limit` of those made before the token
    /// `before` (the last one of the page before).
    ///
    /// # Errors
    /// [`RegistryError::NoSuchUser`], also if the actor may not see that user.
    pub async fn tokens(
        &self,
        actor: &Actor,
        query: &TokenQuery,
        mut before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<(TokenRecord, UserRecord)>, RegistryError> {
        let authority = self.authority(actor).await?;
        let Some(filter) = self.visible(&authority, query).await? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = if query.judges_records() { PAGE } else { limit - found.len() };
            let page = self.page(filter, before, wanted).await?;
            let is_last = page.len() < wanted;
            before = page.last().map(|(token, _)| token.id);
            found.extend(page.into_iter().filter(|(token, owner)| query.fits(token, owner)));
            if is_last {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// All tokens that are meant and that the actor may see, newest first.
    ///
    /// # Errors
    /// As for [`Registry::tokens`].
    pub async fn select(&self, actor: &Actor, query: &TokenQuery) -> Result<Vec<TokenId>, RegistryError> {
        let mut ids = Vec::new();
        loop {
            let page = self.tokens(actor, query, ids.last().copied(), PAGE).await?;
            ids.extend(page.iter().map(|(token, _)| token.id));
            if page.len() < PAGE {
                return Ok(ids);
            }
        }
    }

    /// How many are meant that the actor may see, if the store can tell without reading each.
    ///
    /// # Errors
    /// As for [`Registry::tokens`].
    pub async fn count(&self, actor: &Actor, query: &TokenQuery) -> Result<Option<u64>, RegistryError> {
        let authority = self.authority(actor).await?;
        match self.visible(&authority, query).await? {
            None => Ok(Some(0)),
            Some(_) if query.judges_records() => Ok(None),
            Some(filter) => Ok(Some(self.store.count_tokens(filter).await?)),
        }
    }

    /// How a store finds them, as far as it does; `None`: the actor may see none of them, or too little is known of their use.
    pub(super) async fn visible(
        &self,
        authority: &Authority,
        query: &TokenQuery,
    ) -> Result<Option<TokenFilter>, RegistryError> {
        let asked = match &query.user {
            Some(name) => Some(self.find_user(authority, name).await?.record.id),
            None => None,
        };
        // A Manager who asks for all sees the own ones; who asks for another user's, none.
        let own = authority.user().map(|user| user.record.id);
        let owner = if authority.sees_all_tokens() { asked } else { own };
        let is_hidden = owner.is_some_and(|owner| !authority.sees_tokens_of(owner));
        let state = query.state.map(|state| state.at(now()));
        if is_hidden {
            return Ok(None);
        }
        self.narrowed_by_use(TokenFilter { owner, state, unused: None }, query.unused).await
    }

    /// A page of the store's list, each token with its owner.
    async fn page(
        &self,
        filter: TokenFilter,
        before: Option<TokenId>,
        limit: usize,
    ) -> Result<Vec<(TokenRecord, UserRecord)>, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let page = self.store.tokens(filter, before, limit).await?;
            let owners = self.users_by_id(page.iter().map(|token| token.record.owner)).await?;
            let with_owner = |token: Versioned<TokenRecord>| {
                let owner = owners.get(&token.record.owner)?.record.clone();
                Some((token.record, owner))
            };
            // A user who was deleted between these reads took the tokens along; read the page again without them.
            if let Some(tokens) = page.into_iter().map(with_owner).collect() {
                return Ok(tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::samples::{at, token, user};
    use super::*;
    use crate::token::{PermissionSet, Role};

    #[test]
    fn a_token_is_meant_if_all_of_it_holds() {
        let anna = user("anna", Role::Owner);
        let mut record = token(7, &anna, PermissionSet::TELEGRAF_AGENT).record;
        record.description = "Plant 7".to_owned();
        record.hint = "abc123".to_owned();
        record.expires_at = Some(at(100));
        let fits = |query: TokenQuery| query.fits(&record, &anna.record);
        let text = |text: &str| fits(TokenQuery { text: Some(text.to_owned()), ..TokenQuery::default() });
        assert!(fits(TokenQuery::default()));
        assert!(text("plant") && text("ANN") && text("c12") && text("0000007") && !text("plant 8"));
        let permits = |name: &str| {
            fits(TokenQuery { permission: Some(name.parse().expect("a permission")), ..TokenQuery::default() })
        };
        assert!(permits("configs:read") && !permits("configs:write"));
        let expires_before = |then: i64| fits(TokenQuery { expires_before: Some(at(then)), ..TokenQuery::default() });
        assert!(expires_before(101) && !expires_before(100));
        record.expires_at = None;
        let query = TokenQuery { expires_before: Some(at(i64::from(i32::MAX))), ..TokenQuery::default() };
        assert!(!query.fits(&record, &anna.record), "it never does");
    }

    #[test]
    fn a_fingerprint_is_of_the_set() {
        let ids = |numbers: &[u64]| numbers.iter().copied().map(TokenId::from_u64).collect::<Vec<_>>();
        let of = |numbers: &[u64]| Fingerprint::of(&ids(numbers));
        assert_eq!(of(&[1, 2, 3]), of(&[3, 1, 2]));
        assert_ne!(of(&[1, 2, 3]), of(&[1, 2, 4]));
        assert_ne!(of(&[1]), of(&[1, 2]));
        assert_eq!(of(&[1]).to_string().parse(), Ok(of(&[1])));
        for text in ["", "0", &"g".repeat(32), &"0".repeat(33), "+0000000000000000000000000000000"] {
            assert_eq!(text.parse::<Fingerprint>(), Err(InvalidFingerprint), "{text}");
        }
    }
}
