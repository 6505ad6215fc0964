//! `token show` and `token find`: one token, with all that is known of it.

use jiff::Timestamp;

use super::super::output::Output;
use super::super::session::Session;
use super::super::table::{Cell, TextTable, Tone, details};
use super::super::{time, usage};
use super::{enumerate, state};
use crate::registry::view::TokenView;
use crate::registry::{LateUse, TokenDetails, TokenUses};
use crate::store::Agent;
use crate::token::raw::PREFIX;
use crate::token::{DigestPrefix, HistoryEntry, Reason, TokenEvent, TokenId, TokenState};

/// Shows one token.
///
/// # Errors
/// When there is none, or it cannot be printed.
pub(super) async fn one(session: &Session, id: TokenId, agents: usize, output: Output) -> anyhow::Result<()> {
    let shown = Shown::read(session, id, agents).await?;
    if output.json { output.json(&shown.view()) } else { Ok(output.text(&shown.text(output))?) }
}

/// Shows tokens, one below the other.
///
/// # Errors
/// As [`one`].
pub(super) async fn all(session: &Session, ids: &[TokenId], agents: usize, output: Output) -> anyhow::Result<()> {
    let mut shown = Vec::with_capacity(ids.len());
    for id in ids {
        shown.push(Shown::read(session, *id, agents).await?);
    }
    if output.json {
        return output.json(&shown.iter().map(Shown::view).collect::<Vec<_>>());
    }
    let texts: Vec<_> = shown.iter().map(|shown| shown.text(output)).collect();
    Ok(output.text(&texts.join("\n"))?)
}

/// What is shown of a token.
struct Shown {
    token: TokenDetails,
    /// Its predecessor and its successor.
    linked: [String; 2],
    uses: TokenUses,
    agents: Vec<Agent>,
}

impl Shown {
    async fn read(session: &Session, id: TokenId, agents: usize) -> anyhow::Result<Self> {
        let Session { registry, actor } = session;
        let token = registry.token(actor, id).await?;
        let linked = linked_states(session, [token.record.predecessor, token.record.successor]).await?;
        let (uses, agents) = (registry.usage(actor, &[id]).await?, registry.agents(actor, id, agents).await?);
        Ok(Self { token, linked, uses, agents })
    }

    fn view(&self) -> TokenView {
        TokenView::of_details(&self.token, Timestamp::now()).with_usage(&self.uses).with_agents(&self.agents)
    }

    fn text(&self, output: Output) -> String {
        let Self { token, linked, uses, agents } = self;
        text(token, linked, uses, agents, output)
    }
}

/// What became of the predecessor and of the successor, with their ids; empty where there is none.
async fn linked_states(session: &Session, linked: [Option<TokenId>; 2]) -> anyhow::Result<[String; 2]> {
    let ids: Vec<TokenId> = linked.iter().flatten().copied().collect();
    let found = session.registry.store().tokens_by_id(&ids).await?;
    let now = Timestamp::now();
    let mut texts = ids.iter().zip(found).map(|(id, token)| match token.map(|token| token.record) {
        None => format!("{id} (deleted)"),
        Some(token) if !token.is_active() => format!("{id} (revoked)"),
        Some(token) if token.is_expired(now) => format!("{id} (expired)"),
        Some(_) => format!("{id} (active)"),
    });
    Ok(linked.map(|id| id.and_then(|_| texts.next()).unwrap_or_default()))
}

/// `12 requests, the last one 3 min ago (...), on edge-1`.
fn late(late: &LateUse, now: Timestamp) -> Cell {
    let requests = if late.requests == 1 { "1 request".to_owned() } else { format!("{} requests", late.requests) };
    let text = format!("{requests}, the last one {}, on {}", time::full(late.last_at, now), late.sidecars.join(", "));
    Cell::toned(&text, Tone::Warn)
}

