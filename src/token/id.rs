//! Ids of tokens and users: 64 bits, ordered by the time of creation, written as 13 characters.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random;
use crate::words::as_text;

/// Crockford's base 32 in lower case: no `i`, `l`, `o`, `u`, so an id survives being read aloud.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters of an id: 64 bits at 5 bits each, rounded up.
const LENGTH: usize = 13;

/// Low bits that are random; the 42 bits above them are milliseconds since 1970 (enough until the year 2109).
const RANDOM_BITS: u32 = 22;

/// A text that is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 13 characters of 0-9 and a-z without i, l, o and u")]
pub struct InvalidId;

/// The next id: after every id this process made before, and after all that others made in earlier milliseconds.
///
/// Two processes can meet in the same millisecond with a chance of one in four million; the store refuses the second
/// record of an id, so the price is a retry.
fn next(now_millis: u64) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    // Without entropy the id is still unique within this process, and the store refuses a duplicate.
    let candidate = (now_millis << RANDOM_BITS) | (random::number() & ((1 << RANDOM_BITS) - 1));
    let advance = |last: u64| candidate.max(last + 1);
    match LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(advance(last))) {
        Ok(last) | Err(last) => advance(last),
    }
}

fn encode(id: u64) -> [u8; LENGTH] {
    let mut text = [b'0'; LENGTH];
    let mut rest = id;
    for place in text.iter_mut().rev() {
        *place = BASE32[(rest & 31) as usize];
        rest >>= 5;
    }
    text
}

fn decode(text: &[u8]) -> Option<u64> {
    if text.len() != LENGTH {
        return None;
    }
    let mut id: u64 = 0;
    for byte in text {
        let digit = BASE32.iter().position(|symbol| symbol == byte)? as u64;
        if id >> 59 != 0 {
            return None; // more than 64 bits
        }
        id = (id << 5) | digit;
    }
    Some(id)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            /// A new id, later than every other one that this process made.
            pub fn generate(now: jiff::Timestamp) -> Self {
                Self(next(u64::try_from(now.as_millisecond()).unwrap_or(0)))
            }

            /// The id as a number, for encodings and keys. It orders by creation.
            pub const fn to_u64(self) -> u64 {
                self.0
            }

            /// The inverse of [`Self::to_u64`].
            pub const fn from_u64(id: u64) -> Self {
                Self(id)
            }

            /// The 13 characters, without allocating.
            pub fn to_ascii(self) -> [u8; 13] {
                encode(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(std::str::from_utf8(&self.to_ascii()).map_err(|_| fmt::Error)?)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                decode(text.as_bytes()).map(Self).ok_or(InvalidId)
            }
        }

        as_text!($name);
    };
}

id_type! {
    /// Names one token for as long as the registry lives; never reused.
    TokenId
}

impl TokenId {
    /// Whether it was made in an earlier millisecond than this one.
    #[must_use]
    pub fn made_before(self, then: jiff::Timestamp) -> bool {
        self < Self::first_of(then)
    }

    /// The least that could be made in this millisecond: all made before it are smaller.
    pub(crate) fn first_of(then: jiff::Timestamp) -> Self {
        let millis = u64::try_from(then.as_millisecond()).unwrap_or(0);
        Self(millis.min(u64::MAX >> RANDOM_BITS) << RANDOM_BITS)
    }
}

id_type! {
    /// Names one user for as long as the registry lives; never reused.
    UserId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_thirteen_characters_and_come_back() {
        for id in [0, 1, 31, 32, u64::MAX, 0x0123_4567_89ab_cdef] {
            let text = TokenId::from_u64(id).to_string();
            assert_eq!(text.len(), 13);
            assert_eq!(text.parse::<TokenId>(), Ok(TokenId::from_u64(id)));
        }
    }

    #[test]
    fn texts_that_are_no_ids_are_refused() {
        for text in ["", "0", "00000000000000", "zzzzzzzzzzzzz", "000000000000i", "000000000000A", "00000000000é"] {
            assert_eq!(text.parse::<TokenId>(), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn generated_ids_grow_even_when_the_clock_stands_still() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let ids: Vec<_> = (0..1000).map(|_| TokenId::generate(now)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
