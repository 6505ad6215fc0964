//! How entries become lines, each of which names the one before.
//!
//! ```text
//!   {"seq":7,"timestamp":...,"outcome":"Success",...,"prevHash":"6f1c...","hash":"90ab..."}
//!    └──────────────── SHA-256 of this, closed by } ───────────────────┘
//! ```
//!
//! `printf '%s}' "${LINE%,\"hash\":*}" | sha256sum` says what the last member must be.

use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::hex::Hex;
use crate::store::AuditLine;

/// What comes before the hash of the line before, and before that of the line itself.
const PREVIOUS: &[u8] = b",\"prevHash\":\"";
const OWN: &[u8] = b",\"hash\":\"";

/// Digits of a hash.
const DIGITS: usize = 64;

/// The hash before the first line.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where a trail ends: its last line's number and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// From 1.
    pub seq: u64,
    /// 64 hexadecimal digits.
    pub hash: String,
}

/// A text that is no [`Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a line's number, a colon and its hash (the members seq and hash)")]
pub struct InvalidHead;

impl FromStr for Head {
    type Err = InvalidHead;

    /// As `7:90ab...`.
    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (seq, hash) = text.split_once(':').ok_or(InvalidHead)?;
        let is_hash = hash.len() == DIGITS && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let seq = seq.parse().ok().filter(|_| is_hash).ok_or(InvalidHead)?;
        Ok(Self { seq, hash: hash.to_owned() })
    }
}

impl Head {
    /// Before the first line.
    #[must_use]
    pub fn start() -> Self {
        Self { seq: 0, hash: START.to_owned() }
    }

    /// Where a trail ends whose last line this is: what the line says, whether or not that is right. Of one that says
    /// nothing, its own hash: what comes after it is chained to what is there.
    #[must_use]
    pub fn of(line: &AuditLine) -> Self {
        let hash = Members::of(line).map_or_else(|| digits(&line.text), |members| members.hash.to_owned());
        Self { seq: line.seq, hash }
    }

    /// The line that an entry becomes after this one, and where the trail ends then.
    #[must_use]
    pub fn next(&self, entry: &[u8]) -> (AuditLine, Self) {
        let seq = self.seq + 1;
        let own;
        // What is no object was not written by this program; it becomes part of the trail as what it is.
        let entry = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(entry) {
            Ok(members) if !members.is_empty() => entry,
            _ => {
                own = serde_json::json!({ "damaged": String::from_utf8_lossy(entry) }).to_string().into_bytes();
                &own
            }
        };
        let members = entry.trim_ascii().get(1..entry.trim_ascii().len() - 1).unwrap_or_default();
        let begin = format!("{{\"seq\":{seq},");
        let mut text = [begin.as_bytes(), members, PREVIOUS, self.hash.as_bytes(), b"\"}"].concat();
        let hash = digits(&text);
        text.pop();
        text.extend_from_slice(&[OWN, hash.as_bytes(), b"\"}"].concat());
        (AuditLine { seq, text }, Self { seq, hash })
    }
}

/// A line outside of a store, without its end.
#[derive(Debug, Clone, Copy)]
pub struct TrailText<'a>(pub &'a [u8]);

impl TrailText<'_> {
    /// The line, if it begins as one.
    #[must_use]
    pub fn line(self) -> Option<AuditLine> {
        let rest = self.0.strip_prefix(b"{\"seq\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok().filter(|seq| *seq > 0)?;
        Some(AuditLine { seq, text: self.0.to_vec() })
    }
}

/// What a line says of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Members<'a> {
    pub(super) previous: &'a str,
    pub(super) hash: &'a str,
}

impl<'a> Members<'a> {
    /// `None`: it has not the form of a line with its number.
    pub(super) fn of(line: &'a AuditLine) -> Option<Self> {
        let (rest, hash) = split(&line.text, OWN, b"\"}")?;
        let (rest, previous) = split(rest, PREVIOUS, b"\"")?;
        let begin = format!("{{\"seq\":{},", line.seq);
        rest.starts_with(begin.as_bytes()).then_some(Self { previous: text(previous)?, hash: text(hash)? })
    }

    /// Whether the hash is that of the line.
    pub(super) fn is_of(&self, line: &AuditLine) -> bool {
        let without = line.text.len() - OWN.len() - DIGITS - 2;
        digits(&[&line.text[..without], b"}"].concat()) == self.hash
    }
}

/// What comes before the last member, which has this name, and its value.
fn split<'a>(line: &'a [u8], name: &[u8], end: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let rest = line.strip_suffix(end)?;
    let (rest, value) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(name)?, value))
}

fn text(digits: &[u8]) -> Option<&str> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(is_digit))
}

fn digits(bytes: &[u8]) -> String {
    Hex(&Sha256::digest(bytes)).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A trail of so many lines.
    pub(in crate::audit) fn trail(count: u64) -> Vec<AuditLine> {
        let mut head = Head::start();
        let line = |number: u64| {
            let (line, next) = head.next(format!("{{\"number\":{number}}}").as_bytes());
            head = next;
            line
        };
        (1..=count).map(line).collect()
    }

    #[test]
    fn a_line_has_the_hash_of_itself_and_of_the_one_before() {
        let (line, head) = Head::start().next(br#"{"action":"token.revoke"}"#);
        let text = String::from_utf8(line.text.clone()).expect("text");
        let without = format!(r#"{{"seq":1,"action":"token.revoke","prevHash":"{START}""#);
        assert_eq!(text, format!(r#"{without},"hash":"{}"}}"#, head.hash));
        assert_eq!(digits(format!("{without}}}").as_bytes()), head.hash);
        assert_eq!(Head::of(&line), head);
        let (next, _) = head.next(br#"{"a":1}"#);
        let members = Members::of(&next).expect("a line");
        assert_eq!((members.previous, members.is_of(&next)), (head.hash.as_str(), true));
    }

    #[test]
    fn whatever_is_chained_becomes_a_line_that_can_be_read() {
        for entry in [&b""[..], b"{}", b"[1]", b"\xff", b"{\"a\":\"\\u00e9\"}", b" {\"a\":1} \n"] {
            let (line, head) = Head::start().next(entry);
            serde_json::from_slice::<serde_json::Value>(&line.text).expect("JSON");
            assert_eq!(Head::of(&line), head);
            assert!(Members::of(&line).is_some_and(|members| members.is_of(&line)), "{entry:?}");
        }
    }

    #[test]
    fn what_has_not_the_form_is_no_line_and_ends_a_trail_all_the_same() {
        let good = &trail(1)[0];
        for text in [&b""[..], b"{}", b"\"}", &good.text[..good.text.len() - 1], &good.text[1..]] {
            let line = AuditLine { seq: 1, text: text.to_vec() };
            assert_eq!(Members::of(&line), None);
            assert_eq!(Head::of(&line).hash, digits(text));
        }
        assert_eq!(Members::of(&AuditLine { seq: 2, ..good.clone() }), None, "it has the number of another one");
    }
}
