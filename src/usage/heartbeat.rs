//! Who sends a heartbeat: `id`, the first field of its body, and `version`, the second one, read from its first bytes.
//!
//! Whatever else is there is nobody's business here: a body that does not begin so has no name, and passes as it is. So does one
//! that is compressed; Telegraf compresses none.

use std::borrow::Cow;

use crate::token::raw::PREFIX;
use crate::words::is_plain;

/// Longest id, in bytes. A longer one is no name.
const MAX_ID: usize = 128;

/// Longest version, in bytes.
const MAX_VERSION: usize = 32;

/// As many bytes are looked at: an id all of whose characters are escaped, and all that comes before it.
const MAX_BEGINNING: usize = 1024;

/// What a heartbeat begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    /// What the agent calls itself.
    pub(crate) id: Cow<'a, str>,
    /// Which version it says that it is.
    pub(crate) version: Option<&'a str>,
}

/// Why there is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoName {
    /// The bytes end before it does.
    Incomplete,
    /// There is none.
    Absent,
}

/// Reads the name from the first bytes of a body.
pub(crate) fn name(bytes: &[u8]) -> Result<Name<'_>, NoName> {
    let mut rest = Rest(bytes);
    rest.symbol(b'{')?;
    let id = rest.field(b"\"id\"")?;
    let id = rest.string(id, MAX_ID)?;
    if !is_name(&id) {
        return Err(NoName::Absent);
    }
    let version = rest.symbol(b',').and_then(|()| rest.field(b"\"version\"")).and_then(|field| match field {
        Field::Here => rest.raw_string(),
    });
    Ok(Name { id, version: version.ok().and_then(full_version) })
}

/// What comes before the number of the version in a heartbeat (Telegraf 1.39.0, `FormatFullVersion`).
pub(super) const PRODUCT: &[u8] = b"Telegraf ";

/// The number in a version such as `Telegraf 1.37.0-c3db479e (git: HEAD@c3db479e)`, or one that is alone.
fn full_version(raw: &[u8]) -> Option<&str> {
    let number = match raw.strip_prefix(PRODUCT) {
        Some(rest) => rest.split(|byte| *byte == b' ').next()?,
        None => raw,
    };
    std::str::from_utf8(number).ok().filter(|version| is_version(version))
}

/// The version in a `User-Agent` field such as `Telegraf/1.39.0 Go/1.26.3`.
pub(crate) fn version_of(user_agent: &[u8]) -> Option<&str> {
    let rest = user_agent.strip_prefix(b"Telegraf/")?;
    let version = rest.split(|byte| *byte == b' ').next().and_then(|version| std::str::from_utf8(version).ok())?;
    is_version(version).then_some(version)
}

/// Not empty, not long, nothing that a terminal obeys, and no token in the wrong place.
fn is_name(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && id.chars().all(is_plain) && !id.contains(PREFIX)
}

fn is_version(version: &str) -> bool {
    (1..=MAX_VERSION).contains(&version.len())
        && version.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
        && !version.contains(PREFIX)
}

/// The value of a field begins here.
enum Field {
    Here,
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn skip_space(&mut self) {
        let space = self.0.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.0 = &self.0[space..];
    }

    /// One symbol, perhaps after space.
    fn symbol(&mut self, symbol: u8) -> Result<(), NoName> {
        self.skip_space();
        match self.0.split_first() {
            Some((first, rest)) if *first == symbol => {
                self.0 = rest;
                Ok(())
            }
            Some(_) => Err(NoName::Absent),
            None => Err(NoName::Incomplete),
        }
    }

    /// The name of a field, with its quotes, and a colon.
    fn field(&mut self, name: &[u8]) -> Result<Field, NoName> {
        self.skip_space();
        match self.0.strip_prefix(name) {
            Some(rest) => self.0 = rest,
            None if name.starts_with(self.0) => return Err(NoName::Incomplete),
            None => return Err(NoName::Absent),
        }
        self.symbol(b':').map(|()| Field::Here)
    }