fn text(
    token: &TokenDetails,
    [predecessor, successor]: &[String; 2],
    uses: &TokenUses,
    agents: &[Agent],
    output: Output,
) -> String {
    let TokenDetails { record, owner, history, .. } = token;
    let now = Timestamp::now();
    let hint = match record.hint.as_str() {
        "" => "unknown: imported by its digest".to_owned(),
        hint => format!("{PREFIX}...{hint}"),
    };
    let mut pairs: Vec<(&str, Cell)> = vec![
        ("id", record.id.to_string().into()),
        ("token", hint.into()),
        ("digest", format!("{}...", DigestPrefix::of(&record.digest)).into()),
        ("description", record.description.as_str().into()),
        ("user", format!("{} ({}, {})", owner.name, owner.role, owner.status).into()),
        ("permissions", enumerate(record.permissions).into()),
        ("state", state(record, owner, now)),
        ("created", format!("{} by {}", time::full(record.created_at, now), record.created_by).into()),
        ("expires", record.expires_at.map_or_else(|| "never".to_owned(), |at| time::full(at, now)).into()),
        ("last used", usage::last_use(uses, record.id).into()),
        ("agents", usage::agent_counts(uses, record.id).into()),
    ];
    if let TokenState::Revoked { at, by } = &record.state {
        pairs.push(("revoked", format!("{} by {by}", time::full(*at, now)).into()));
    }
    for (name, linked) in [("predecessor", predecessor), ("successor", successor)] {
        if !linked.is_empty() {
            pairs.push((name, linked.as_str().into()));
        }
    }
    if let Some(requests) = &token.late {
        pairs.push(("used late", late(requests, now)));
    }
    if let Some(requests) = &token.predecessor_late {
        pairs.push(("predecessor used late", late(requests, now)));
    }
    let mut text = details(&pairs, output.colour);
    if !agents.is_empty() {
        text.push('\n');
        let rows = agents.iter().map(|agent| {
            let [name, address, version] = usage::cells(agent);
            [name.into(), address.into(), version.into(), time::full(agent.last_used, uses.now).into()]
        });
        let rows = rows.collect();
        text.push_str(&TextTable::new(["AGENT", "ADDRESS", "VERSION", "LAST USE"], output.colour).page(rows));
        let [_, month] = uses.agents(record.id);
        let others = month.agents.saturating_sub(agents.len() as u64);
        if others > 0 {
            text.push_str(&format!("and {others} more; --agents N shows more of them\n"));
        }
    }
    if !history.is_empty() {
        text.push('\n');
        let why = |entry: &HistoryEntry| entry.operator_reason.as_ref().map_or("", Reason::as_str).to_owned();
        let rows = history.iter().map(|entry| {
            let when = time::full(entry.at, now);
            [when.into(), entry.by.as_str().into(), describe(&entry.event).into(), why(entry).into()]
        });
        text.push_str(&TextTable::new(["WHEN", "WHO", "WHAT", "WHY"], output.colour).page(rows.collect()));
    }
    text
}

fn describe(event: &TokenEvent) -> String {
    match event {
        TokenEvent::Created => "created".to_owned(),
        TokenEvent::Imported => "imported".to_owned(),
        TokenEvent::Reassigned { from, to } => format!("reassigned from {from} to {to}"),
        TokenEvent::Rotated { to } => format!("rotated to {to}"),
        TokenEvent::Narrowed { lost } => format!("lost {}", enumerate(*lost)),
        TokenEvent::Revoked { reason: None } => "revoked".to_owned(),
        TokenEvent::Revoked { reason: Some(reason) } => format!("revoked: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::PermissionSet;

    #[test]
    fn history_says_what_happened() {
        let (from, to) = ("max".to_owned(), "vera".to_owned());
        assert_eq!(describe(&TokenEvent::Reassigned { from, to }), "reassigned from max to vera");
        assert_eq!(
            describe(&TokenEvent::Narrowed { lost: PermissionSet::TELEGRAF_AGENT }),
            "lost configs:read, heartbeat:write"
        );
        assert_eq!(describe(&TokenEvent::Revoked { reason: Some("a role".to_owned()) }), "revoked: a role");
    }
}
