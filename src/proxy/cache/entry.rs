//! A stored answer: a whole 200, with what it is the answer to.

use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG,
    LAST_MODIFIED, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::exchange::may_hold_token;
use super::super::fields::{Class, classify};
use super::CacheConfig;
use super::blocks::Blocks;
use super::key::{Key, Place, values};
use crate::clock::{Instant, unix_seconds};
use crate::token::Digest;

/// A clock on the wall that says a time before there was this program is wrong: 2024, in seconds since 1970.
const FIRST_WALL: i64 = 1_704_067_200;

/// Largest body that is stored or shared.
pub(super) const MAX_BODY: usize = 1 << 20;

/// The parts of an entry, in this order, each behind its length in four bytes (little-endian).
#[derive(Debug, Clone, Copy)]
enum Part {
    Target,
    Accept,
    Codings,
    /// A digest, or nothing.
    Credential,
    /// The fields that the answer varies by, as the request had them: lines.
    Vary,
    /// The fields of the answer: lines.
    Head,
    Body,
}

/// Bytes that say how long a part is.
const PREFIX: usize = size_of::<u32>();

/// A stored answer.
#[derive(Debug)]
pub(super) struct Entry {
    /// All parts but the last.
    parts: Box<[u8]>,
    body: Blocks,
    /// When it was asked for, by the clock that nobody sets: what was asked for later is truer.
    pub(super) asked_at: Instant,
    /// Its age by then.
    pub(super) aged: Duration,
    /// Of one that was stored before this run of the machine: by other clocks.
    pub(super) earlier: Option<Earlier>,
}

/// When something was stored before this run of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier {
    /// How long sidecars ran between then and `since`.
    pub(super) ran_for: Duration,
    /// When it was read.
    pub(super) since: Instant,
    /// When it was stored, in seconds since 1970; wrong if the clock was then.
    pub(super) wall: i64,
}

impl Entry {
    /// What a reply to a request with these fields leaves to others. `None`: it is for nobody else.
    pub(super) fn new(
        key: &Key,
        (asked_at, asked): (Instant, &HeaderMap),
        (status, fields): (StatusCode, &HeaderMap),
        body: &[u8],
    ) -> Option<Self> {
        let vary = vary(fields, asked)?;
        let is_whole = status == StatusCode::OK && !fields.contains_key(CONTENT_RANGE);
        if !is_whole || fields.contains_key(SET_COOKIE) || body.len() > MAX_BODY {
            return None;
        }
        let mut head = Vec::new();
        for (name, value) in fields.iter().filter(|(name, _)| ![CONTENT_LENGTH, AGE].contains(name)) {
            put_line(&mut head, name, value.as_bytes());
        }
        let credential = key.credential.as_ref().map_or(&[][..], |digest| digest.as_bytes());
        let all = [key.target.as_bytes(), &key.accept, key.codings.as_bytes(), credential, &vary, &head];
        let mut parts = Vec::with_capacity(all.iter().map(|part| PREFIX + part.len()).sum());
        for part in all {
            parts.extend_from_slice(&prefix(part.len())?);
            parts.extend_from_slice(part);
        }
        let aged = fields.get(AGE).and_then(|age| age.to_str().ok()).and_then(|age| age.parse().ok());
        let aged = Duration::from_secs(aged.unwrap_or(0));
        Some(Self { parts: parts.into(), body: Blocks::new(body), asked_at, aged, earlier: None })
    }

    /// Of the bytes that one was before. `None`: they are none.
    pub(super) fn read(sealed: &[u8], asked_at: Instant, aged: Duration, earlier: Option<Earlier>) -> Option<Self> {
        let mut rest = sealed;
        for _ in 0..Part::Body as usize {
            (_, rest) = split(rest)?;
        }
        let parts = sealed.get(..sealed.len() - rest.len())?;
        let (body, []) = split(rest)? else { return None };
        Some(Self { parts: parts.into(), body: Blocks::new(body), asked_at, aged, earlier })
    }

    /// Any but the body.
    fn part(&self, part: Part) -> &[u8] {
        let mut rest = &*self.parts;
        for _ in 0..part as usize {
            rest = split(rest).map_or(&[], |(_, rest)| rest);
        }
        split(rest).map_or(&[], |(part, _)| part)
    }

    /// What it is the answer to. `None`: it is damaged.
    pub(super) fn key(&self) -> Option<Key> {
        let text = |part| String::from_utf8(self.part(part).to_vec()).ok();
        let credential = match self.part(Part::Credential) {
            [] => None,
            digest => Some(Digest::from_bytes(digest.try_into().ok()?)),
        };
        Some(Key::new(text(Part::Target)?, self.part(Part::Accept).to_vec(), text(Part::Codings)?, credential))
    }

    /// Where it is found.
    pub(super) fn place(&self) -> Option<Place> {
        self.key().map(|key| key.place(self.part(Part::Vary)))
    }

    /// Whether what was asked may have a token in it. Nobody is given it, see [`Key::of`].
    pub(super) fn may_show_token(&self) -> bool {
        [Part::Target, Part::Accept, Part::Codings, Part::Vary].into_iter().any(|part| may_hold_token(self.part(part)))
    }

    /// Whether it answers a request with this key and these fields.
    pub(super) fn answers(&self, key: &Key, asked: &HeaderMap) -> bool {
        self.is_of(key)
            && self.part(Part::Accept) == key.accept
            && (self.is_coded_for(key) || self.is_plain(key))
            && self.varies_as(asked)
    }