    /// A string without its quotes, as it is written.
    fn raw_string(&mut self) -> Result<&'a [u8], NoName> {
        self.symbol(b'"')?;
        let mut from = 0;
        loop {
            let end = memchr::memchr2(b'"', b'\\', &self.0[from..]).ok_or(NoName::Incomplete)? + from;
            if self.0[end] == b'"' {
                let (raw, rest) = self.0.split_at(end);
                self.0 = &rest[1..];
                return Ok(raw);
            }
            from = end + 2; // whatever is escaped
            if from > self.0.len() {
                return Err(NoName::Incomplete);
            }
        }
    }

    /// A string of so many bytes at most.
    fn string(&mut self, Field::Here: Field, most: usize) -> Result<Cow<'a, str>, NoName> {
        let raw = self.raw_string()?;
        if !raw.contains(&b'\\') {
            return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| NoName::Absent);
        }
        // Six bytes are the longest way to write one.
        if raw.len() > 6 * most {
            return Err(NoName::Absent);
        }
        let quoted = [b"\"", raw, b"\""].concat();
        serde_json::from_slice(&quoted).map(Cow::Owned).map_err(|_| NoName::Absent)
    }
}

/// The first bytes of a body that comes in pieces: copied only as far as the name reaches over several of them.
#[derive(Debug, Default)]
pub(crate) struct Beginning(Vec<u8>);

