//! One token: what depends on it, what happened to it, and what can be done to it.

use askama::Template;
use axum::extract::Path;
use axum::response::Response;
use jiff::Timestamp;

use super::blast::AgentRow;
use super::html::{self, Section, Shell};
use super::tokens::{May, Row, in_full};
use super::trouble::Trouble;
use super::visitor::Visitor;
use super::when::{When, counted};
use crate::registry::TokenDetails;
use crate::token::{Action, HistoryEntry, Resource, TokenEvent, TokenId, TokenState};

/// Agents that are named.
const NAMED: usize = 50;

/// The parts of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tab {
    Overview,
    History,
    Manage,
}

#[derive(Template)]
#[template(path = "token.html")]
struct TokenPage {
    shell: Shell,
    tab: Tab,
    row: Row,
    may: May,
    permissions: Vec<String>,
    created_by: String,
    revoked_by: Option<String>,
    predecessor: Option<String>,
    successor: Option<String>,
    /// What came after its end, with it or with the one before.
    late: Vec<String>,
    /// Agents within 24 hours and 30 days.
    agents: [String; 2],
    named: Vec<AgentRow>,
    silent: Vec<String>,
    history: Vec<Entry>,
}

/// Something that happened.
struct Entry {
    when: When,
    by: String,
    text: String,
}

/// Shows what it is and what depends on it.
pub(super) async fn overview(visitor: Visitor, Path(id): Path<String>) -> Response {
    answer(&visitor, &id, Tab::Overview).await
}

/// Shows what happened to it.
pub(super) async fn history(visitor: Visitor, Path(id): Path<String>) -> Response {
    answer(&visitor, &id, Tab::History).await
}

/// Shows what can be done to it.
pub(super) async fn manage(visitor: Visitor, Path(id): Path<String>) -> Response {
    answer(&visitor, &id, Tab::Manage).await
}

async fn answer(visitor: &Visitor, id: &str, tab: Tab) -> Response {
    let page = show(visitor, id, tab).await;
    visitor.answer(Section::Tokens, page)
}

async fn show(visitor: &Visitor, id: &str, tab: Tab) -> Result<Response, Trouble> {
    let id = id.parse::<TokenId>().map_err(|_| Trouble::not_found())?;
    visitor.console.sessions.acknowledge(&visitor.key, id);
    let actor = visitor.acting(Resource::Tokens, Action::Read)?;
    let registry = &visitor.registry;
    let details = registry.token(&actor, id).await?;
    let uses = registry.usage(&actor, &[id]).await?;
    let now = Timestamp::now();
    let row = Row::new(&details.record, &details.owner, &uses, visitor.holder.token, now);
    let named = match tab {
        Tab::Overview => registry.agents(&actor, id, NAMED).await?,
        Tab::History | Tab::Manage => Vec::new(),
    };
    let [day, month] = uses.agents(id);
    let page = TokenPage {
        shell: visitor.shell(details.record.description.clone(), Section::Tokens),
        tab,
        row,
        may: May::of(visitor),
        permissions: details.record.permissions.iter().map(|permission| permission.to_string()).collect(),
        created_by: details.record.created_by.clone(),
        revoked_by: match &details.record.state {
            TokenState::Active => None,
            TokenState::Revoked { by, .. } => Some(by.clone()),
        },
        predecessor: details.record.predecessor.map(|id| id.to_string()),
        successor: details.record.successor.map(|id| id.to_string()),
        late: late(&details, now),
        agents: [day, month].map(|count| {
            let about = if count.is_estimate { "about " } else { "" };
            format!("{about}{}", counted(count.agents, "agent"))
        }),
        named: named.iter().map(|agent| AgentRow::new(agent, uses.now)).collect(),
        silent: registry.silent_sidecars().await?,
        history: details
            .history
            .iter()
            .rev()
            .map(|entry| Entry { when: When::new(entry.at, now), by: entry.by.clone(), text: told(entry) })
            .collect(),
    };
    Ok(html::page(&page))
}

fn told(entry: &HistoryEntry) -> String {
    let event = match &entry.event {
        TokenEvent::Created => "Created".to_owned(),
        TokenEvent::Imported => "Imported".to_owned(),
        TokenEvent::Reassigned { from, to } => format!("Reassigned from {from} to {to}"),
        TokenEvent::Rotated { to } => format!("Rotated to {to}"),
        TokenEvent::Narrowed { lost } => format!("Lost {}", in_full(*lost)),
        TokenEvent::Revoked { reason: None } => "Revoked".to_owned(),
        TokenEvent::Revoked { reason: Some(reason) } => format!("Revoked: {reason}"),
    };
    match &entry.operator_reason {
        Some(reason) => format!("{event} ({})", reason.as_str()),
        None => event,
    }
}

/// Agents that were forgotten at a rotation show by what they still send.
fn late(details: &TokenDetails, now: Timestamp) -> Vec<String> {
    let told = |late: &crate::registry::LateUse, which: &str| {
        format!("{which} came {} after its end, the last time {}.", times(late.requests), When::new(late.last_at, now))
    };
    let own = details.late.iter().map(|late| told(late, "It"));
    let before = details.predecessor_late.iter().map(|late| told(late, "The token before it"));
    own.chain(before).collect()
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{} times", super::when::grouped(count)) }
}
