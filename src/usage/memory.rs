//! The latest use of each token and of each agent, in memory that is bounded.
//!
//! It is divided by hash, so that workers seldom meet at one lock, which is held for some instructions. What was written to the
//! store stays for a while: an agent that comes back every minute then costs no allocation.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::heartbeat::PRODUCT;
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::random;
use crate::store::{AgentName, AgentUse, Use};
use crate::token::TokenId;

const PARTS: usize = 16;

/// Agents of each part.
const MOST_AGENTS: usize = 8_192;

/// How long what was written is remembered.
const RETAINED: Duration = Duration::from_mins(10);

/// Tenths of a second since the machine was started: four bytes for fourteen years.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    const LENGTH: Duration = Duration::from_millis(100);

    pub(super) fn of(moment: Instant) -> Self {
        let uptime = moment.uptime();
        let tenths = uptime.as_secs() * 10 + u64::from(uptime.subsec_millis() / 100);
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    fn age(self, now: Self) -> Duration {
        Self::LENGTH * now.0.saturating_sub(self.0)
    }
}

/// Who used a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// What it calls itself.
    pub(crate) id: Option<&'a str>,
    /// What it is.
    pub(crate) version: Option<&'a str>,
    /// Where it is.
    pub(crate) address: IpAddr,
}

/// Which tokens were used here, and by which agents.
#[derive(Debug)]
pub(crate) struct Uses {
    /// Of this process, so that nobody can choose ids that meet in one place.
    secret: u64,
    parts: [Mutex<Part>; PARTS],
    /// What was used before is in the store.
    written: AtomicU32,
    /// Agents that there was no room for.
    left_out: AtomicU64,
    /// When the last write began that told everything, plus one; 0: none did.
    told: AtomicU32,
}

impl Default for Uses {
    fn default() -> Self {
        let (parts, secret) = (Default::default(), random::number() | 1);
        Self { secret, parts, written: AtomicU32::new(0), left_out: AtomicU64::new(0), told: AtomicU32::new(0) }
    }
}

/// Some of the tokens, and some of the agents.
#[derive(Debug, Default)]
struct Part {
    /// Those whose agents are not known, or not remembered.
    tokens: HashMap<TokenId, Tick, BuildHasherDefault<Mixed>>,
    /// By a hash of token and name.
    agents: HashMap<u64, Known, BuildHasherDefault<Mixed>>,
    /// Room was made when this was written.
    made_room: Option<u32>,
}

/// An agent of a token.
#[derive(Debug)]
struct Known {
    token: TokenId,
    used: Tick,
    address: IpAddr,
    /// Its id, if it has one.
    id: Option<Box<str>>,
    version: Option<Box<str>>,
}

impl Uses {
    /// A token was used, and by whom is not known.
    pub(crate) fn note_token(&self, token: TokenId, now: Instant) {
        self.part(mixed(token.to_u64())).lock().tokens.insert(token, Tick::of(now));
    }

