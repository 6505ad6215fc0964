//! What comes of each line, by the rules for making tokens and by what the store holds.

use std::time::Duration;

use jiff::Timestamp;

use super::super::RegistryError;
use super::super::actor::{Authority, Right};
use super::super::tokens::{
    NewToken, bounded_expiry, check_description, check_old_description, decide_token, whole_seconds,
};
use super::line::ImportLine;
use super::past::Past;
use super::{Held, ImportOptions, Users};
use crate::store::Versioned;
use crate::token::{PermissionSet, TokenRecord, UserRecord};

/// What comes of a line.
pub(super) enum Decision<'a> {
    /// This token, of this user.
    Import(&'a Versioned<UserRecord>, Box<TokenRecord>),
    /// It exists.
    Skip {
        /// As something else than the line says.
        differs: bool,
    },
}

/// What decisions rest on.
pub(super) struct Existing<'a> {
    pub(super) authority: &'a Authority,
    pub(super) users: &'a Users,
    pub(super) held: &'a Held,
    pub(super) lifetime: Option<Duration>,
    pub(super) now: Timestamp,
}

impl Existing<'_> {
    pub(super) fn decide(&self, line: &ImportLine, options: ImportOptions) -> Result<Decision<'_>, RegistryError> {
        self.authority.check_makes_tokens_for(&line.user)?;
        let owner = self.users.get(&*line.user);
        if let Some(token) = self.held.tokens.get(&line.digest) {
            return match options.skip_existing {
                _ if !self.authority.sees_tokens_of(token.owner) => Err(RegistryError::DigestHidden(line.digest)),
                false => Err(RegistryError::DigestTaken(line.digest)),
                // That all tokens of an input are there and can be used would not be true.
                true if token.is_active() && line.is_revoked() => {
                    Err(RegistryError::RevokedElsewhere { token: token.id })
                }
                true if !token.is_active() && !line.is_revoked() => {
                    Err(RegistryError::DigestRevoked { token: token.id })
                }
                true => Ok(Decision::Skip { differs: owner.is_none_or(|owner| differs(token, line, &owner.record)) }),
            };
        }
        let owner = owner.ok_or_else(|| RegistryError::NoSuchUser(line.user.to_string()))?;
        if self.held.retired.contains(&line.digest) {
            return Err(self.authority.not_telling(RegistryError::DigestRetired(line.digest)));
        }
        let record = match &line.past {
            Some(past) => self.restore(line, past, &owner.record)?,
            None => {
                let hint = line.hint.to_string();
                let expires_at = bounded_expiry(self.lifetime, line.expires_at, self.now)?;
                let new = NewToken { expires_at, ..line.new_token() };
                check_description(&new.description)?;
                decide_token(self.authority, &owner.record, &new, line.digest, hint, self.now)?
            }
        };
        Ok(Decision::Import(owner, Box::new(record)))
    }

    /// The record of a token that comes with its past. It may have expired, or be a Viewer's or a disabled user's: that
    /// was allowed where it comes from, and gives nobody more. What it can do is what its owner's role permits here.
    fn restore(&self, line: &ImportLine, past: &Past, owner: &UserRecord) -> Result<TokenRecord, RegistryError> {
        self.authority.check(Right::MoveTokens)?;
        self.authority.check_gives_tokens_to(owner)?;
        check_old_description(&line.description)?;
        if self.held.ids.contains(&past.id) {
            return Err(RegistryError::IdTaken(past.id));
        }
        let expires_at = bounded_expiry(self.lifetime, line.expires_at, self.now)?.map(whole_seconds);
        let permissions = permissions(line, owner);
        self.authority.check_makes(permissions, expires_at)?;
        let told = past.told().map_err(RegistryError::PastUnread)?.into_owned();
        Ok(TokenRecord {
            id: past.id,
            digest: line.digest,
            owner: owner.id,
            description: line.description.to_string(),
            permissions,
            state: told.state,
            hint: line.hint.to_string(),
            created_at: told.created_at,
            created_by: told.created_by,
            expires_at,
            predecessor: told.predecessor,
            successor: told.successor,
        })
    }
}

/// What a line's token will permit. One that is revoked permits nothing, and its record stays as it was.
fn permissions(line: &ImportLine, owner: &UserRecord) -> PermissionSet {
    if line.is_revoked() { line.permissions } else { line.permissions.intersect(owner.role.permissions()) }
}

/// Whether a token is something else than it would be if the line were imported.
fn differs(token: &TokenRecord, line: &ImportLine, owner: &UserRecord) -> bool {
    token.owner != owner.id
        || *token.description != *line.description
        || token.permissions != permissions(line, owner)
        || token.expires_at != line.expires_at.map(whole_seconds)
}
