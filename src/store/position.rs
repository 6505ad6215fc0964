//! What a commit is, and the position of a store.
//!
//! A [`CommitId`] is an identity, a [`Revision`] is an order within one history: a store that lost its last writes gives
//! revisions out again, ids never. The [`Head`] is chained over the ids, so that two stores with the same head have the
//! same past.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::Digest as _;

use crate::random::{self, NoEntropy};

/// Counts committed batches: +1 with each. Revisions of different [`Epoch`]s cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a store: a random number drawn when it is created. Another epoch means that nothing known of revisions
/// holds any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits")]
pub struct NotHex;

macro_rules! word {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten().ok_or(NotHex)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

word! {
    /// What a commit is: 128 bits that nobody drew before. The version of every record that the commit wrote.
    CommitId
}

word! {
    /// The past of a store, in 128 bits: a hash of the head before and of the id of the commit that led here.
    Head
}

impl CommitId {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn random() -> Result<Self, NoEntropy> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }
}

impl Head {
    /// Of a store that nothing was committed to.
    pub const START: Self = Self(0);

    /// The head after a commit: the first 128 bits of the SHA-1 over both in hexadecimal. SHA-1 because it is the hash
    /// that a script in Redis has; nobody who could choose a commit's id would gain by choosing it.
    #[must_use]
    pub fn then(self, id: CommitId) -> Self {
        let hash: [u8; 20] = sha1::Sha1::digest(format!("{self}{id}")).into();
        let [head @ .., _, _, _, _] = hash;
        Self(u128::from_be_bytes(head))
    }

    /// Of a store of the layout before this one, which chained none: the best that it shows of its past.
    #[must_use]
    pub fn unchained(revision: Revision, checksum: u64) -> Self {
        Self(u128::from(revision.0) << 64 | u128::from(checksum))
    }
}

/// The position of a store or a replica. Two with the same head must have the same checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which life of the store.
    pub epoch: Epoch,
    /// How many batches it has committed.
    pub revision: Revision,
    /// Which batches.
    pub head: Head,
    /// XOR of [`Grant::fingerprint`](crate::token::Grant::fingerprint) over every active token and
    /// [`Owner::fingerprint`](crate::token::Owner::fingerprint) over every user.
    pub checksum: u64,
}

/// Which commit wrote something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    /// What the commit is. The zero one is that of a commit of the layout before, which is not known.
    pub id: CommitId,
    /// Its place in its history.
    pub revision: Revision,
}

/// A batch that was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// What the commit is: the version of every record that it wrote.
    pub id: CommitId,
    /// The store's position right after it.
    pub position: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_heads_come_back_from_their_text() {
        let id = CommitId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1", "+123456789abcdef0011223344556677", "0123456789abcdef001122334455667700"] {
            assert_eq!(text.parse::<Head>(), Err(NotHex), "{text}");
        }
        assert_ne!(CommitId::random().expect("random"), CommitId::random().expect("random"));
    }

    #[test]
    fn heads_tell_the_ids_and_their_order() {
        let (one, two) = (CommitId(1), CommitId(2));
        assert_ne!(Head::START.then(one).then(two), Head::START.then(two).then(one));
        // As redis.sha1hex has it: part of the stored format.
        assert_eq!(Head::START.then(one).to_string(), SHA1_OF_ONE);
    }

    /// `printf '%032x%032x' 0 1 | sha1sum | cut -c 1-32`.
    const SHA1_OF_ONE: &str = "b87b993ad8567374cd9d41baffa01be9";
}