impl Beginning {
    /// Looks at the next piece, and hands what is found to `found`: a name, or that there is none. Whether it was found.
    pub(crate) fn take(&mut self, piece: &[u8], found: impl FnOnce(Option<Name<'_>>)) -> bool {
        let known = if self.0.is_empty() {
            &piece[..piece.len().min(MAX_BEGINNING)]
        } else {
            let room = MAX_BEGINNING.saturating_sub(self.0.len());
            self.0.extend_from_slice(&piece[..piece.len().min(room)]);
            &self.0
        };
        match name(known) {
            Err(NoName::Incomplete) if known.len() < MAX_BEGINNING => {
                if self.0.is_empty() {
                    self.0.extend_from_slice(piece);
                }
                false
            }
            name => {
                found(name.ok());
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(String, Option<String>), NoName> {
        name(text.as_bytes()).map(|name| (name.id.into_owned(), name.version.map(str::to_owned)))
    }

    #[test]
    fn the_first_two_fields_are_who_it_is() {
        let named = |id: &str, version: Option<&str>| Ok((id.to_owned(), version.map(str::to_owned)));
        assert_eq!(read(r#"{"id":"web-1","version":"1.39.0","schema":1}"#), named("web-1", Some("1.39.0")));
        assert_eq!(read(" {\n \"id\" : \"web-1\" ,\t\"version\" : \"1.39.0\"}"), named("web-1", Some("1.39.0")));
        assert_eq!(read(r#"{"id":"web-1","version":"Telegraf 1.39.0","schema":1}"#), named("web-1", Some("1.39.0")));
        let built = r#"{"id":"web-1","version":"Telegraf 1.37.0-c3db479e (git: output_heartbeat@c3db479e)"}"#;
        assert_eq!(read(built), named("web-1", Some("1.37.0-c3db479e")));
        for other in ["Telegraf ", "Telegraf", "Telegraf  1.39.0", "1.39.0 (git: a@b)", "Vector 1"] {
            let expected = named("web-1", (other == "Telegraf").then_some("Telegraf"));
            assert_eq!(read(&format!(r#"{{"id":"web-1","version":"{other}"}}"#)), expected, "{other}");
        }
        assert_eq!(read(r#"{"id":"web-1"}"#), named("web-1", None));
        assert_eq!(read(r#"{"id":"web-1","schema":1,"version":"1.39.0"}"#), named("web-1", None));
        assert_eq!(read(r#"{"id":"web-1","version":1}"#), named("web-1", None));
        assert_eq!(read(r#"{"id":"Z\u00fcrich \"7\"\\"}"#), named("Zürich \"7\"\\", None));
        assert_eq!(read(r#"{"id":"北京"}"#), named("北京", None));
        assert_eq!(read(r#"{"id":"web-1","version":"1.39"#), named("web-1", None), "what is cut off is not believed");
    }

    #[test]
    fn junk_has_no_name() {
        let token = format!(r#"{{"id":"{PREFIX}0123456789abcdef"}}"#);
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID + 1));
        for text in [
            "[]",
            "null",
            r#"{"version":"1.39.0","id":"web-1"}"#,
            r#"{"id":7}"#,
            r#"{"id":""}"#,
            r#"{"id":null}"#,
            "{\"id\":\"a\u{1b}[2J\"}",
            r#"{"id":"a\u0000"}"#,
            r#"{"id":"evil\u202e"}"#,
            "{\"id\":\"un\u{200b}seen\"}",
            r#"{"id":"\ud800"}"#,
            r#"{"id":"\x"}"#,
            r#"{"identity":"web-1"}"#,
            r#"{"id"="web-1"}"#,
            &token,
            &long,
        ] {
            assert_eq!(read(text), Err(NoName::Absent), "{text}");
        }
        for bytes in [&b"\x1f\x8b\x08\0\0\0\0\0"[..], b"{\"id\":\"\xff\"}", b"\0"] {
            assert_eq!(name(bytes), Err(NoName::Absent), "{bytes:?}");
        }
        for text in ["", "{", r#"{"i"#, r#"{"id""#, r#"{"id":"web"#, r#"{"id":"web\"#] {
            assert_eq!(read(text), Err(NoName::Incomplete), "{text}");
        }
    }

    #[test]
    fn versions_are_those_of_telegraf() {
        assert_eq!(version_of(b"Telegraf/1.39.0 Go/1.26.3"), Some("1.39.0"));
        assert_eq!(version_of(b"Telegraf/1.40.0-b1f2c3d"), Some("1.40.0-b1f2c3d"));
        for other in [&b"curl/8.5.0"[..], b"Telegraf/", b"Telegraf/ Go", b"telegraf/1", b"Telegraf/\xff"] {
            assert_eq!(version_of(other), None);
        }
    }

    fn taken(pieces: &[&[u8]]) -> Option<Option<String>> {
        let (mut beginning, mut result) = (Beginning::default(), None);
        for piece in pieces {
            if beginning.take(piece, |name| result = Some(name.map(|name| name.id.into_owned()))) {
                break;
            }
        }
        result
    }

    #[test]
    fn a_name_may_come_in_pieces() {
        let body = br#"{"id":"web-1","version":"1.39.0"}"#;
        let bytes: Vec<_> = body.chunks(1).collect();
        assert_eq!(taken(&bytes), Some(Some("web-1".to_owned())));
        assert_eq!(taken(&[body]), Some(Some("web-1".to_owned())));
        assert_eq!(taken(&[b"{\"id\":", b"7}"]), Some(None));
        assert_eq!(taken(&[b"{\"id\":\""]), None, "not yet");
        let endless = [b"{\"id\":\"".as_slice(), &[b'x'; 2 * MAX_BEGINNING]];
        assert_eq!(taken(&endless), Some(None), "no more than the first bytes are looked at");
        let spaces = [b' '; 100];
        assert_eq!(taken(&[spaces.as_slice(); 11]), Some(None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_name_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64), tail in "[\\PC\"\\\\{}:,]{0,64}") {
            drop(name(&bytes));
            let text = [b"{\"id\":\"".as_slice(), tail.as_bytes()].concat();
            if let Ok(name) = name(&text) {
                prop_assert!(is_name(&name.id));
            }
        }

        #[test]
        fn every_plain_id_comes_back(id in "[^\\pC\"\\\\]{1,32}") {
            let body = serde_json::json!({ "id": id }).to_string();
            if is_name(&id) {
                let found = read(&body).map(|(id, _)| id);
                prop_assert_eq!(found, Ok(id));
            }
        }
    }
}
