//! What the registry stores: users, tokens and what happened to each token.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Digest, Grant, Owner, PermissionSet, Role, TokenId, UserId};
use crate::words::words;

/// A token as the registry stores it. The raw token is not here, and nowhere else either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// SHA-256 of the raw token. At most one record has it.
    pub digest: Digest,
    /// Who it belongs to.
    pub owner: UserId,
    /// What people call it.
    pub description: String,
    /// What it permits, never more than its owner's role does.
    #[serde(with = "super::permission::at_rest")]
    pub permissions: PermissionSet,
    /// Active or revoked.
    pub state: TokenState,
    /// The last characters of the raw token; empty where only the digest was ever known.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it: a user's name, or `cli:<login name>`.
    pub created_by: String,
    /// When it stops working by itself; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// The token that was rotated to this one. It may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<TokenId>,
    /// The token that it was rotated to. It may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<TokenId>,
}

/// Where a token is in its life. It only ever moves from active to revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// Usable, unless expired or its owner is disabled.
    Active,
    /// Refused for good; the record is retained for the audit.
    Revoked {
        /// When.
        at: Timestamp,
        /// By whom.
        by: String,
    },
}

impl TokenRecord {
    /// Whether it was not revoked. An expired token is still active in this sense.
    pub fn is_active(&self) -> bool {
        self.state == TokenState::Active
    }

    /// Whether it is past its expiry. At the very second of it the token is already refused.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// What the replicas know of it: a grant while it is active, nothing afterwards.
    pub fn grant(&self) -> Option<Grant> {
        self.is_active().then(|| Grant {
            token: self.id,
            owner: self.owner,
            permissions: self.permissions,
            expires_at: self.expires_at.map(Timestamp::as_second),
        })
    }
}

/// A user as the registry stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its id.
    pub id: UserId,
    /// Its name, unique among users: 1 to 64 of `A-Z a-z 0-9 . _ @ + -`, so that a header can have it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Active or disabled.
    pub status: UserStatus,
    /// When it was made.
    pub created_at: Timestamp,
}

words! {
    /// Whether a user's tokens work.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum UserStatus {
        /// They do.
        Active = "active",
        /// They stay, but cannot authenticate until the user is enabled again.
        Disabled = "disabled",
    }
}

impl UserRecord {
    /// What the replicas know of the user.
    pub fn owner(&self) -> Owner {
        Owner { name: self.name.clone(), role: self.role, enabled: self.status == UserStatus::Active }
    }
}

/// Most entries of one token's history that a store has: the latest.
pub const MAX_HISTORY: usize = 100;

/// One line of a token's history. Gone when the token is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// Who: a user's name, or `cli:<login name>`.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub event: TokenEvent,
    /// Why, as whoever did it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_reason: Option<Reason>,
}

/// Why something was done, in an operator's words: one line of 1 to [`Reason::LONGEST`] characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Reason(String);

/// A text that is no [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write one line of 1 to {longest} characters, without control characters", longest = Reason::LONGEST)]
pub struct InvalidReason;

impl Reason {
    /// Characters that it may have.
    pub const LONGEST: usize = 200;

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidReason;

    fn try_from(text: String) -> Result<Self, InvalidReason> {
        let is_one = !text.trim().is_empty() && text.chars().count() <= Self::LONGEST;
        if is_one && !text.chars().any(char::is_control) { Ok(Self(text)) } else { Err(InvalidReason) }
    }
}

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        text.to_owned().try_into()
    }
}

/// What can happen to a token that stays on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum TokenEvent {
    /// Made here.
    Created,
    /// Brought from elsewhere.
    Imported,
    /// Given to another user (names).
    Reassigned {
        /// The owner before.
        from: String,
        /// The owner after.
        to: String,
    },
    /// Rotated: it ends, and this one takes its place.
    Rotated {
        /// Its successor.
        to: TokenId,
    },
    /// Lost these permissions, because its owner's role permits less.
    Narrowed {
        /// What it no longer permits.
        lost: PermissionSet,
    },
    /// Revoked, with the reason when it was not a command about this token itself.
    Revoked {
        /// Such as `role of anna changed to viewer`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}
