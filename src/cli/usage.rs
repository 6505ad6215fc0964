//! What depends on tokens, for people: in lists, and before something is taken away.

use jiff::Timestamp;

use super::args::Age;
use super::confirm::{confirm, is_possible};
use super::output::note;
use super::session::Session;
use super::table::printable;
use super::{time, token};
use crate::chain::chain;
use crate::registry::{Dependents, LastUse, RegistryError, Taking, TokenUses, Unused};
use crate::store::{Agent, AgentCount};
use crate::token::TokenId;

/// Agents that are named in a question.
const NAMED: usize = 3;

/// `--unused-for` and `--never-used`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct UnusedArgs {
    /// Only tokens that were not used for this long, such as 90d, 6mo or 1y
    #[arg(long, value_name = "DURATION")]
    pub unused_for: Option<Age>,
    /// Only tokens that were never used
    #[arg(long, conflicts_with = "unused_for")]
    pub never_used: bool,
}

impl UnusedArgs {
    pub(super) fn is_given(&self) -> bool {
        self.unused_for.is_some() || self.never_used
    }

    /// By the store's clock. Says what is not known.
    pub(super) async fn resolve(&self, session: &Session) -> Result<Option<Unused>, RegistryError> {
        if !self.is_given() {
            return Ok(None);
        }
        let Session { registry, actor } = session;
        let TokenUses { now, since, .. } = registry.usage(actor, &[]).await?;
        let unused = self.unused_for.map_or(Unused::Ever, |age| Unused::Since(age.before(now)));
        match (unused, since) {
            (_, None) => note("no sidecar has recorded the use of tokens yet, so it is not known which were not used"),
            (Unused::Since(then), Some(since)) if then < since => note(format_args!(
                "the use of tokens is recorded since {} only, so it is not known which were not used for longer",
                time::full(since, now)
            )),
            (Unused::Ever, Some(since)) => note(format_args!(
                "of tokens made since {}, when the recording of their use began",
                time::full(since, now)
            )),
            (Unused::Since(_), Some(_)) => {}
        }
        let silent = registry.silent_sidecars().await?;
        if !silent.is_empty() {
            note(missing(&silent));
        }
        Ok(Some(unused))
    }
}

/// Whether to ask before something is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// Always: without a terminal nothing is done.
    Always,
    /// If agents depend on the tokens and somebody can be asked; scripts that never had to answer do not have to now.
    IfUsed,
}

/// Says what depends on the tokens, and asks. `question` gets `3 tokens`.
///
/// # Errors
/// When the answer is not yes; nothing was changed.
pub(super) async fn confirm_for(
    session: &Session,
    tokens: &[TokenId],
    asking: Asking,
    question: impl FnOnce(String) -> String,
) -> anyhow::Result<()> {
    let (told, is_used) = match session.registry.dependents(&session.actor, tokens, NAMED).await {
        Ok(dependents) => (told(&dependents), dependents.agents.agents > 0),
        // A revocation is not held up by that.
        Err(error) => (format!("what depends on the tokens cannot be read: {}\n", chain(&error)), false),
    };
    if asking == Asking::Always || (is_used && is_possible()) {
        confirm(&format!("{told}{}", question(token::count(tokens.len()))))?;
    } else if is_used {
        note(told.trim_end());
    }
    Ok(())
}

/// The same for the tokens from which a command on a user takes something; where these are none, nothing is asked.
///
/// # Errors
/// As [`confirm_for`], and those of the command.
pub(super) async fn confirm_taking(
    session: &Session,
    taking: Taking<'_>,
    question: impl FnOnce(String) -> String,
) -> anyhow::Result<()> {
    let tokens = session.registry.taken_by(&session.actor, taking).await?;
    match tokens.is_empty() {
        true => Ok(()),
        false => confirm_for(session, &tokens, Asking::Always, question).await,
    }
}

/// What depends on tokens, in lines; nothing where there are none.
fn told(dependents: &Dependents) -> String {
    let Dependents { tokens, agents, is_bound, latest, last_used, now, since, silent } = dependents;
    if *tokens == 0 {
        return String::new();
    }
    let them = if *tokens == 1 { "it" } else { "them" };
    let used = match (agents.agents, last_used, since) {
        (0, _, None) => "whether it is used is not known: no sidecar has recorded the use of tokens yet".to_owned(),
        (0, Some(at), _) => format!("no agent used {them} in the last 24 h; last used {}", time::full(*at, *now)),
        (0, None, Some(since)) => {
            format!("not used since {}, when the recording of their use began", time::full(*since, *now))
        }
        (1, ..) => format!("1 agent used {them} in the last 24 h"),
        _ => format!("{} agents used {them} in the last 24 h", number(*agents, *is_bound)),
    };
    let mut lines = format!("{}; {used}\n", token::count(*tokens));
    let others = agents.agents.saturating_sub(latest.len() as u64);
    lines.extend(latest.iter().map(|agent| format!("  {}\n", line(agent, *now))));
    if others > 0 && !latest.is_empty() {
        lines.push_str(&format!("  and {} more\n", grouped(others)));
    }
    if !silent.is_empty() {
        lines.push_str(&format!("{}\n", missing(silent)));
    }
    lines
}

