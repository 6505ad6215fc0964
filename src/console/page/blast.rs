//! What depends on tokens, before something is done to them.

use super::when::{When, counted};
use crate::registry::Dependents;
use crate::store::AgentName;

/// For people.
pub(super) struct Blast {
    /// Within 24 hours.
    pub(super) agents: u64,
    pub(super) sentence: String,
    pub(super) latest: Vec<AgentRow>,
    pub(super) cautions: Vec<String>,
}

/// An agent that used a token.
pub(super) struct AgentRow {
    pub(super) name: String,
    /// Where it was, and its version.
    pub(super) from: String,
    pub(super) when: When,
}

impl AgentRow {
    pub(super) fn new(agent: &crate::store::Agent, now: jiff::Timestamp) -> Self {
        let (name, from) = match &agent.name {
            AgentName::Id(id) => (id.clone(), agent.address.to_string()),
            AgentName::Address(address) => (address.to_string(), "gave no name".to_owned()),
        };
        let from = agent.version.as_ref().map_or(from.clone(), |version| format!("{from}, {version}"));
        Self { name, from, when: When::new(agent.last_used, now) }
    }
}

impl Blast {
    pub(super) fn of(dependents: &Dependents) -> Self {
        let Dependents { tokens, agents, is_bound, latest, last_used, now, since, silent } = dependents;
        let them = if *tokens == 1 { "this token" } else { "these tokens" };
        let sentence = match (agents.agents, last_used, since) {
            (_, _, None) => format!("It is not known whether {them} were used: uses are not recorded yet.")
                .replace("token were", "token was"),
            (0, None, Some(_)) => format!("No agent is known to have used {them}."),
            (0, Some(at), Some(_)) => {
                format!("No agent used {them} in the last 24 h; the last use was {}.", When::new(*at, *now))
            }
            (count, _, Some(_)) => {
                let about = match (is_bound, agents.is_estimate) {
                    (true, _) => "At most ",
                    (false, true) => "About ",
                    (false, false) => "",
                };
                format!("{about}{} used {them} in the last 24 h.", counted(count, "agent"))
            }
        };
        let mut cautions = Vec::new();
        if !silent.is_empty() {
            cautions.push(format!("There may be more: nothing was heard lately of uses at {}.", silent.join(", ")));
        }
        if let Some(since) = since.filter(|_| agents.agents == 0) {
            cautions.push(format!("Uses are recorded since {}.", When::new(since, *now).full()));
        }
        let more = agents.agents.saturating_sub(latest.len() as u64);
        if more > 0 && !latest.is_empty() {
            cautions.push(format!("And {}.", counted(more, "other agent")));
        }
        let latest = latest.iter().map(|agent| AgentRow::new(agent, *now)).collect();
        Self { agents: agents.agents, sentence, latest, cautions }
    }
}
