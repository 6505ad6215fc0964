//! The secret itself, and the only form of it that is stored: its SHA-256.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::hex;
use crate::random::{self, NoEntropy};
use crate::words::as_text;

/// What every API token of Telegraf Controller starts with.
pub const PREFIX: &str = "tc-apiv1_";

/// Longest raw token accepted, in bytes. The Controller's own are well under 100.
pub const MAX_LENGTH: usize = 512;

/// Digits after the prefix of the tokens that are made here: 256 bits. No other form can be given to the Controller, which
/// takes values from outside since its version 1.2.
pub const SECRET_DIGITS: usize = 64;

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

/// Why a text is not a value for a new token. Names no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Another prefix.
    #[error("it does not start with `tc-apiv1_`; {FORM}")]
    Prefix,
    /// Hexadecimal digits in capitals.
    #[error("it has capital letters; {FORM}")]
    Capitals,
    /// Something else than digits.
    #[error("it has something else than hexadecimal digits after the prefix; {FORM}")]
    Characters,
    /// Too few digits, or too many.
    #[error("it has {0} digits after the prefix; {FORM}")]
    Length(usize),
}

const FORM: &str = "a token's value is `tc-apiv1_` and 64 lowercase hexadecimal digits (`openssl rand -hex 32`)";

impl RawToken {
    /// A new token with 256 random bits from the operating system, in the form that the Controller takes too.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, NoEntropy> {
        let mut secret = Zeroizing::new([0u8; SECRET_DIGITS / 2]);
        random::fill(secret.as_mut_slice())?;
        // Long enough from the start: growing would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + SECRET_DIGITS));
        text.push_str(PREFIX);
        text.extend(secret.iter().flat_map(|byte| hex::digits(*byte)).map(char::from));
        Ok(Self(text))
    }

    /// A value that somebody brings for a new token: of the one form that the Controller takes too.
    ///
    /// # Errors
    /// In what it differs from that form.
    pub fn brought(text: &str) -> Result<Self, InvalidValue> {
        let secret = text.strip_prefix(PREFIX).ok_or(InvalidValue::Prefix)?;
        let is_digit = |symbol: char| matches!(symbol, '0'..='9' | 'a'..='f');
        match secret.chars().count() {
            _ if secret.chars().any(|symbol| symbol.is_ascii_uppercase() && symbol.is_ascii_hexdigit()) => {
                Err(InvalidValue::Capitals)
            }
            _ if !secret.chars().all(is_digit) => Err(InvalidValue::Characters),
            SECRET_DIGITS => Ok(Self(Zeroizing::new(text.to_owned()))),
            digits => Err(InvalidValue::Length(digits)),
        }
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
        assert_ne!(a.reveal(), b.reveal());
        for token in [&a, &b] {
            let secret = token.reveal().strip_prefix(PREFIX).expect("the prefix");
            assert!(
                secret.len() == 64 && secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
                "{token:?}"
            );
            assert_eq!(RawToken::brought(token.reveal()).expect("the same form").digest(), token.digest());
        }
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
    fn a_value_of_ones_own_has_the_one_form_or_the_reason_is_said_without_it() {
        let brought = |text: &str| RawToken::brought(text).map(|_| ()).expect_err("refused");
        let digits = "0123456789abcdef".repeat(4);
        assert!(RawToken::brought(&format!("tc-apiv1_{digits}")).is_ok());
        for (text, reason) in [
            (String::new(), InvalidValue::Prefix),
            (digits.clone(), InvalidValue::Prefix),
            (format!("TC-APIV1_{digits}"), InvalidValue::Prefix),
            ("tc-apiv1_".to_owned(), InvalidValue::Length(0)),
            (format!("tc-apiv1_{}", &digits[1..]), InvalidValue::Length(63)),
            (format!("tc-apiv1_{digits}0"), InvalidValue::Length(65)),
            (format!("tc-apiv1_{}", digits.to_uppercase()), InvalidValue::Capitals),
            (format!("tc-apiv1_{}g", &digits[1..]), InvalidValue::Characters),
            (format!("tc-apiv1_{} ", &digits[1..]), InvalidValue::Characters),
            (format!("tc-apiv1_{digits}\n"), InvalidValue::Characters),
            (format!("tc-apiv1_{}é", &digits[2..]), InvalidValue::Characters),
        ] {
            assert_eq!(brought(&text), reason, "{text}");
            assert!(!brought(&text).to_string().contains("abcdef"), "{text}");
        }
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
