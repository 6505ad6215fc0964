//! The change log's entries, and their encoding: the same bytes in every store and on every channel.

use super::{CommitId, Committed, Epoch, Head, Position, Revision, Stamp};
use crate::token::grant::Damaged;
use crate::token::{Digest, Grant, Owner, UserId};

/// One thing that replicas must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A token is usable, with this grant from now on.
    PutGrant(Digest, Grant),
    /// A token was revoked or deleted: it will never be usable again.
    RemoveGrant(Digest),
    /// A user is new, or has another role or status.
    PutOwner(UserId, Owner),
    /// A user was deleted.
    RemoveOwner(UserId),
}

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The token with this digest.
    Token(Digest),
    /// The user with this id.
    User(UserId),
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::PutGrant(digest, _) | Self::RemoveGrant(digest) => Subject::Token(*digest),
            Self::PutOwner(id, _) | Self::RemoveOwner(id) => Subject::User(*id),
        }
    }
}

/// What one batch changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// What the commit is. The zero id is that of a commit of the layout before, which is not known.
    pub id: CommitId,
    /// The revision that the batch became.
    pub revision: Revision,
    /// The store's head after it.
    pub head: Head,
    /// The store's checksum after it.
    pub checksum: u64,
    /// What replicas must know of it; may be empty.
    pub changes: Vec<Change>,
}

impl LogEntry {
    /// The commit.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { id: self.id, revision: self.revision }
    }

    /// The store's position right after it.
    #[must_use]
    pub fn committed(&self, epoch: Epoch) -> Committed {
        let Self { id, revision, head, checksum, .. } = *self;
        Committed { id, position: Position { epoch, revision, head, checksum } }
    }

    /// Whether it is the next one after this head and revision: nothing is missing, and it is of the same history.
    #[must_use]
    pub fn follows(&self, head: Head, revision: Revision) -> bool {
        let is_chained = self.id != CommitId::default();
        self.revision.0.checked_sub(1) == Some(revision.0) && (!is_chained || self.head == head.then(self.id))
    }
}

/// As the layout before this one had it: permissions of 64 bits.
const PUT_SHORT_GRANT: u8 = 1;
const REMOVE_GRANT: u8 = 2;
const PUT_OWNER: u8 = 3;
const REMOVE_OWNER: u8 = 4;
const PUT_GRANT: u8 = 5;

/// Changes as bytes: a tag each, then fixed-length fields; an owner with its length before it.
#[must_use]
pub(crate) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(changes.len() * (1 + 32 + Grant::ENCODED));
    for change in changes {
        match change {
            Change::PutGrant(digest, grant) => {
                bytes.push(PUT_GRANT);
                bytes.extend_from_slice(digest.as_bytes());
                bytes.extend_from_slice(&grant.encode());
            }
            Change::RemoveGrant(digest) => {
                bytes.push(REMOVE_GRANT);
                bytes.extend_from_slice(digest.as_bytes());
            }
            Change::PutOwner(id, owner) => {
                let owner = owner.encode();
                bytes.push(PUT_OWNER);
                bytes.extend_from_slice(&id.to_u64().to_le_bytes());
                // A name has at most 64 bytes, so the length always fits.
                bytes.extend_from_slice(&u16::try_from(owner.len()).unwrap_or(u16::MAX).to_le_bytes());
                bytes.extend_from_slice(&owner);
            }
            Change::RemoveOwner(id) => {
                bytes.push(REMOVE_OWNER);
                bytes.extend_from_slice(&id.to_u64().to_le_bytes());
            }
        }
    }
    bytes
}

/// The inverse of [`encode`].
///
/// # Errors
/// [`Damaged`] when the bytes are cut short or hold what no version of this program wrote.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Vec<Change>, Damaged> {
    let mut changes = Vec::with_capacity(bytes.len() / (1 + 32 + Grant::ENCODED) + 1);
    while let [tag, rest @ ..] = bytes {
        bytes = rest;
        changes.push(match *tag {
            PUT_SHORT_GRANT => {
                let digest = Digest::from_bytes(take(&mut bytes)?);
                Change::PutGrant(digest, Grant::decode(&take::<{ Grant::SHORT }>(&mut bytes)?)?)
            }
            PUT_GRANT => {
                let digest = Digest::from_bytes(take(&mut bytes)?);
                Change::PutGrant(digest, Grant::decode(&take::<{ Grant::ENCODED }>(&mut bytes)?)?)
            }
            REMOVE_GRANT => Change::RemoveGrant(Digest::from_bytes(take(&mut bytes)?)),
            PUT_OWNER => {
                let id = UserId::from_u64(u64::from_le_bytes(take(&mut bytes)?));
                let length = usize::from(u16::from_le_bytes(take(&mut bytes)?));
                let (owner, rest) = bytes.split_at_checked(length).ok_or(Damaged("change"))?;
                bytes = rest;
                Change::PutOwner(id, Owner::decode(owner)?)
            }
            REMOVE_OWNER => Change::RemoveOwner(UserId::from_u64(u64::from_le_bytes(take(&mut bytes)?))),
            _ => return Err(Damaged("change")),
        });
    }
    Ok(changes)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Damaged> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(Damaged("change"))?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{PermissionSet, Role, TokenId};

    fn one_of_each() -> Vec<Change> {
        let grant = Grant {
            token: TokenId::from_u64(1),
            owner: UserId::from_u64(2),
            permissions: PermissionSet::TELEGRAF_AGENT,
            expires_at: Some(3),
        };
        let owner = Owner { name: "anna".to_owned(), role: Role::Owner, enabled: true };
        vec![
            Change::PutGrant(Digest::of(b"a"), grant),
            Change::RemoveGrant(Digest::of(b"b")),
            Change::PutOwner(UserId::from_u64(4), owner),
            Change::RemoveOwner(UserId::from_u64(5)),
        ]
    }

    #[test]
    fn changes_come_back_from_their_encoding() {
        assert_eq!(decode(&encode(&one_of_each())), Ok(one_of_each()));
        assert_eq!(decode(&[]), Ok(Vec::new()));
    }

    #[test]
    fn every_truncation_that_cuts_a_change_is_refused() {
        let bytes = encode(&one_of_each());
        let whole: Vec<usize> = (0..=4).map(|count| encode(&one_of_each()[..count]).len()).collect();
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]).is_ok(), whole.contains(&length), "{length}");
        }
    }
}