    /// A token was used by this agent.
    pub(crate) fn note(&self, token: TokenId, seen: Seen<'_>, now: Instant) {
        let key = match (seen.id, seen.address) {
            (Some(id), _) => self.key(token, id.as_bytes()),
            (None, IpAddr::V4(address)) => self.key(token, &address.octets()),
            (None, IpAddr::V6(address)) => self.key(token, &address.octets()),
        };
        let written = self.written.load(Ordering::Relaxed);
        if !self.part(key).lock().note(key, token, seen, Tick::of(now), written) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            self.note_token(token, now);
        }
    }

    /// The same of an agent that was here before and whose heartbeat begins as it did, in the form in which Telegraf writes it:
    /// without a look at what was found good then. `false`: it has to be read.
    pub(crate) fn renew(&self, token: TokenId, body: &[u8], address: IpAddr, now: Instant) -> bool {
        let Some((id, rest)) = quick_id(body) else { return false };
        let key = self.key(token, id);
        let mut part = self.part(key).lock();
        let known = part.agents.get_mut(&key).filter(|known| known.is(token, id, address) && known.says(rest));
        known.map(|known| known.used = Tick::of(now)).is_some()
    }

    fn part(&self, hash: u64) -> &Mutex<Part> {
        let [place, ..] = hash.to_le_bytes();
        &self.parts[usize::from(place) % PARTS]
    }

    fn key(&self, token: TokenId, name: &[u8]) -> u64 {
        let (whole, rest) = name.as_chunks();
        // The last eight bytes, some of them once more, or all that there are.
        let last = name.last_chunk().copied().unwrap_or_else(|| {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            last
        });
        let fold = |state: u64, part: [u8; 8]| mixed(state ^ u64::from_le_bytes(part)) ^ self.secret;
        let state = whole.iter().fold(token.to_u64() ^ self.secret, |state, part| fold(state, *part));
        mixed(fold(state, last) ^ name.len() as u64)
    }

    /// Agents that there was no room for, since the start.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// How long ago all that had been used by then was in the store; `None`: it never was.
    pub(crate) fn unwritten_for(&self, now: Instant) -> Option<Duration> {
        let told = self.told.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Tick(told).age(Tick::of(now)))
    }

    /// Whether anything was ever written.
    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed) > 0
    }

    /// Whether there is anything to write.
    pub(super) fn has_unwritten(&self) -> bool {
        let since = Tick(self.written.load(Ordering::Relaxed));
        self.parts.iter().any(|part| part.lock().has_unwritten(since))
    }

    /// What is to be written, part by part. Times are as of `now`, which is the beginning of the write.
    pub(super) fn unwritten(&self, now: Tick) -> impl Iterator<Item = HashMap<TokenId, Use>> {
        let since = Tick(self.written.load(Ordering::Relaxed));
        self.parts.iter().map(move |part| part.lock().unwritten(since, now))
    }

    /// All that was used before `now` is in the store.
    pub(super) fn wrote(&self, now: Tick) {
        self.written.store(now.0, Ordering::Relaxed);
        self.told.store(now.0.saturating_add(1), Ordering::Relaxed);
        for part in &self.parts {
            part.lock().forget(now);
        }
    }
}

impl Part {
    /// Whether there was room for the agent.
    fn note(&mut self, key: u64, token: TokenId, seen: Seen<'_>, used: Tick, written: u32) -> bool {
        if let Some(known) = self.agents.get_mut(&key) {
            known.token = token;
            known.used = used;
            known.address = seen.address;
            if known.id.as_deref() != seen.id {
                known.id = seen.id.map(Into::into);
            }
            if known.version.as_deref() != seen.version && seen.version.is_some() {
                known.version = seen.version.map(Into::into);
            }
            return true;
        }
        if self.agents.len() >= MOST_AGENTS && self.made_room != Some(written) {
            self.made_room = Some(written);
            self.agents.retain(|_, known| known.used >= Tick(written));
        }
        if self.agents.len() >= MOST_AGENTS {
            return false;
        }
        let (id, version) = (seen.id.map(Into::into), seen.version.map(Into::into));
        self.agents.insert(key, Known { token, used, address: seen.address, id, version });
        true
    }

    fn has_unwritten(&self, since: Tick) -> bool {
        self.tokens.values().any(|used| *used >= since) || self.agents.values().any(|known| known.used >= since)
    }

    fn unwritten(&self, since: Tick, now: Tick) -> HashMap<TokenId, Use> {
        let mut uses = HashMap::new();
        for (token, used) in self.tokens.iter().filter(|(_, used)| **used >= since) {
            latest(&mut uses, *token, used.age(now));
        }
        for known in self.agents.values().filter(|known| known.used >= since) {
            latest(&mut uses, known.token, known.used.age(now)).agents.push(known.told(now));
        }
        uses
    }

    /// Drops what was written long ago.
    fn forget(&mut self, now: Tick) {
        self.tokens.retain(|_, used| used.age(now) < RETAINED);
        self.agents.retain(|_, known| known.used.age(now) < RETAINED);
        // What an outage needed.
        if self.tokens.capacity() > 4 * self.tokens.len().max(64) {
            self.tokens.shrink_to_fit();
        }
        if self.agents.capacity() > 4 * self.agents.len().max(64) {
            self.agents.shrink_to_fit();
        }
    }
}

