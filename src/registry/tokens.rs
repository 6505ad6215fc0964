//! Making tokens and reading them.

use std::time::Duration;

use jiff::Timestamp;

use super::actor::Authority;
use super::audit::of_user;
use super::draft::Draft;
use super::{Actor, Attempts, LateUse, PAGE, Registry, RegistryError, now};
use crate::audit::Action;
use crate::store::{CommitId, Versioned};
use crate::token::raw::{PREFIX, SECRET_DIGITS};
use crate::token::{
    Digest, HistoryEntry, PermissionSet, RawToken, Role, TokenEvent, TokenId, TokenRecord, TokenState, UserRecord,
    UserStatus,
};
use crate::words;

/// A token that was just made: the only time that the raw token is known.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its record.
    pub record: TokenRecord,
    /// Who it belongs to.
    pub owner: UserRecord,
    /// What its holder sends.
    pub token: RawToken,
}

/// What a new token shall permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// Everything that its owner's role permits.
    All,
    /// These, as far as its owner's role permits them.
    Permissions(PermissionSet),
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The name of its owner.
    pub user: String,
    /// What people call it: 1 to 200 characters.
    pub description: String,
    /// What it shall permit.
    pub permissions: Requested,
    /// When it stops working, in whole seconds: a fraction is cut off, as replicas compare seconds. `None`: never.
    pub expires_at: Option<Timestamp>,
}

/// A token with its past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDetails {
    /// Its record.
    pub record: TokenRecord,
    /// The commit that wrote it.
    pub version: CommitId,
    /// Who it belongs to.
    pub owner: UserRecord,
    /// What happened to it, oldest first.
    pub history: Vec<HistoryEntry>,
    /// What came with it after its end.
    pub late: Option<LateUse>,
    /// What came after its end with the token that it succeeds.
    pub predecessor_late: Option<LateUse>,
}

impl Registry {
    /// Makes a token. It permits what was requested and the owner's role has.
    ///
    /// # Errors
    /// When the owner is unknown, disabled or a Viewer, when the role has nothing of what was requested, when the
    /// expiry is in the past, when the description is invalid, and when the actor may not.
    pub async fn create_token(&self, actor: &Actor, new: NewToken) -> Result<Created, RegistryError> {
        self.create_observed(actor, new, None).await
    }

    /// The same with a value that the caller brings ([`RawToken::brought`]).
    ///
    /// # Errors
    /// As for [`Registry::create_token`], and when a token has or had that value: nothing is changed then.
    pub async fn create_token_of(
        &self,
        actor: &Actor,
        new: NewToken,
        value: RawToken,
    ) -> Result<Created, RegistryError> {
        self.create_observed(actor, new, Some(value)).await
    }

    async fn create_observed(
        &self,
        actor: &Actor,
        new: NewToken,
        value: Option<RawToken>,
    ) -> Result<Created, RegistryError> {
        let subject = of_user(&new.user);
        let created = self.create(actor, new, value).await;
        self.observed(actor, Action::TokenCreate, subject, created).await
    }

    pub(super) async fn create(
        &self,
        actor: &Actor,
        new: NewToken,
        value: Option<RawToken>,
    ) -> Result<Created, RegistryError> {
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let authority = self.authority(actor).await?;
            authority.check_makes_tokens_for(&new.user)?;
            let owner = self.find_user(&authority, &new.user).await?;
            let (now, token) = (now(), value.clone().map_or_else(mint, Ok)?);
            let new = NewToken { expires_at: self.bounded_expiry(new.expires_at, now)?, ..new.clone() };
            check_description(&new.description)?;
            let record = decide_token(&authority, &owner.record, &new, token.digest(), token.hint(), now)?;
            let mut draft = Draft::new(&authority, now);
            draft.require_user(&owner);
            draft.create_token(record.clone(), TokenEvent::Created);
            let committed = self.commit(draft.into_batch()).await.map_err(|error| match value {
                // Who brought the value has it, and can try again.
                Some(_) => authority.not_telling(error),
                None => error.of_creating(record.id),
            });
            if committed? {
                return Ok(Created { record, owner: owner.record, token });
            }
        }
    }

    /// One token, with its history.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchTokens`], also if the actor may not see it.
    pub async fn token(&self, actor: &Actor, id: TokenId) -> Result<TokenDetails, RegistryError> {
        let authority = self.authority(actor).await?;
        let mut attempts = Attempts::default();
        loop {
            attempts.begin().await?;
            let Versioned { record, version } = self.find_tokens(&authority, &[id]).await?.swap_remove(0);
            let history = self.store.history(id).await?;
            // A user who was deleted between these reads took the token along; reading again shows it.
            if let Some(owner) = self.store.user(record.owner).await? {
                let (late, predecessor_late) = self.late_uses(&record).await?;
                let owner = owner.record;
                return Ok(TokenDetails { record, version, owner, history, late, predecessor_late });
            }
        }
    }

    /// Tokens by id, in the order asked for: all of them, each named once.
    pub(super) async fn find_tokens(
        &self,
        authority: &Authority,
        ids: &[TokenId],
    ) -> Result<Vec<Versioned<TokenRecord>>, RegistryError> {
        let (tokens, missing) = self.look_up_tokens(authority, ids).await?;
        match missing.is_empty() {
            true => Ok(tokens),
            false => Err(self.not_found(RegistryError::NoSuchTokens(missing)).await),
        }
    }

    /// Tokens by id, each named once, in the order asked for; and those ids that are of none that the actor may see.
    pub(super) async fn look_up_tokens(
        &self,
        authority: &Authority,
        ids: &[TokenId],
    ) -> Result<(Vec<Versioned<TokenRecord>>, Vec<TokenId>), RegistryError> {
        let mut seen = std::collections::HashSet::new();
        let repeated: Vec<_> = ids.iter().copied().filter(|id| !seen.insert(*id)).collect();
        if !repeated.is_empty() {
            return Err(RegistryError::RepeatedTokens(repeated));
        }
        let mut tokens = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for ids in ids.chunks(PAGE) {
            let found = self.store.tokens_by_id(ids).await?;
            for (id, token) in ids.iter().zip(found) {
                match token.filter(|token| authority.sees_tokens_of(token.record.owner)) {
                    Some(token) => tokens.push(token),
                    None => missing.push(*id),
                }
            }
        }
        Ok((tokens, missing))
    }
}