    /// Whether it was an answer to a request that accepts the same codings.
    pub(super) fn is_coded_for(&self, key: &Key) -> bool {
        self.part(Part::Codings) == key.codings.as_bytes()
    }

    /// Whether it is an answer to the same question, maybe in another form.
    pub(super) fn is_of(&self, key: &Key) -> bool {
        let credential = key.credential.as_ref().map_or(&[][..], |digest| digest.as_bytes());
        self.part(Part::Target) == key.target.as_bytes() && self.part(Part::Credential) == credential
    }

    /// Without a coding it suits everybody who does not refuse that.
    fn is_plain(&self, key: &Key) -> bool {
        let refused = |coding: &str| matches!(coding, "identity;q=0" | "*;q=0");
        !key.codings.split(',').any(refused) && self.field(&CONTENT_ENCODING).is_none()
    }

    /// Whether the fields that it varies by are those that it was made for.
    pub(super) fn varies_as(&self, asked: &HeaderMap) -> bool {
        lines(self.part(Part::Vary)).all(|(name, value)| {
            let name = HeaderName::from_bytes(name);
            name.is_ok_and(|name| values(asked, &name).unwrap_or_default() == value)
        })
    }

    fn field(&self, name: &HeaderName) -> Option<HeaderValue> {
        let mut found = lines(self.part(Part::Head)).filter(|(other, _)| *other == name.as_str().as_bytes());
        found.next().and_then(|(_, value)| HeaderValue::from_bytes(value).ok())
    }

    /// Its `Last-Modified`.
    pub(super) fn last_modified(&self) -> Option<HeaderValue> {
        self.field(&LAST_MODIFIED)
    }

    /// Adds its fields to a map.
    pub(super) fn fields(&self, fields: &mut HeaderMap) {
        for (name, value) in lines(self.part(Part::Head)) {
            let value = HeaderValue::from_bytes(value);
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
                fields.append(name, value);
            }
        }
    }

    /// Its body, without a copy.
    pub(super) fn body(&self) -> Blocks {
        self.body.clone()
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.parts.len() + PREFIX + self.body.len()
    }

    /// How many bytes of memory it takes, but for what is the same for all.
    pub(super) fn size(&self) -> usize {
        self.parts.len() + self.body.size()
    }

    /// How old it is (RFC 9111 section 4.2.3).
    pub(super) fn age(&self) -> Duration {
        self.aged.saturating_add(self.stored_for(unix_seconds()))
    }

    /// How long ago it was asked for, as far as is known at this second since 1970.
    pub(super) fn stored_for(&self, wall: i64) -> Duration {
        let by_wall = self.earlier.filter(|earlier| earlier.wall >= FIRST_WALL);
        let by_wall = by_wall.map_or(0, |earlier| wall.saturating_sub(earlier.wall));
        self.ran_for().max(Duration::from_secs(u64::try_from(by_wall).unwrap_or(0)))
    }

    /// How long ago it was asked for at least: by clocks that nobody sets.
    pub(super) fn ran_for(&self) -> Duration {
        match self.earlier {
            None => self.asked_at.elapsed(),
            Some(earlier) => earlier.ran_for.saturating_add(earlier.since.elapsed()),
        }
    }

    /// Whether it may be given still.
    pub(super) fn is_within(&self, bounds: &CacheConfig) -> bool {
        self.stored_for(unix_seconds()) <= bounds.max_age
    }

    /// Whether the other says the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.body == other.body
            && self.last_modified() == other.last_modified()
            && self.field(&ETAG) == other.field(&ETAG)
    }

    /// All of it, as a file has it.
    pub(super) fn write(&self, file: &mut Vec<u8>) {
        file.extend_from_slice(&self.parts);
        file.extend(prefix(self.body.len()).into_iter().flatten());
        self.body.iter().for_each(|block| file.extend_from_slice(block));
    }
}

/// What is before a part of so many bytes. `None`: there is no such part.
fn prefix(length: usize) -> Option<[u8; PREFIX]> {
    u32::try_from(length).ok().map(u32::to_le_bytes)
}

/// The first part, and what comes after it.
fn split(parts: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = parts.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// What is remembered of the request for a reply that varies. `None`: it varies by what nobody else has.
fn vary(fields: &HeaderMap, asked: &HeaderMap) -> Option<Vec<u8>> {
    let mut lines = Vec::new();
    let said = values(fields, &VARY).unwrap_or_default();
    let said = std::str::from_utf8(&said).ok()?.to_ascii_lowercase();
    let mut names: Vec<&str> = said.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| name != "*")?;
        // These are part of the key; there is no cookie.
        if [ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, COOKIE].contains(&name) {
            continue;
        }
        let value = values(asked, &name).unwrap_or_default();
        // What is made anew for each request is unlike that of every other; and a token is stored nowhere.
        if classify(name.as_str().as_bytes()) != Class::Other || may_hold_token(&value) {
            return None;
        }
        put_line(&mut lines, &name, &value);
    }
    Some(lines)
}

fn put_line(lines: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    // None of the two can have a line's end in it.
    for part in [name.as_str().as_bytes(), b":", value, b"\n"] {
        lines.extend_from_slice(part);
    }
}

fn lines(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line.get(..colon)?, line.get(colon + 1..)?))
    })
}
