//! The first digits of a digest: by them logs and lists name it. Enough to find the token, and no help to anybody who wants it.

use std::fmt;
use std::str::FromStr;

use super::raw::Digest;

/// Digits that logs and lists have.
const SHOWN: usize = 12;

/// Fewest digits that are looked for.
const FEWEST: usize = 6;

/// Digits of a whole digest.
const ALL: usize = 64;

/// The first digits of a digest, in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestPrefix(String);

/// A text that is no [`DigestPrefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write the first {FEWEST} to {ALL} hexadecimal digits of the digest, such as the log's `digest`")]
pub struct InvalidDigestPrefix;

impl DigestPrefix {
    /// What logs and lists show of a digest.
    pub fn of(digest: &Digest) -> Self {
        let mut digits = digest.to_string();
        digits.truncate(SHOWN);
        Self(digits)
    }

    /// All digits of a digest.
    pub fn whole(digest: &Digest) -> Self {
        Self(digest.to_string())
    }

    /// The digest, if these are all of its digits.
    pub fn digest(&self) -> Option<Digest> {
        self.0.parse().ok()
    }

    /// Whether the digest begins with it.
    pub fn fits(&self, digest: &Digest) -> bool {
        digest.to_string().starts_with(&self.0)
    }
}

impl FromStr for DigestPrefix {
    type Err = InvalidDigestPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidDigestPrefix> {
        let is_one = (FEWEST..=ALL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| Self(text.to_ascii_lowercase())).ok_or(InvalidDigestPrefix)
    }
}

impl fmt::Display for DigestPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

crate::words::as_text!(DigestPrefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_begins_with_its_prefix_and_with_no_other() {
        let digest = Digest::of(b"tc-apiv1_a");
        let shown = DigestPrefix::of(&digest);
        assert_eq!(shown.to_string().len(), SHOWN);
        assert_eq!((shown.digest(), DigestPrefix::whole(&digest).digest()), (None, Some(digest)));
        assert!(shown.fits(&digest) && !shown.fits(&Digest::of(b"tc-apiv1_b")));
        for text in [digest.to_string(), digest.to_string()[..FEWEST].to_uppercase()] {
            assert!(text.parse::<DigestPrefix>().expect("a prefix").fits(&digest), "{text}");
        }
        for text in ["", "abcde", "abcdeg", "+abcde", &"a".repeat(65)] {
            assert_eq!(text.parse::<DigestPrefix>(), Err(InvalidDigestPrefix), "{text}");
        }
    }
}