impl Known {
    fn is(&self, token: TokenId, id: &[u8], address: IpAddr) -> bool {
        self.token == token && self.address == address && self.id.as_deref().is_some_and(|known| known.as_bytes() == id)
    }

    /// Whether a heartbeat goes on with its version.
    fn says(&self, rest: &[u8]) -> bool {
        let said = rest.strip_prefix(b",\"version\":\"").map(|said| said.strip_prefix(PRODUCT).unwrap_or(said));
        let goes_on = said.zip(self.version.as_deref()).and_then(|(said, known)| said.strip_prefix(known.as_bytes()));
        goes_on.is_some_and(|rest| matches!(rest, [b'"' | b' ', ..]))
    }

    fn told(&self, now: Tick) -> AgentUse {
        let name = match &self.id {
            Some(id) => AgentName::Id(id.to_string()),
            None => AgentName::Address(self.address),
        };
        let version = self.version.as_ref().map(ToString::to_string);
        AgentUse { name, age: self.used.age(now), address: self.address, version }
    }
}

/// What is told of a token, with its latest use.
fn latest(uses: &mut HashMap<TokenId, Use>, token: TokenId, age: Duration) -> &mut Use {
    let of_token = uses.entry(token).or_insert_with(|| Use { token, age, agents: Vec::new() });
    of_token.age = of_token.age.min(age);
    of_token
}

