//! What depends on tokens: when they were last used, and by which agents.
//!
//! A use that is not known is no proof that there was none: uses are recorded since some moment only, and a token that is
//! older may have been used before. So "never used" is said of tokens only that were made since, and "unused for so long" only
//! once uses are recorded for as long.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::actor::Authority;
use super::{Actor, Registry, RegistryError};
use crate::store::report::with_distinct_names;
use crate::store::usage::DAY;
use crate::store::{Agent, AgentCount, Reported, TokenFilter, TokenUsage, UseFilter};
use crate::token::TokenId;

/// Within this time every sidecar records what it let through, if it can.
const SILENT: Duration = Duration::from_mins(1);

/// Agents that are read to tell those apart that used several tokens.
const TOLD_APART: u64 = 50_000;

/// Which tokens a list is narrowed to by their use, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unused {
    /// Not used since this moment, and made before it.
    Since(Timestamp),
    /// Never used.
    Ever,
}

/// When a token was last used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastUse {
    /// At this moment, but for the last ten seconds or so.
    At(Timestamp),
    /// Never.
    Never,
    /// Not since uses are recorded, if they are; perhaps before.
    Unknown,
}

impl LastUse {
    /// The moment, if there was one and it is known.
    #[must_use]
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Never | Self::Unknown => None,
        }
    }
}

/// What is known of the use of some tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUses {
    /// What the store's clock says. Ages are to be reckoned by it.
    pub now: Timestamp,
    /// Since when uses are recorded; `None`: they are not yet.
    pub since: Option<Timestamp>,
    of: HashMap<TokenId, TokenUsage>,
}

impl TokenUses {
    /// When a token was last used. Of one that was not asked for: unknown.
    #[must_use]
    pub fn last_use(&self, token: TokenId) -> LastUse {
        match (self.of.get(&token).map(|usage| usage.last_used), self.since) {
            (Some(Some(at)), _) => LastUse::At(at),
            (Some(None), Some(since)) if !token.made_before(since) => LastUse::Never,
            (Some(None) | None, _) => LastUse::Unknown,
        }
    }

    /// How many agents used it within 24 hours, and within 30 days.
    #[must_use]
    pub fn agents(&self, token: TokenId) -> [AgentCount; 2] {
        self.of.get(&token).map(|usage| [usage.day, usage.month]).unwrap_or_default()
    }
}

/// What depends on a selection of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependents {
    /// How many tokens they are.
    pub tokens: usize,
    /// How many agents used them within 24 hours, each counted once.
    pub agents: AgentCount,
    /// They are fewer, perhaps: those that used several of the tokens were not told apart.
    pub is_bound: bool,
    /// Those that used them last, the latest first.
    pub latest: Vec<Agent>,
    /// When one of them was used last.
    pub last_used: Option<Timestamp>,
    /// What the store's clock says.
    pub now: Timestamp,
    /// Since when uses are recorded; `None`: they are not yet, and nothing is known.
    pub since: Option<Timestamp>,
    /// Sidecars that have not recorded for a minute what they let through, or do not record it at all: there may be more.
    pub silent: Vec<String>,
}

