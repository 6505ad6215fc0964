//! What a replica knows: of each usable token its [`Grant`], of each user the [`Owner`].
//!
//! The owner's role and status are beside the grants, not in them: disabling a user, or changing a role, is one
//! change for all of that user's tokens at once, however many there are.

use super::{Digest, PermissionSet, Role, TokenId, UserId};

/// What the replica knows of a usable token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub token: TokenId,
    /// Whose role bounds it, and whose being disabled suspends it.
    pub owner: UserId,
    /// What it permits, before its owner's role is applied.
    pub permissions: PermissionSet,
    /// The second, since 1970, from which it is refused.
    pub expires_at: Option<i64>,
}

/// What the replica knows of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name.
    pub name: String,
    /// The role, which bounds what the user's tokens permit.
    pub role: Role,
    /// Whether the user's tokens authenticate.
    pub enabled: bool,
}

/// Bytes that are not a [`Grant`] or an [`Owner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged {0}")]
pub struct Damaged(pub &'static str);

/// Means "never expires" in the encoding.
const NEVER: i64 = i64::MAX;

impl Grant {
    /// Length of the encoding, in bytes.
    pub const ENCODED: usize = 40;

    /// Its length while permissions had 64 bits.
    pub const SHORT: usize = 32;

    /// Five 64-bit little-endian words: token, owner, permissions, expiry, and the upper half of the permissions.
    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let [low, high] = self.permissions.words();
        let expires_at = self.expires_at.unwrap_or(NEVER).cast_unsigned();
        let words = [self.token.to_u64(), self.owner.to_u64(), low, expires_at, high];
        let mut bytes = [0; Self::ENCODED];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Grant::encode`]. Without the last word, permissions have no upper half.
    ///
    /// # Errors
    /// [`Damaged`] when the length is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        if !matches!(bytes.len(), Self::ENCODED | Self::SHORT) {
            return Err(Damaged("grant"));
        }
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            u64::from_le_bytes(value)
        });
        let mut next = || words.next().ok_or(Damaged("grant"));
        let (token, owner, low, expires_at) = (next()?, next()?, next()?, next()?.cast_signed());
        let high = next().unwrap_or_default();
        Ok(Self {
            token: TokenId::from_u64(token),
            owner: UserId::from_u64(owner),
            permissions: PermissionSet::from_words([low, high]),
            expires_at: (expires_at != NEVER).then_some(expires_at),
        })
    }

    /// This grant's part of the checksum, under its digest.
    pub fn fingerprint(&self, digest: &Digest) -> u64 {
        // Half of the digest distinguishes tokens as well as all of it, and leaves SHA-256 with one block instead of two:
        // this is done for every token of a snapshot or a bulk command.
        // An upper half that is empty is left out, so that the checksums of before it was there hold on.
        let encoded = self.encode();
        let length = if self.permissions.words()[1] == 0 { Self::SHORT } else { Self::ENCODED };
        fingerprint(&[b"g", &digest.as_bytes()[..16], &encoded[..length]])
    }
}

impl Owner {
    /// Role, status, name.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.role as u8, u8::from(self.enabled)];
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    /// The inverse of [`Owner::encode`].
    ///
    /// # Errors
    /// [`Damaged`] for an unknown role or status, or a name that is not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let [role, enabled, name @ ..] = bytes else { return Err(Damaged("user")) };
        let role = Role::ALL.into_iter().find(|known| *known as u8 == *role).ok_or(Damaged("user"))?;
        let enabled = match enabled {
            0 => false,
            1 => true,
            _ => return Err(Damaged("user")),
        };
        let name = std::str::from_utf8(name).map_err(|_| Damaged("user"))?.to_owned();
        Ok(Self { name, role, enabled })
    }

    /// This owner's part of the checksum, under its id.
    pub fn fingerprint(&self, id: UserId) -> u64 {
        fingerprint(&[b"u", &id.to_u64().to_le_bytes(), &self.encode()])
    }
}

/// 64 bits of the SHA-256 over the parts. Only its being equal on both sides counts, and that no two entries share one
/// by construction; part of the stored format.
fn fingerprint(parts: &[&[u8]]) -> u64 {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_and_owners_come_back_from_their_encodings() {
        for expires_at in [None, Some(0), Some(-1), Some(4_000_000_000)] {
            let grant = Grant {
                token: TokenId::from_u64(7),
                owner: UserId::from_u64(u64::MAX),
                permissions: PermissionSet::TELEGRAF_AGENT,
                expires_at,
            };
            assert_eq!(Grant::decode(&grant.encode()), Ok(grant));
            assert_eq!(Grant::decode(&grant.encode()[..Grant::SHORT]), Ok(grant), "as it was before");
        }
        let owner = Owner { name: "anna".to_owned(), role: Role::Manager, enabled: false };
        assert_eq!(Owner::decode(&owner.encode()), Ok(owner));
    }

    #[test]
    fn damaged_encodings_are_refused() {
        assert!(Grant::decode(&[0; 31]).is_err());
        assert!(Grant::decode(&[0; 33]).is_err());
        assert!(Grant::decode(&[0; 41]).is_err());
        assert!(Owner::decode(&[]).is_err());
        assert!(Owner::decode(&[9, 1, b'a']).is_err());
        assert!(Owner::decode(&[1, 2, b'a']).is_err());
        assert!(Owner::decode(&[1, 1, 0xff]).is_err());
    }
}