/// What comes after `{"id":"` up to the next quote, and what comes after that. None that has anything escaped.
fn quick_id(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = body.strip_prefix(b"{\"id\":\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    let (id, rest) = rest.split_at(end);
    rest.strip_prefix(b"\"").map(|rest| (id, rest))
}

/// Spreads a number over all bits.
fn mixed(number: u64) -> u64 {
    let (low, high) = number.carrying_mul(0x9e37_79b9_7f4a_7c15, 0);
    low ^ high
}

/// A hasher for ids and hashes.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mixed(self.0 ^ number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::since_boot(Duration::from_secs(seconds))
    }

    fn seen(id: &str) -> Seen<'_> {
        Seen { id: Some(id), version: Some("1.39.0"), address: [10, 0, 0, 1].into() }
    }

    fn token(number: u64) -> TokenId {
        TokenId::from_u64(number)
    }

    /// What is told at this second, and written then if `is_taken`.
    fn told(uses: &Uses, second: u64, is_taken: bool) -> Vec<Use> {
        let now = Tick::of(at(second));
        let mut all: HashMap<TokenId, Use> = HashMap::new();
        for told in uses.unwritten(now).flat_map(HashMap::into_values) {
            latest(&mut all, told.token, told.age).agents.extend(told.agents);
        }
        if is_taken {
            uses.wrote(now);
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_by_key(|told| told.token);
        all.iter_mut().for_each(|told| told.agents.sort_by(|a, b| a.name.cmp(&b.name)));
        all
    }

    #[test]
    fn the_latest_use_of_each_is_told_once() {
        let uses = Uses::default();
        uses.note(token(1), seen("a"), at(10));
        uses.note(token(1), seen("b"), at(11));
        uses.note(token(1), seen("a"), at(12));
        uses.note(token(2), Seen { id: None, version: None, address: [10, 0, 0, 2].into() }, at(5));
        let all = told(&uses, 13, true);
        let ages = |told: &Use| (told.age.as_secs(), told.agents.iter().map(|by| by.age.as_secs()).collect::<Vec<_>>());
        assert_eq!(all.iter().map(ages).collect::<Vec<_>>(), [(1, vec![1, 2]), (8, vec![8])]);
        assert_eq!(all[1].agents[0].name, AgentName::Address([10, 0, 0, 2].into()));
        assert_eq!(told(&uses, 14, true), []);
        uses.note(token(1), seen("b"), at(15));
        let again = told(&uses, 16, true);
        assert_eq!(again.iter().map(ages).collect::<Vec<_>>(), [(1, vec![1])]);
    }

    #[test]
    fn a_heartbeat_that_begins_as_before_needs_no_reading() {
        let uses = Uses::default();
        let renew = |token: u64, body: &str, last: u8, second: u64| {
            uses.renew(TokenId::from_u64(token), body.as_bytes(), [10, 0, 0, last].into(), at(second))
        };
        let body = r#"{"id":"a","version":"1.39.0","schema":1}"#;
        assert!(!renew(1, body, 1, 10), "it was not here before");
        uses.note(token(1), seen("a"), at(10));
        told(&uses, 11, true);
        assert!(renew(1, body, 1, 12));
        assert!(renew(1, r#"{"id":"a","version":"Telegraf 1.39.0","schema":1}"#, 1, 12), "as Telegraf has it");
        assert!(renew(1, r#"{"id":"a","version":"Telegraf 1.39.0 (git: HEAD@c3db479e)"}"#, 1, 12), "or so");
        assert_eq!(told(&uses, 13, true)[0].agents[0].age.as_secs(), 1);
        for (number, other, last) in [
            (2, body, 1),
            (1, body, 2),
            (1, r#"{"id":"b","version":"1.39.0","schema":1}"#, 1),
            (1, r#"{"id":"a","version":"1.39.1","schema":1}"#, 1),
            (1, r#"{"id":"a","version":"1.39.0"#, 1),
            (1, r#"{"id":"a","version":"1.3"}"#, 1),
            (1, r#"{"id":"a"}"#, 1),
            (1, r#"{"id":"a\"","version":"1.39.0"}"#, 1),
            (1, r#"{ "id":"a","version":"1.39.0"}"#, 1),
            (1, r#"{"id":"a"#, 1),
        ] {
            assert!(!renew(number, other, last, 20), "{other}");
        }
        assert_eq!(told(&uses, 21, true), []);
    }

    #[test]
    fn what_is_not_taken_is_told_later_with_its_time() {
        let uses = Uses::default();
        uses.note(token(1), seen("a"), at(10));
        assert_eq!(told(&uses, 11, false).len(), 1);
        assert_eq!(uses.unwritten_for(at(11)), None);
        uses.note(token(2), seen("a"), at(3600));
        let late = told(&uses, 7200, true);
        assert_eq!(late.iter().map(|told| told.age.as_secs()).collect::<Vec<_>>(), [7190, 3600]);
        assert_eq!(uses.unwritten_for(at(7205)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_use_during_a_write_is_told_by_the_next_one() {
        let uses = Uses::default();
        let now = Tick::of(at(10));
        assert_eq!(uses.unwritten(now).flatten().count(), 0);
        uses.note(token(1), seen("a"), at(10));
        uses.wrote(now);
        assert_eq!(told(&uses, 20, true).len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let uses = Uses::default();
        for number in 0..200_000 {
            uses.note(token(number % 1000), seen(&format!("agent-{number}")), at(10));
        }
        let agents = |uses: &Uses| uses.parts.iter().map(|part| part.lock().agents.len()).sum::<usize>();
        assert_eq!(agents(&uses), PARTS * MOST_AGENTS);
        assert_eq!(uses.left_out(), 200_000 - (PARTS * MOST_AGENTS) as u64);
        let all = told(&uses, 11, true);
        assert_eq!(all.len(), 1000, "tokens are remembered all the same");
        // What was written gives way.
        let before = uses.left_out();
        (0..1000).for_each(|number| uses.note(token(1), seen(&format!("later-{number}")), at(12)));
        assert_eq!(uses.left_out(), before);
        assert_eq!(told(&uses, 13, true)[0].agents.len(), 1000);
        assert_eq!(told(&uses, 13 + RETAINED.as_secs(), true), []);
        assert_eq!(agents(&uses), 0);
    }

    /// A million tokens and a hundred thousand agents, as one place of each takes.
    #[test]
    fn a_million_tokens_and_a_hundred_thousand_agents_fit_into_64_mib() {
        // A table has room for up to twice as many as there are over its load of seven eighths, with a byte for each.
        let table = |entries: usize, size: usize| (entries * 8 / 7).next_power_of_two() * (size + 1);
        let tokens = table(1_000_000 / PARTS, size_of::<(TokenId, Tick)>()) * PARTS;
        // Id and version lie elsewhere, in the allocator's sizes.
        let agents = table(100_000 / PARTS, size_of::<(u64, Known)>()) * PARTS + 100_000 * (48 + 16);
        assert!(tokens + agents <= 64 << 20, "{} MiB", (tokens + agents) >> 20);
    }
}
