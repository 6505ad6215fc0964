//! When tokens were last used, and by which agents: what sidecars leave, and what is made of it.
//!
//! All of it is of the kind "the latest wins": a use that is told twice, late, or by two sidecars changes nothing that is
//! not true. Times are the store's: a sidecar says how long ago something was, by a clock that nobody sets, and the store
//! says when that was. Uses of a token that is deleted go with it, and what is told of it later is left out.
//!
//! Agents of a token are stored one by one, by the time of their last use. The latest of them, 131,072 by default, are all there. Of what is
//! older, every second one is dropped, then of the older ones every second again, by their hash, so
//! that each that is left stands for two, four, eight: counts are then estimates, and memory grows with the logarithm.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::token::TokenId;

/// Of agents older than the latest of a token, as many are stored that stand for two each, for four each, and so on.
pub(crate) const SAMPLED: u64 = 8_192;

/// As many more there may be before some are dropped: a few hundred at once.
pub(crate) const SLACK: u64 = 256;

/// How often every second one may be dropped.
pub(crate) const LEVELS: usize = 16;

/// How long an agent counts after its last use.
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// How long it is remembered after its last use, as long as others use the token.
pub(crate) const MONTH: Duration = Duration::from_hours(30 * 24);

/// Who used a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentName {
    /// What it calls itself in heartbeats.
    Id(String),
    /// Where it is, of one that gave no name: one agent for all that are behind that address.
    Address(IpAddr),
}

impl AgentName {
    /// As both stores have it: `=` and the id, or `@` and the address.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Id(id) => format!("={id}"),
            Self::Address(address) => format!("@{address}"),
        }
    }

    /// The inverse of [`Self::key`].
    pub(crate) fn from_key(key: &str) -> Option<Self> {
        match key.split_at_checked(1)? {
            ("=", id) => Some(Self::Id(id.to_owned())),
            ("@", address) => address.parse().ok().map(Self::Address),
            _ => None,
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Uses of a token, as a sidecar tells of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Of which.
    pub token: TokenId,
    /// How long ago the last one was.
    pub age: Duration,
    /// By whom.
    pub agents: Vec<AgentUse>,
}

/// The last use by one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUse {
    /// Which.
    pub name: AgentName,
    /// How long ago.
    pub age: Duration,
    /// Where it was then.
    pub address: IpAddr,
    /// What it was then, such as `1.39.0`.
    pub version: Option<String>,
}

/// What is known of the use of some tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usages {
    /// What the store's clock says. Ages are to be reckoned by it.
    pub now: Timestamp,
    /// Since when uses are recorded; `None`: they are not yet. What was not used since then may have been before.
    pub since: Option<Timestamp>,
    /// In the order asked for.
    pub tokens: Vec<TokenUsage>,
}

/// How a token was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenUsage {
    /// When it was last, but for the last ten seconds or so; `None`: never since uses are recorded.
    pub last_used: Option<Timestamp>,
    /// How many agents used it within 24 hours.
    pub day: AgentCount,
    /// Within 30 days.
    pub month: AgentCount,
}

/// How many agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentCount {
    /// So many.
    pub agents: u64,
    /// Not exactly, but within two percent.
    pub is_estimate: bool,
}

/// An agent that used a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Which.
    pub name: AgentName,
    /// Where it was last.
    pub address: IpAddr,
    /// What it was last, such as `1.39.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When that was, by the store's clock.
    pub last_used: Timestamp,
}

/// What a list of tokens can be narrowed to, by the store's clock. A token's id tells when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseFilter {
    /// Made before this moment, and not used since.
    UnusedSince(Timestamp),
    /// Made at this moment or later, and never used.
    NeverUsedSince(Timestamp),
}

impl UseFilter {
    /// Whether the token's age fits, and the last use of a token of that age.
    pub(crate) fn has(self, token: TokenId, last_used: Option<Timestamp>) -> bool {
        match self {
            Self::UnusedSince(then) => token.made_before(then) && last_used.is_none_or(|used| used < then),
            Self::NeverUsedSince(then) => !token.made_before(then) && last_used.is_none(),
        }
    }
}

/// What sidecars leave of the use of tokens, and what commands make of it. Not commits: no revision.
#[async_trait]
pub trait Usage: Send + Sync + 'static {
    /// Remembers uses; what is older than what is known already changes nothing. Ages are as of the call, however long it takes:
    /// what is written late is written with its time, or not. The first call of all, perhaps without any, begins the recording.
    /// Nothing is remembered where there is no registry.
    async fn record(&self, uses: &[Use]) -> Result<(), StoreError>;

    /// How these tokens were used.
    async fn usage(&self, tokens: &[TokenId]) -> Result<Usages, StoreError>;

    /// When these tokens were last used, in the order asked for; `None`: never, as far as is known. Cheap, for all tokens at once.
    async fn last_used(&self, tokens: &[TokenId]) -> Result<Vec<Option<Timestamp>>, StoreError>;

    /// The agents of these tokens, for each in the order asked for: the latest first, at most `limit`.
    async fn agents(&self, tokens: &[TokenId], limit: usize) -> Result<Vec<Vec<Agent>>, StoreError>;
}

