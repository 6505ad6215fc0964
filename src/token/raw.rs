//! The secret itself, and the only form of it that is stored: its SHA-256.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::id::BASE32;
use crate::hex;
use crate::random::{self, NoEntropy};
use crate::words::as_text;

/// What every API token of Telegraf Controller starts with.
pub const PREFIX: &str = "tc-apiv1_";

/// Longest raw token accepted, in bytes. The Controller's own are well under 100.
pub const MAX_LENGTH: usize = 512;

/// Last characters of a raw token that may be shown.
pub const HINT_LENGTH: usize = 6;

/// A raw token: `tc-apiv1_` and a secret. It zeroes itself, and prints as its hint.
///
/// It is stored nowhere: it lives from where it is created or read to where its [`Digest`] is taken.
#[derive(Clone)]
pub struct RawToken(Zeroizing<String>);

/// Why a text is not a raw token. Names no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Another prefix, or no secret after it.
    #[error("a token starts with `tc-apiv1_` and has a secret after it")]
    Prefix,
    /// White space, control characters or non-ASCII.
    #[error("a token has only visible ASCII characters")]
    Characters,
    /// Longer than [`MAX_LENGTH`].
    #[error("a token has at most 512 characters")]
    Length,
}

impl RawToken {
    /// A new token with 256 random bits from the operating system.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, NoEntropy> {
        let mut secret = Zeroizing::new([0u8; 32]);
        random::fill(secret.as_mut_slice())?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 52));
        text.push_str(PREFIX);
        let (mut bits, mut held) = (0u32, 0u32);
        for byte in secret.iter() {
            bits = (bits << 8) | u32::from(*byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                text.push(char::from(BASE32[((bits >> held) & 31) as usize]));
            }
        }
        text.push(char::from(BASE32[((bits << (5 - held)) & 31) as usize]));
        Ok(Self(text))
    }

    /// The token as its holder sends it. For the one who just created it, and for no log.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The SHA-256 of the whole token.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// The last six characters: enough to recognise a token by, too few to use it. Of a secret so short that they
    /// would be a good part of it, fewer.
    pub fn hint(&self) -> String {
        let secret = &self.0[PREFIX.len()..];
        let shown = HINT_LENGTH.min(secret.len() / 4);
        secret[secret.len() - shown..].to_owned()
    }
}

impl FromStr for RawToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        match text.strip_prefix(PREFIX) {
            None | Some("") => Err(InvalidToken::Prefix),
            Some(_) if text.len() > MAX_LENGTH => Err(InvalidToken::Length),
            Some(secret) if !secret.bytes().all(|byte| byte.is_ascii_graphic()) => Err(InvalidToken::Characters),
            Some(_) => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }
}

impl fmt::Debug for RawToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}...{}", self.hint())
    }
}

impl<'de> Deserialize<'de> for RawToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// SHA-256 of a whole raw token, prefix included: the only form at rest and in memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits (SHA-256 of the whole token)")]
pub struct InvalidDigest;

impl Digest {
    /// Takes the digest of a token as it is in a request, without copying it.
    pub fn of(token: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(token);
        let digest = hasher.finalize_reset();
        // The last block that it held was the token, and would stay on the stack.
        hasher.update([0; 63]);
        std::hint::black_box(&hasher);
        Self(digest.into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest read back from the store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::hash::Hash for Digest {
    /// One word of the digest: SHA-256 output is uniform already, and nobody can choose it.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::Hex(&self.0).fmt(f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let text: &[u8; 64] = text.as_bytes().try_into().map_err(|_| InvalidDigest)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(InvalidDigest) };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

as_text!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_carries_256_bits_and_parses() {
        let (a, b) = (RawToken::generate().expect("entropy"), RawToken::generate().expect("entropy"));
        assert_eq!(a.reveal().len(), PREFIX.len() + 52); // 256 / 5, rounded up
        assert_ne!(a.reveal(), b.reveal());
        assert_eq!(a.reveal().parse::<RawToken>().expect("parses").digest(), a.digest());
    }

    #[test]
    fn debug_shows_only_the_hint() {
        let token: RawToken = "tc-apiv1_0123456789012345678901abc123".parse().expect("valid");
        assert_eq!(format!("{token:?}"), "tc-apiv1_...abc123");
    }

    #[test]
    fn a_short_secret_is_not_given_away_by_its_hint() {
        let token: RawToken = "tc-apiv1_secret".parse().expect("valid");
        assert_eq!(format!("{token:?}"), "tc-apiv1_...t");
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let parse = |text: &str| text.parse::<RawToken>().map(|_| ()).expect_err("refused");
        assert_eq!(parse(""), InvalidToken::Prefix);
        assert_eq!(parse("tc-apiv1_"), InvalidToken::Prefix);
        assert_eq!(parse("TC-APIV1_abc"), InvalidToken::Prefix);
        assert_eq!(parse("tc-apiv1_a b"), InvalidToken::Characters);
        assert_eq!(parse("tc-apiv1_é"), InvalidToken::Characters);
        assert_eq!(parse(&format!("tc-apiv1_{}", "x".repeat(600))), InvalidToken::Length);
    }

    #[test]
    fn digest_is_the_sha256_of_the_whole_token() {
        // printf 'tc-apiv1_test' | sha256sum
        let expected = "c7351bfd4cb4fcf89dcc48c191238358c3fe9014a3353aa99728af41b1f682d5";
        assert_eq!(Digest::of(b"tc-apiv1_test").to_string(), expected);
        assert_eq!(expected.parse(), Ok(Digest::of(b"tc-apiv1_test")));
    }

    #[test]
    fn texts_that_are_no_digests_are_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }
}