impl Registry {
    /// When a token that is made now expires, if this was asked for: no later than the policy has it.
    pub(super) fn bounded_expiry(
        &self,
        asked: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, RegistryError> {
        bounded_expiry(self.max_token_lifetime, asked, now)
    }
}

/// The same by this policy.
pub(super) fn bounded_expiry(
    lifetime: Option<Duration>,
    asked: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<Timestamp>, RegistryError> {
    let Some(lifetime) = lifetime else { return Ok(asked) };
    let latest = now.checked_add(lifetime).unwrap_or(Timestamp::MAX);
    match asked.filter(|asked| *asked > latest) {
        Some(_) => Err(RegistryError::LivesTooLong(whole_seconds(latest))),
        None => Ok(Some(asked.unwrap_or(latest))),
    }
}

pub(super) fn mint() -> Result<RawToken, RegistryError> {
    RawToken::generate().map_err(RegistryError::NoEntropy)
}

/// The record of a new token, made or imported. Of a rotated one the description is that of the one before, whatever is
/// asked of new ones by now.
pub(super) fn decide_token(
    authority: &Authority,
    owner: &UserRecord,
    new: &NewToken,
    digest: Digest,
    hint: String,
    now: Timestamp,
) -> Result<TokenRecord, RegistryError> {
    authority.check_gives_tokens_to(owner)?;
    if !owner.role.manages_tokens() {
        return Err(RegistryError::NoTokensForViewer(owner.name.clone()));
    }
    if owner.status == UserStatus::Disabled {
        return Err(RegistryError::UserDisabled(owner.name.clone()));
    }
    let expires_at = new.expires_at.map(whole_seconds);
    if let Some(expires_at) = expires_at.filter(|expires_at| *expires_at <= now) {
        return Err(RegistryError::AlreadyExpired(expires_at));
    }
    let permissions = clamp_request(&owner.name, owner.role, new.permissions)?;
    authority.check_makes(permissions, expires_at)?;
    Ok(TokenRecord {
        id: TokenId::generate(now),
        digest,
        owner: owner.id,
        description: new.description.clone(),
        permissions,
        state: TokenState::Active,
        hint,
        created_at: now,
        created_by: authority.name().to_owned(),
        expires_at,
        predecessor: None,
        successor: None,
    })
}

/// What was requested, clamped to what the role has.
fn clamp_request(name: &str, role: Role, requested: Requested) -> Result<PermissionSet, RegistryError> {
    let permitted = role.permissions();
    match requested {
        Requested::All => Ok(permitted),
        Requested::Permissions(requested) if requested.intersect(permitted).is_empty() => {
            Err(RegistryError::NothingPermitted { name: name.to_owned(), role, requested, permitted })
        }
        Requested::Permissions(requested) => Ok(requested.intersect(permitted)),
    }
}

/// Longest text in a record, such as a description, in characters.
const MAX_TEXT: usize = 200;

/// Whether a new token may be described so.
pub(super) fn check_description(description: &str) -> Result<(), RegistryError> {
    check_old_description(description)?;
    match is_readable(description) && !holds_bare_secret(description) {
        true => Ok(()),
        false => Err(RegistryError::InvalidDescription),
    }
}

/// Whether a token may be described so that comes with its past.
pub(super) fn check_old_description(description: &str) -> Result<(), RegistryError> {
    match !description.trim().is_empty() && is_plain(description) {
        true => Ok(()),
        false => Err(RegistryError::InvalidDescription),
    }
}

/// Whether somebody who reads a text sees what it is: a link needs a name, and lists are read line by line.
fn is_readable(text: &str) -> bool {
    /// More marks upon one letter than a language has.
    const PILE: usize = 5;
    let is_mark = |symbol: &char| {
        matches!(symbol, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}'
            | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
    };
    // They join and part letters and emoji in the middle of a text.
    let is_joiner = |symbol: &char| matches!(symbol, '\u{200c}' | '\u{200d}');
    let is_blank = |symbol: &char| {
        symbol.is_whitespace()
            || matches!(
                symbol,
                '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
            )
    };
    let symbols: Vec<_> = text.chars().collect();
    symbols.iter().all(|symbol| words::is_plain(*symbol) || is_joiner(symbol))
        && symbols.iter().any(|symbol| !is_blank(symbol) && !is_joiner(symbol) && !is_mark(symbol))
        && !symbols.windows(PILE).any(|pile| pile.iter().all(is_mark))
}

/// A token's value without its prefix.
fn holds_bare_secret(text: &str) -> bool {
    text.split(|symbol: char| !symbol.is_ascii_hexdigit()).any(|digits| digits.len() >= SECRET_DIGITS)
}

/// Whether a text may be in a record: not too long, and nothing in it that a terminal would obey or that is a token.
pub(super) fn is_plain(text: &str) -> bool {
    // A hint such as `tc-apiv1_...abc123` may be there, a token may not.
    let is_secret = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric());
    text.chars().count() <= MAX_TEXT
        && !text.chars().any(char::is_control)
        && !text.to_ascii_lowercase().split(PREFIX).skip(1).any(is_secret)
}

pub(super) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