/// Until when every second agent of a token was dropped, then every second of those that were left, and so on: by the time
/// of their last use, in milliseconds since 1970, the latest first.
///
/// ```text
///   last used   ───── now      all are there, level 0
///               ───── bound 0  and before it one of two: those that level 0 does not drop
///               ───── bound 1  one of four ...
/// ```
///
/// Who is used again is of level 0 again, whether it was dropped or not. So what is counted in a level and multiplied stands for
/// all whose last use was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Levels(Vec<i64>);

impl Levels {
    /// Numbers with spaces between them. What is no number ends it.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.split_ascii_whitespace().map_while(|bound| bound.parse().ok()).take(LEVELS).collect())
    }

    /// Between which times the agents of a level were used last: after the first one, at the second one at the latest.
    pub(crate) fn of(&self, level: usize) -> (i64, i64) {
        let bound = |level: usize| self.0.get(level).copied();
        let upper = level.checked_sub(1).map_or(i64::MAX, |above| bound(above).unwrap_or(i64::MIN));
        (bound(level).unwrap_or(i64::MIN), upper)
    }

    /// How many agents a level may have, where so many are to be all there.
    pub(crate) const fn most(level: usize, exact: u64) -> u64 {
        if level == 0 { exact } else { SAMPLED }
    }

    /// Whether an agent is among those that go from the level to the next one by being dropped.
    pub(crate) fn drops(level: usize, name: &str) -> bool {
        use sha1::Digest as _;
        let [first, second, ..] = <[u8; 20]>::from(sha1::Sha1::digest(name));
        (u16::from_be_bytes([first, second]) >> level) & 1 == 1
    }

    /// What was used last at this moment or before was dropped from the level.
    pub(crate) fn lower(&mut self, level: usize, until: i64) {
        match self.0.get_mut(level) {
            Some(bound) => *bound = until,
            None => self.0.push(until),
        }
    }

    /// How many were used since then, with how many are stored of each level.
    pub(crate) fn count<E>(
        &self,
        since: i64,
        mut stored: impl FnMut(i64, i64) -> Result<u64, E>,
    ) -> Result<AgentCount, E> {
        let mut count = AgentCount::default();
        for level in 0..=self.0.len() {
            let (lower, upper) = self.of(level);
            if upper < since {
                break;
            }
            let found = stored(lower, upper)?;
            count.agents += found << level;
            count.is_estimate |= found > 0 && level > 0;
        }
        Ok(count)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        self.0.iter().try_for_each(|bound| write!(f, "{}{bound}", std::mem::replace(&mut separator, " ")))
    }
}

/// A moment as both stores have it: milliseconds since 1970.
pub(crate) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

/// The inverse of [`moment`] for what was this long before `now`.
pub(crate) fn before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let address = |text: &str| AgentName::Address(text.parse().expect("an address"));
        for name in [AgentName::Id("web-1".to_owned()), AgentName::Id("@10.0.0.1".to_owned()), address("::1")] {
            assert_eq!(AgentName::from_key(&name.key()), Some(name));
        }
        for text in ["", "x", "@", "@x", "é"] {
            assert_eq!(AgentName::from_key(text), None, "{text}");
        }
    }

    #[test]
    fn levels_lie_one_below_the_other() {
        let levels = Levels::parse("300 200");
        assert_eq!([0, 1, 2].map(|level| levels.of(level)), [(300, i64::MAX), (200, 300), (i64::MIN, 200)]);
        assert_eq!(Levels::parse(&levels.to_string()), levels);
        assert_eq!(Levels::parse("7 x 5").to_string(), "7");
        let counted =
            |since| levels.count::<()>(since, |lower, _| Ok(if lower == 300 { 1 } else { 10 })).expect("counts");
        assert_eq!(counted(301), AgentCount { agents: 1, is_estimate: false });
        assert_eq!(counted(0), AgentCount { agents: 1 + 20 + 40, is_estimate: true });
    }

    #[test]
    fn every_level_drops_another_half() {
        let mut names: Vec<_> = (0..100_000).map(|number| format!("=agent-{number}")).collect();
        for level in 0..4 {
            let before = names.len();
            names.retain(|name| !Levels::drops(level, name));
            let kept = names.len() * 100 / before;
            assert!((48..=52).contains(&kept), "{kept} % of level {level}");
        }
    }

    #[test]
    fn a_token_that_is_younger_than_the_bound_was_not_unused_for_so_long() {
        let at = |second: i64| Timestamp::from_second(second).expect("a time");
        let made = TokenId::generate(at(1_800_000_000));
        let unused = |then: i64, used: Option<i64>| UseFilter::UnusedSince(at(then)).has(made, used.map(at));
        assert!(unused(1_800_000_001, None));
        assert!(unused(1_800_000_900, Some(1_800_000_800)));
        assert!(!unused(1_800_000_900, Some(1_800_000_900)));
        assert!(!unused(1_799_999_999, None));
        let never = |then: i64, used: Option<i64>| UseFilter::NeverUsedSince(at(then)).has(made, used.map(at));
        assert!(never(1_799_999_999, None));
        assert!(!never(1_799_999_999, Some(1_800_000_900)));
        assert!(!never(1_800_000_001, None), "it may have been used before");
    }
}
