//! The audit trail.

use askama::Template;
use axum::extract::RawQuery;
use axum::response::Response;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::form::Form;
use super::html::{self, Section, Shell};
use super::session::Notice;
use super::trouble::Trouble;
use super::visitor::{Submitted, Visitor};
use super::when::{When, counted};
use crate::audit::{Action as Event, Outcome, Subject, Verification};
use crate::registry::{Actor, AuditFilter, AuditView, holds_token};
use crate::token::{Action, Resource};

/// Rows of a page.
const ROWS: usize = 50;

/// Names in an address that narrow the list.
const CONDITIONS: [&str; 6] = ["actor", "action", "subject", "outcome", "since", "until"];

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    shell: Shell,
    conditions: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    is_first: bool,
    next: Option<String>,
}

/// An entry.
struct Row {
    seq: Option<u64>,
    when: Option<When>,
    action: String,
    actor: String,
    from: String,
    /// What the client called itself.
    agent: Option<String>,
    about: String,
    /// Ids of the tokens that it is about, each with the query for all that was done to it.
    tokens: Vec<(String, String)>,
    outcome: String,
    /// For the stylesheet.
    kind: &'static str,
    reason: Option<String>,
}

impl AuditPage {
    fn value(&self, name: &str) -> &str {
        self.conditions.iter().find(|(other, _)| *other == name).map_or("", |(_, text)| text.as_str())
    }

    fn actions(&self) -> Vec<&'static str> {
        Event::ALL.into_iter().map(Event::name).collect()
    }

    fn outcomes(&self) -> Vec<&'static str> {
        Outcome::ALL.into_iter().map(Outcome::name).collect()
    }
}

impl Row {
    /// `3 tokens`
    fn count(&self) -> String {
        counted(self.tokens.len() as u64, "token")
    }

    fn new(entry: &AuditView, now: Timestamp) -> Self {
        let text = |name: &str| entry.text(name).map(str::to_owned);
        let outcome = text("outcome").unwrap_or_else(|| "damaged".to_owned());
        let query = |id: &str| form_urlencoded::Serializer::new(String::new()).append_pair("subject", id).finish();
        let tokens: Vec<_> = entry.tokens().map(|id| (id.to_owned(), query(id))).collect();
        let about = text("userName").unwrap_or_default();
        let role = text("role").map(|role| format!(" ({role})")).unwrap_or_default();
        Self {
            seq: entry.seq,
            when: entry.at().map(|at| When::new(at, now)),
            action: text("action").unwrap_or_default(),
            actor: text("actorName").or_else(|| text("actorId")).unwrap_or_default(),
            from: text("ipAddress").unwrap_or_default(),
            agent: text("userAgent"),
            about: format!("{about}{role}"),
            tokens,
            kind: match outcome.as_str() {
                "Success" => "active",
                "Failure" => "soon",
                _ => "bad",
            },
            outcome,
            reason: text("reason"),
        }
    }
}

/// Whoever may read them.
fn reader(visitor: &Visitor) -> Result<Actor, Trouble> {
    visitor.attempting(Resource::AuditLogs, Action::Read, Event::AuditRead, Subject::default())
}

/// What narrows the list.
///
/// # Errors
/// For what may be the value of a token, which is repeated nowhere.
fn conditions(asked: &Form) -> Result<Vec<(&'static str, String)>, Trouble> {
    let given: Vec<_> = CONDITIONS.iter().filter_map(|name| Some((*name, asked.text(name)?.to_owned()))).collect();
    match given.iter().any(|(_, text)| holds_token(text)) {
        true => Err(Trouble::invalid("That may be the value of a token. Search by its id: `token find` tells it.")),
        false => Ok(given),
    }
}

/// A day, from its beginning to that of the next, UTC.
fn day(text: Option<&str>) -> Result<Option<(Timestamp, Timestamp)>, Trouble> {
    let Some(text) = text else { return Ok(None) };
    let begin = |day: Date| Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp());
    let day = text.parse::<Date>().ok();
    let both = day.and_then(|day| Some((begin(day)?, begin(day.tomorrow().ok()?)?)));
    both.map(Some).ok_or_else(|| Trouble::invalid("A day is written as 2027-02-28."))
}

