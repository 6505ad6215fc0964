//! One entry of the grants table, packed so that a million of them stay small.

use std::hash::Hasher;
use std::sync::Arc;

use super::OwnerEntry;
use crate::token::{Digest, Grant, PermissionSet, TokenId};

/// What many grants have in common. There are as few of them as there are pairs of a user and a set of permissions.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) owner: Arc<OwnerEntry>,
    pub(super) permissions: PermissionSet,
}

/// What the table has under a digest. The expiry is no part of the terms: it may differ from token to token.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) token: TokenId,
    pub(super) terms: Arc<Terms>,
    /// The expiry in the upper 40 bits, signed; the [`Generation`] in the lower 24.
    packed: i64,
}

/// A million of these, at hashbrown's load, are 114 MiB.
const _: () = assert!(size_of::<(Digest, Entry)>() == 56);

impl Entry {
    /// `terms` are the grant's.
    pub(super) fn new(grant: &Grant, terms: Arc<Terms>, seen: Generation) -> Self {
        let expiry = grant.expires_at.map_or(NEVER, |at| at.clamp(EARLIEST, NEVER - 1));
        let packed = expiry << Generation::BITS | i64::from(seen.0);
        Self { token: grant.token, terms, packed }
    }

    /// The second, since 1970, from which the grant is refused.
    pub(super) fn expires_at(&self) -> Option<i64> {
        let expiry = self.packed >> Generation::BITS;
        (expiry != NEVER).then_some(expiry)
    }

    /// The snapshot, or a change after it, that this entry was last seen in.
    #[expect(clippy::cast_possible_truncation, reason = "the mask leaves 24 bits")]
    pub(super) fn seen(&self) -> Generation {
        Generation((self.packed.cast_unsigned() & u64::from(Generation::MASK)) as u32)
    }

    /// The grant again.
    pub(super) fn grant(&self) -> Grant {
        let Terms { owner, permissions } = &*self.terms;
        Grant { token: self.token, owner: owner.id, permissions: *permissions, expires_at: self.expires_at() }
    }

    /// Whether something that this entry let in may no longer be let in by `next`.
    pub(super) fn is_narrowed_by(&self, next: &Grant) -> bool {
        let end = |expires_at: Option<i64>| expires_at.unwrap_or(i64::MAX);
        !self.terms.permissions.is_subset_of(next.permissions)
            || self.terms.owner.id != next.owner
            || end(next.expires_at) < end(self.expires_at())
    }
}

/// Stands for "never expires". Years up to 9999 need 39 bits; what lies outside is held at the edge.
const NEVER: i64 = (1 << 39) - 1;

const EARLIEST: i64 = -(1 << 39);

/// Numbers the snapshots. It wraps after 16 million of them, long after the entries of an earlier one are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Generation(u32);

impl Generation {
    const BITS: u32 = 24;
    const MASK: u32 = (1 << Self::BITS) - 1;

    pub(super) const fn next(self) -> Self {
        Self((self.0 + 1) & Self::MASK)
    }
}

/// Passes on the word that a [`Digest`] hashes itself to: SHA-256 output needs no second hash.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    /// Not reached by a digest; folds the bytes so that any other key still works.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::UserId;

    fn packed(expires_at: Option<i64>, seen: Generation) -> Entry {
        let owner = Arc::new(OwnerEntry::unknown(UserId::from_u64(2)));
        let (id, permissions) = (owner.id, PermissionSet::TELEGRAF_AGENT);
        let grant = Grant { token: TokenId::from_u64(1), owner: id, permissions, expires_at };
        Entry::new(&grant, Arc::new(Terms { owner, permissions }), seen)
    }

    #[test]
    fn expiry_and_generation_share_a_word_without_touching_each_other() {
        let last = Generation(Generation::MASK);
        for seen in [Generation(0), Generation(1), last] {
            for expires_at in [None, Some(0), Some(-1), Some(1), Some(4_294_967_296), Some(253_402_300_799)] {
                let entry = packed(expires_at, seen);
                assert_eq!((entry.expires_at(), entry.seen()), (expires_at, seen));
                assert_eq!(entry.grant().expires_at, expires_at);
            }
        }
        assert_eq!(last.next(), Generation(0));
    }

    #[test]
    fn an_expiry_beyond_the_calendar_is_held_at_the_edge() {
        assert_eq!(packed(Some(i64::MAX - 1), Generation(0)).expires_at(), Some(NEVER - 1));
        assert_eq!(packed(Some(i64::MIN), Generation(0)).expires_at(), Some(EARLIEST));
    }

    #[test]
    fn less_permission_an_earlier_end_and_another_owner_narrow() {
        let entry = packed(Some(100), Generation(0));
        let same = entry.grant();
        assert!(!entry.is_narrowed_by(&same));
        assert!(!entry.is_narrowed_by(&Grant { permissions: PermissionSet::all(), ..same }));
        assert!(!entry.is_narrowed_by(&Grant { expires_at: None, ..same }));
        assert!(entry.is_narrowed_by(&Grant { permissions: PermissionSet::EMPTY, ..same }));
        assert!(entry.is_narrowed_by(&Grant { expires_at: Some(99), ..same }));
        assert!(entry.is_narrowed_by(&Grant { owner: UserId::from_u64(3), ..same }));
        assert!(packed(None, Generation(0)).is_narrowed_by(&same));
    }
}