fn missing(silent: &[String]) -> String {
    let (shown, more) = silent.split_at(silent.len().min(NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("what passed these sidecars lately is missing: {}{more}", printable(&shown.join(", ")))
}

fn line(agent: &Agent, now: Timestamp) -> String {
    let [name, address, version] = cells(agent);
    let place = if name == address { version } else { format!("{address} {version}") };
    let place = place.trim();
    let last_used = time::relative(agent.last_used, now);
    if place.is_empty() { format!("{name}, {last_used}") } else { format!("{name} ({place}), {last_used}") }
}

/// Name, address, version.
pub(super) fn cells(agent: &Agent) -> [String; 3] {
    let version = agent.version.as_deref().map(printable).unwrap_or_default();
    [printable(&agent.name.to_string()), agent.address.to_string(), version]
}

/// `1,204`, `about 120,000`, `up to 3,000`.
fn number(count: AgentCount, is_bound: bool) -> String {
    let prefix = match (count.is_estimate, is_bound) {
        (_, true) => "up to ",
        (true, false) => "about ",
        (false, false) => "",
    };
    format!("{prefix}{}", grouped(count.agents))
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// When a token was last used, for a list.
pub(super) fn last_use_short(uses: &TokenUses, token: TokenId) -> String {
    match uses.last_use(token) {
        LastUse::At(at) => time::relative(at, uses.now),
        LastUse::Never => "never".to_owned(),
        LastUse::Unknown => "not known".to_owned(),
    }
}

/// When a token was last used.
pub(super) fn last_use(uses: &TokenUses, token: TokenId) -> String {
    match (uses.last_use(token), uses.since) {
        (LastUse::At(at), _) => time::full(at, uses.now),
        (LastUse::Never, _) => "never".to_owned(),
        (LastUse::Unknown, Some(since)) => {
            format!("not since {}; before that it was not recorded", time::full(since, uses.now))
        }
        (LastUse::Unknown, None) => "not known: no sidecar has recorded the use of tokens yet".to_owned(),
    }
}

/// How many agents used a token.
pub(super) fn agent_counts(uses: &TokenUses, token: TokenId) -> String {
    let [day, month] = uses.agents(token);
    format!("{} in the last 24 h, {} in the last 30 d", number(day, false), number(month, false))
}

/// How many agents used a token within a day, for a list.
pub(super) fn agents_short(uses: &TokenUses, token: TokenId) -> String {
    let [day, _] = uses.agents(token);
    if day.agents == 0 { String::new() } else { grouped(day.agents) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::AgentName;

    fn dependents(agents: u64, latest: usize) -> Dependents {
        let now: Timestamp = "2026-11-22T13:04:06Z".parse().expect("a time");
        let agent = |number: usize| Agent {
            name: AgentName::Id(format!("web-{number}")),
            address: [10, 0, 0, 1].into(),
            version: Some("1.39.0".to_owned()),
            last_used: "2026-11-22T13:04:03Z".parse().expect("a time"),
        };
        Dependents {
            tokens: 3,
            agents: AgentCount { agents, is_estimate: false },
            is_bound: false,
            latest: (1..=latest).map(agent).collect(),
            last_used: (agents > 0).then_some(now),
            now,
            since: Some("2026-11-01T00:00:00Z".parse().expect("a time")),
            silent: Vec::new(),
        }
    }

    #[test]
    fn what_depends_on_tokens_is_told_before_a_question() {
        assert_eq!(
            told(&dependents(1204, 2)),
            "3 tokens; 1,204 agents used them in the last 24 h\n  web-1 (10.0.0.1 1.39.0), 3 s ago\n  \
             web-2 (10.0.0.1 1.39.0), 3 s ago\n  and 1,202 more\n"
        );
        let unused = told(&dependents(0, 0));
        assert!(unused.starts_with("3 tokens; not used since 21 d ago (2026-11-01"), "{unused}");
        let unknown = told(&Dependents { since: None, ..dependents(0, 0) });
        assert!(unknown.contains("not known"), "{unknown}");
        let silent = told(&Dependents { silent: vec!["edge-7".to_owned()], ..dependents(1, 1) });
        assert!(silent.ends_with("what passed these sidecars lately is missing: edge-7\n"), "{silent}");
        assert_eq!(told(&Dependents { tokens: 0, ..dependents(0, 0) }), "");
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 999, 1000, 1_204, 100_000, 1_000_000].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,204", "100,000", "1,000,000"]);
    }
}