/// Shows the entries.
pub(super) async fn list(visitor: Visitor, RawQuery(query): RawQuery) -> Response {
    let page = try_list(&visitor, &Form::parse(query.unwrap_or_default().as_bytes())).await;
    visitor.answer(Section::Audit, page)
}

async fn try_list(visitor: &Visitor, asked: &Form) -> Result<Response, Trouble> {
    asked.check(&[&CONDITIONS[..], &["before"]].concat())?;
    let actor = reader(visitor)?;
    let conditions = conditions(asked)?;
    let before = match asked.text("before") {
        Some(before) => Some(before.parse().map_err(|_| Trouble::invalid("there is no such page"))?),
        None => None,
    };
    let outcome = asked.text("outcome");
    let filter = AuditFilter {
        actor: asked.text("actor").map(str::to_owned),
        action: asked.text("action").map(str::to_owned),
        subject: asked.text("subject").map(str::to_owned),
        outcome: match outcome {
            Some(name) => Some(Outcome::from_name(name).ok_or_else(|| Trouble::invalid("there is no such outcome"))?),
            None => None,
        },
        since: day(asked.text("since"))?.map(|(begin, _)| begin),
        until: day(asked.text("until"))?.map(|(_, end)| end),
    };
    let mut found = visitor.registry.audit(&actor, &filter, before, ROWS + 1).await?;
    let is_whole = found.len() <= ROWS;
    found.truncate(ROWS);
    let last = found.last().map(|last| last.place).filter(|_| !is_whole);
    let next = last.map(|last| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(conditions.iter().map(|(name, text)| (*name, text.clone())));
        query.append_pair("before", &last.to_string()).finish()
    });
    let now = Timestamp::now();
    let page = AuditPage {
        shell: visitor.shell("Audit trail", Section::Audit),
        conditions,
        rows: found.iter().map(|entry| Row::new(entry, now)).collect(),
        is_first: before.is_none(),
        next,
    };
    Ok(html::page(&page))
}

/// Takes the form with the conditions: by POST, so that what is pasted into a wrong field is in no address.
pub(super) async fn search(Submitted { visitor, form }: Submitted) -> Response {
    let searched = async {
        form.check(&[&CONDITIONS[..], &["csrf"]].concat())?;
        reader(&visitor)?;
        day(form.text("since")).and(day(form.text("until")))?;
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(conditions(&form)?).finish();
        Ok(visitor.go(&if query.is_empty() { "/audit".to_owned() } else { format!("/audit?{query}") }))
    };
    let page = searched.await;
    visitor.answer(Section::Audit, page)
}

/// Verifies the chain, and tells at the list what it found.
pub(super) async fn verify(Submitted { visitor, .. }: Submitted) -> Response {
    let verified = async {
        let actor = reader(&visitor)?;
        let found = visitor.registry.verify_audit(&actor, Vec::new()).await?;
        let is_whole = found.is_whole();
        let Verification { verdict, not_chained: loose, elsewhere } = found;
        let findings: Vec<_> = verdict.findings.iter().map(ToString::to_string).chain(elsewhere).collect();
        let waiting =
            if loose > 0 { format!(" {} wait to be chained.", counted(loose, "more")) } else { String::new() };
        visitor.tell(match is_whole {
            true => Notice {
                is_good: true,
                text: format!("The chain holds: {}, none missing and none changed.", entries(verdict.entries)),
                detail: (loose > 0).then_some(waiting),
            },
            false => Notice {
                is_good: false,
                text: format!("The chain is broken, in {}.", entries(verdict.entries)),
                detail: Some(findings.join("; ")),
            },
        });
        Ok(visitor.go("/audit"))
    };
    let page = verified.await;
    visitor.answer(Section::Audit, page)
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{} entries", super::when::grouped(count)) }
}
