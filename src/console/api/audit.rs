//! `/api/v1/audit-logs`: the audit trail, and whether it is whole.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{MAX_WHOLE, Query, present_moment};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::{check_no_token, limit, page};
use crate::audit::{Head, InvalidHead, Outcome, Verdict, Verification};
use crate::console::Console;
use crate::console::caller::{AuditRead, Caller};
use crate::registry::AuditFilter;

/// A page of the entries for which all of it holds.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only what this user or token did: an id, or a name. Somebody at the store itself is `cli:` and the login name.
    actor: Option<String>,
    /// Only this action, or all that begin so, such as `token.revoke` or `user`.
    action: Option<String>,
    /// Only what was done to this token or user: an id, or a user's name.
    subject: Option<String>,
    /// Only with this outcome: `success`, `failure` or `denied`.
    #[param(pattern = "^(success|failure|denied)$")]
    outcome: Option<String>,
    /// Only from this moment on.
    #[serde(default, deserialize_with = "present_moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only before this moment.
    #[serde(default, deserialize_with = "present_moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Start after this number: what `Link` says. (What is not chained yet has a place there too.)
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    after: Option<u64>,
    /// Most entries of the page: 50, unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

fn parse_outcome(text: &str) -> Result<Outcome, Problem> {
    let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.name().eq_ignore_ascii_case(text));
    outcome.ok_or_else(|| Problem::invalid("outcome: success, failure or denied"))
}

/// An entry, as the trail has it; other members say what it was done to.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what is served")]
pub(super) struct AuditEntry {
    /// Its number; none while it is not chained.
    seq: Option<u64>,
    /// When it was.
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    /// What was done, such as `token.revoke`.
    action: String,
    /// `Success`, `Failure` or `Denied`.
    outcome: String,
    /// Whether it is chained.
    chained: bool,
}

/// Lists the audit trail, the newest entry first; before these, those that are not chained yet, which have no number.
#[utoipa::path(
    get, path = "/api/v1/audit-logs", tag = "audit", operation_id = "list_audit_logs", params(ListQuery),
    responses(
        (status = 200, description = "The page; `Link` with `rel=\"next\"` leads to the next one", body = [AuditEntry]),
        Problems,
    ),
)]
pub(super) async fn list(
    caller: Caller<AuditRead>,
    State(console): State<Arc<Console>>,
    uri: http::Uri,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let ListQuery { actor, action, subject, outcome, since, until, after, limit: most } = query;
    let limit = limit(most)?;
    if after.is_some_and(|after| after > MAX_WHOLE) {
        return Err(Problem::invalid("after: the number of an entry"));
    }
    for (name, text) in [("actor", &actor), ("action", &action), ("subject", &subject)] {
        text.iter().try_for_each(|text| check_no_token(name, text))?;
    }
    let outcome = outcome.as_deref().map(parse_outcome).transpose()?;
    let filter = AuditFilter { actor, action, subject, outcome, since, until };
    // One more, to know whether the list goes on.
    let mut found = caller.registry.audit(&caller.actor(), &filter, after, limit + 1).await?;
    let is_whole = found.len() <= limit;
    found.truncate(limit);
    let next = found.last().filter(|_| !is_whole).map(|last| last.place.to_string());
    Ok(page(&console, &uri, &found, next))
}

/// Whether the audit trail is what was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VerdictView {
    /// Nothing is missing, and nothing was changed.
    whole: bool,
    /// How many entries there are.
    entries: u64,
    /// The number of the first one: what was before went by retention.
    #[schema(required)]
    first: Option<u64>,
    /// The last one. That those after it were cut off shows only to what knows more than the store.
    #[schema(required)]
    head: Option<HeadView>,
    /// How many more are not chained yet.
    not_chained: u64,
    /// What is wrong: the first thousand.
    findings: Vec<String>,
    /// What is wrong by what knows more than the store: the file of `audit.file`, and `head`.
    elsewhere: Vec<String>,
}

/// What the trail is compared with.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VerifyQuery {
    /// An entry's number and hash (`seq` and `hash`, with a colon between), which the trail must have too: what syslog got last,
    /// say, or the last line of a copy of the trail.
    #[serde(default, deserialize_with = "head")]
    #[param(value_type = Option<String>, pattern = "^[1-9][0-9]{0,14}:[0-9a-f]{64}$")]
    head: Option<Head>,
}

fn head<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Head>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let head = text.parse::<Head>().ok().filter(|head| head.seq <= MAX_WHOLE && !text.starts_with(['0', '+']));
    head.map(Some).ok_or_else(|| serde::de::Error::custom(InvalidHead))
}

/// The end of the trail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HeadView {
    /// Its number.
    seq: u64,
    /// Its hash.
    hash: String,
}

/// Verifies that no entry of the audit trail is missing, and that none was changed. Reads all of it, and the file that it is
/// written to.
#[utoipa::path(
    get, path = "/api/v1/audit-logs/verify", tag = "audit", operation_id = "verify_audit_logs", params(VerifyQuery),
    responses((status = 200, description = "What was found", body = VerdictView), Problems),
)]
pub(super) async fn verify(
    caller: Caller<AuditRead>,
    Query(VerifyQuery { head }): Query<VerifyQuery>,
) -> Result<Response, Problem> {
    let found = caller.registry.verify_audit(&caller.actor(), head.into_iter().collect()).await?;
    let whole = found.is_whole();
    let Verification { verdict: Verdict { entries, first, head, findings, .. }, not_chained, elsewhere } = found;
    let head = head.map(|head| HeadView { seq: head.seq, hash: head.hash });
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    Ok(reply::json(StatusCode::OK, &VerdictView { whole, entries, first, head, not_chained, findings, elsewhere }))
}