impl Registry {
    /// How these tokens were used. Those that the actor may not see are left out.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn usage(&self, actor: &Actor, tokens: &[TokenId]) -> Result<TokenUses, RegistryError> {
        let authority = self.authority(actor).await?;
        let tokens = self.seen(&authority, tokens).await?;
        let usages = self.store.usage(&tokens).await?;
        let of = tokens.into_iter().zip(usages.tokens).collect();
        Ok(TokenUses { now: usages.now, since: usages.since, of })
    }

    /// The agents of a token, the latest first, at most `limit`. None of one that the actor may not see.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn agents(&self, actor: &Actor, token: TokenId, limit: usize) -> Result<Vec<Agent>, RegistryError> {
        let authority = self.authority(actor).await?;
        let tokens = self.seen(&authority, &[token]).await?;
        Ok(self.store.agents(&tokens, limit).await?.pop().unwrap_or_default())
    }

    /// What depends on these tokens, with at most `latest` of the agents by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dependents(
        &self,
        actor: &Actor,
        tokens: &[TokenId],
        latest: usize,
    ) -> Result<Dependents, RegistryError> {
        let uses = self.usage(actor, tokens).await?;
        let recent = uses.of.iter().filter(|(_, usage)| usage.day.agents > 0);
        let (recent, counts): (Vec<TokenId>, Vec<AgentCount>) =
            recent.map(|(token, usage)| (*token, usage.day)).unzip();
        let all: u64 = counts.iter().map(|count| count.agents).sum();
        let is_estimate = counts.iter().any(|count| count.is_estimate);
        let tells_apart = recent.len() > 1 && !is_estimate && all <= TOLD_APART;
        let mut agents = AgentCount { agents: all, is_estimate };
        let read = if tells_apart { usize::try_from(TOLD_APART).unwrap_or(usize::MAX) } else { latest };
        let found = self.store.agents(&recent, read).await?.into_iter().flatten();
        let day_ago = uses.now.checked_sub(DAY).unwrap_or(Timestamp::MIN);
        let mut found: Vec<_> = found.filter(|agent| agent.last_used >= day_ago).collect();
        found.sort_by(|a, b| b.last_used.cmp(&a.last_used).then_with(|| a.name.cmp(&b.name)));
        let mut seen = HashSet::new();
        found.retain(|agent| seen.insert(agent.name.clone()));
        if tells_apart {
            agents.agents = found.len() as u64;
        }
        found.truncate(latest);
        let is_bound = recent.len() > 1 && !tells_apart;
        let last_used = uses.of.values().filter_map(|usage| usage.last_used).max();
        let (now, since) = (uses.now, uses.since);
        let silent = self.silent_sidecars().await?;
        Ok(Dependents { tokens: tokens.len(), agents, is_bound, latest: found, last_used, now, since, silent })
    }

    /// Sidecars that have not recorded for a minute what they let through, or do not record it at all, by name: what is
    /// said of the use of tokens may lack theirs.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn silent_sidecars(&self) -> Result<Vec<String>, RegistryError> {
        let sidecars = with_distinct_names(self.store.sidecars().await?);
        let unwritten =
            |sidecar: &Reported| sidecar.report.unwritten_ms.map(|ms| Duration::from_millis(ms) + sidecar.age);
        let silent = sidecars.into_iter().filter(|sidecar| unwritten(sidecar).is_none_or(|age| age > SILENT));
        Ok(silent.map(|sidecar| sidecar.report.name).collect())
    }

    /// Those of the tokens that the actor may see.
    async fn seen(&self, authority: &Authority, tokens: &[TokenId]) -> Result<Vec<TokenId>, RegistryError> {
        if authority.sees_all_tokens() {
            return Ok(tokens.to_vec());
        }
        let found = self.store.tokens_by_id(tokens).await?.into_iter().flatten();
        let seen = found.filter(|token| authority.sees_tokens_of(token.record.owner));
        Ok(seen.map(|token| token.record.id).collect())
    }

    /// The filter with what a list is narrowed to by use; `None`: too little is known for any token to be in it.
    pub(super) async fn narrowed_by_use(
        &self,
        filter: TokenFilter,
        unused: Option<Unused>,
    ) -> Result<Option<TokenFilter>, RegistryError> {
        let Some(unused) = unused else { return Ok(Some(filter)) };
        let Some(since) = self.store.usage(&[]).await?.since else { return Ok(None) };
        let unused = match unused {
            Unused::Since(then) if then < since => return Ok(None),
            Unused::Since(then) => UseFilter::UnusedSince(then),
            Unused::Ever => UseFilter::NeverUsedSince(since),
        };
        Ok(Some(TokenFilter { unused: Some(unused), ..filter }))
    }
}
