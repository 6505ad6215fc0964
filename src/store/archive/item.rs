//! What a registry consists of, and how it is written in a backup: one JSON object a line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{Agent, AuditLine, CommitId, Revision};
use crate::token::{Digest, HistoryEntry, TokenId, TokenRecord, UserId, UserRecord};

/// One thing that a registry holds, or that it turned out not to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A user.
    User(UserItem),
    /// A token, by its digest.
    Token(TokenItem),
    /// The digest of a token that was deleted.
    Retired(Retired),
    /// The digest of a token whose revocation the store lost, and that sidecars recalled.
    Recalled(Digest),
    /// How a token was used. In several pieces, where many agents used it.
    Usage(UsageItem),
    /// Since when the use of tokens is recorded.
    UsageSince(Timestamp),
    /// A line of the audit trail, in the order of their numbers. One that is no text comes as what is left of it.
    Audit {
        /// Its number.
        seq: u64,
        /// It.
        line: String,
    },
    /// All entries of the audit trail that are no lines yet, in the place of those that came before.
    AuditLoose(Vec<String>),
    /// The user that came before is no more, or comes again as another one.
    NoUser(UserId),
    /// The token that came before is no more, or comes again as another one.
    NoToken(TokenId),
}

impl Item {
    /// The user, if it is one.
    pub(in crate::store) fn as_user(&self) -> Option<&UserItem> {
        if let Self::User(user) = self { Some(user) } else { None }
    }

    /// The token, if it is one.
    pub(in crate::store) fn as_token(&self) -> Option<&TokenItem> {
        if let Self::Token(token) = self { Some(token) } else { None }
    }
}

/// A user, with what commands and replicas need besides the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserItem {
    /// Name, role, status.
    pub record: UserRecord,
    /// The commit that wrote it.
    pub version: CommitId,
    /// The revision of that.
    pub revision: Revision,
    /// The commit through which a token came to the user last.
    pub token_set: Option<CommitId>,
}

/// A token, with its history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenItem {
    /// Digest, owner, permissions, state, expiry.
    pub record: TokenRecord,
    /// The commit that wrote it.
    pub version: CommitId,
    /// What happened to it, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// How a token was used, with some of its agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageItem {
    /// Which.
    pub token: TokenId,
    /// When it was last, by the store's clock.
    pub last_used: Timestamp,
    /// Which agents are not there, see [`Levels`](crate::store::usage::Levels).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub levels: String,
    /// By whom.
    pub agents: Vec<Agent>,
}

/// The digest of a token that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// It.
    pub digest: Digest,
    /// How many seconds ago that was, as far as the store knows.
    pub age: u64,
}

impl Item {
    /// A line of the audit trail.
    pub(in crate::store) fn of_audit(line: &AuditLine) -> Self {
        Self::Audit { seq: line.seq, line: text(&line.text) }
    }

    /// Entries of the audit trail that are no lines yet.
    pub(in crate::store) fn of_loose(entries: &[Vec<u8>]) -> Self {
        Self::AuditLoose(entries.iter().map(|entry| text(entry)).collect())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
