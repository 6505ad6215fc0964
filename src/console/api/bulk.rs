//! What is done to many tokens at once: to those that are named, or to all that match.
//!
//! What is confirmed is a *set*: whoever chose by a filter says how many tokens there were and gives the fingerprint of
//! these, and where other tokens match by now, nothing is done.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::input::{Json, Object, Query, Wait, whole};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::{TokenFilter, WaitQuery};
use crate::console::Console;
use crate::console::caller::{Caller, TokensDelete, TokensRead, TokensWrite};
use crate::console::change::Done;
use crate::registry::view::AgentView;
use crate::registry::{Actor, BulkAction, Dependents, Fingerprint, Registry, RegistryError, Seen, TokenQuery};
use crate::token::{TokenId, TokenRecord};

/// A set of tokens: what to give along with the filter that it came from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Selection {
    /// How many there are.
    count: usize,
    /// Which they are.
    #[schema(value_type = Fingerprint)]
    fingerprint: String,
}

/// Which set of tokens matches now.
#[utoipa::path(
    get, path = "/api/v1/tokens/selection", tag = "tokens", operation_id = "select_tokens", params(TokenFilter),
    responses((status = 200, description = "How many tokens match, and which", body = Selection), Problems),
)]
pub(super) async fn selection(
    caller: Caller<TokensRead>,
    Query(filter): Query<TokenFilter>,
) -> Result<Response, Problem> {
    let ids = caller.registry.select(&caller.actor(), &filter.query()?).await?;
    let selection = Selection { count: ids.len(), fingerprint: Fingerprint::of(&ids).to_string() };
    Ok(reply::json(StatusCode::OK, &selection))
}

/// Tokens to do something to: either `ids`, or a `filter` with the fingerprint of what it matched.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chosen {
    /// These.
    ids: Option<Vec<TokenId>>,
    /// All that match, which must say something.
    filter: Option<Object<TokenFilter>>,
    /// How many they are.
    #[serde(deserialize_with = "whole")]
    count: u64,
    /// Which they are; needed with a filter.
    #[serde(default, deserialize_with = "fingerprint")]
    fingerprint: Option<Fingerprint>,
    /// Go on even if the Owner loses the last usable token.
    #[serde(default)]
    force: bool,
    /// Leave out ids of tokens that do not exist, or no longer. They count all the same.
    #[serde(default)]
    if_exists: bool,
    /// Say which tokens these are and what depends on them, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Tokens to give to somebody: either `ids`, or a `filter` with the fingerprint of what it matched.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChosenFor {
    /// The new owner.
    to: String,
    /// These.
    ids: Option<Vec<TokenId>>,
    /// All that match, which must say something.
    filter: Option<Object<TokenFilter>>,
    /// How many they are.
    #[serde(deserialize_with = "whole")]
    count: u64,
    /// Which they are; needed with a filter.
    #[serde(default, deserialize_with = "fingerprint")]
    fingerprint: Option<Fingerprint>,
    /// Go on even if the Owner loses the last usable token.
    #[serde(default)]
    force: bool,
    /// Leave out ids of tokens that do not exist, or no longer. They count all the same.
    #[serde(default)]
    if_exists: bool,
    /// Say which tokens these are and what depends on them, and do nothing.
    #[serde(default)]
    dry_run: bool,
}

impl PartialSchema for Chosen {
    fn schema() -> RefOr<Schema> {
        either(|chosen| chosen)
    }
}

impl ToSchema for Chosen {}

impl PartialSchema for ChosenFor {
    fn schema() -> RefOr<Schema> {
        let to = || ObjectBuilder::new().schema_type(Type::String).description(Some("The new owner"));
        either(|chosen| chosen.property("to", to()).required("to"))
    }
}

impl ToSchema for ChosenFor {}

const IF_EXISTS: &str = "Leave out ids of tokens that do not exist, or no longer; they count all the same";
const DRY_RUN: &str = "Say which tokens these are and what depends on them, and do nothing";

/// Either of the two ways to choose, with what else is said.
fn either(with: impl Fn(ObjectBuilder) -> ObjectBuilder) -> RefOr<Schema> {
    let chosen = || {
        let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(1_000_000_000));
        let flag = || ObjectBuilder::new().schema_type(Type::Boolean);
        let chosen = ObjectBuilder::new()
            .property("count", count.description(Some("How many tokens they are")))
            .required("count")
            .property("fingerprint", Fingerprint::schema())
            .property("force", flag().description(Some("Go on even if the Owner loses the last usable token")))
            .property("if_exists", flag().description(Some(IF_EXISTS)))
            .property("dry_run", flag().description(Some(DRY_RUN)))
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        with(chosen)
    };
    let ids = ArrayBuilder::new().items(TokenId::schema()).min_items(Some(1)).unique_items(true);
    let filter = match TokenFilter::schema() {
        RefOr::T(Schema::Object(mut filter)) => {
            filter.min_properties = Some(1);
            RefOr::T(Schema::Object(filter))
        }
        other => other,
    };
    let by_ids = chosen().property("ids", ids).required("ids").description(Some("These tokens"));
    let by_filter = chosen().property("filter", filter).required("filter").required("fingerprint");
    let by_filter = by_filter.description(Some("All that match, as they were seen"));
    OneOfBuilder::new().item(by_ids).item(by_filter).into()
}

fn fingerprint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fingerprint>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What was done to many tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Many {
    /// How many they are.
    count: usize,
    /// Which.
    ids: Vec<TokenId>,
    /// Of a `dry_run`, which does nothing: what depends on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    dependents: Option<DependentsView>,
}

/// What depends on some tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Dependents)]
pub(super) struct DependentsView {
    /// How many tokens they are.
    tokens: usize,
    /// How many agents used them within 24 hours, each counted once.
    agents_24h: u64,
    /// The number is within two percent.
    estimated: bool,
    /// They are as many at most: those that used several of the tokens were not told apart.
    at_most: bool,
    /// Those that used them last within 24 hours, the latest first: 20 at most.
    agents: Vec<AgentView>,
    /// When one of them was last used, if that is known.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    /// Since when uses are recorded.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    recorded_since: Option<Timestamp>,
    /// Sidecars that have not recorded for a minute what they let through: there may be more.
    silent_sidecars: Vec<String>,
}

/// Agents that are named.
const NAMED: usize = 20;

impl From<Dependents> for DependentsView {
    fn from(dependents: Dependents) -> Self {
        let Dependents { tokens, agents, is_bound, latest, last_used, now: _, since, silent } = dependents;
        Self {
            tokens,
            agents_24h: agents.agents,
            estimated: agents.is_estimate,
            at_most: is_bound,
            agents: latest.iter().map(AgentView::from).collect(),
            last_used_at: last_used,
            recorded_since: since,
            silent_sidecars: silent,
        }
    }
}

/// What depends on the tokens that match.
#[utoipa::path(
    get, path = "/api/v1/tokens/dependents", tag = "tokens", operation_id = "show_dependents", params(TokenFilter),
    responses((status = 200, description = "Who uses them", body = DependentsView), Problems),
)]
pub(super) async fn dependents(
    caller: Caller<TokensRead>,
    Query(filter): Query<TokenFilter>,
) -> Result<Response, Problem> {
    let (registry, actor) = (&caller.registry, caller.actor());
    let ids = registry.select(&actor, &filter.query()?).await?;
    let dependents = registry.dependents(&actor, &ids, NAMED).await?;
    Ok(reply::json(StatusCode::OK, &DependentsView::from(dependents)))
}

/// Revokes tokens, for good. Those that are revoked already stay as they are.
#[utoipa::path(
    post, path = "/api/v1/tokens/revoke", tag = "tokens", operation_id = "revoke_tokens", request_body = Chosen, params(WaitQuery),
    responses((status = 200, description = "All of them are revoked", body = Done<Many>), Problems),
)]
pub(super) async fn revoke(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    Json(chosen): Json<Chosen>,
) -> Result<Response, Problem> {
    let (actor, Flags { force, if_exists, dry_run }) = (caller.actor(), chosen.flags());
    let ids = chosen.ids(&caller.registry, &actor).await?;
    if dry_run {
        return tried(&caller.registry, &actor, BulkAction::Revoke, seen(&ids, if_exists), force).await;
    }
    let named = ids.clone();
    let command = async move |registry: Registry| registry.revoke(&actor, seen(&named, if_exists), force).await;
    many(&console, caller.registry, ids, wait, command).await
}

/// Deletes tokens and their histories, for good.
#[utoipa::path(
    post, path = "/api/v1/tokens/delete", tag = "tokens", operation_id = "delete_tokens", request_body = Chosen, params(WaitQuery),
    responses((status = 200, description = "All of them are gone", body = Done<Many>), Problems),
)]
pub(super) async fn delete(
    caller: Caller<TokensDelete>,
    State(console): State<Arc<Console>>,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    Json(chosen): Json<Chosen>,
) -> Result<Response, Problem> {
    let (actor, Flags { force, if_exists, dry_run }) = (caller.actor(), chosen.flags());
    let ids = chosen.ids(&caller.registry, &actor).await?;
    if dry_run {
        return tried(&caller.registry, &actor, BulkAction::Delete, seen(&ids, if_exists), force).await;
    }
    let named = ids.clone();
    let command = async move |registry: Registry| registry.delete(&actor, seen(&named, if_exists), force).await;
    many(&console, caller.registry, ids, wait, command).await
}

/// Gives active tokens to another user. They lose what that user's role does not have, and work on.
#[utoipa::path(
    post, path = "/api/v1/tokens/reassign", tag = "tokens", operation_id = "reassign_tokens", request_body = ChosenFor, params(WaitQuery),
    responses((status = 200, description = "All of them are the new owner's", body = Done<Many>), Problems),
)]
pub(super) async fn reassign(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    Json(chosen): Json<ChosenFor>,
) -> Result<Response, Problem> {
    let ChosenFor { to, ids, filter, count, fingerprint, force, if_exists, dry_run } = chosen;
    let actor = caller.actor();
    let chosen = Chosen { ids, filter, count, fingerprint, force, if_exists, dry_run };
    let ids = chosen.ids(&caller.registry, &actor).await?;
    if dry_run {
        let action = BulkAction::Reassign { to: &to };
        return tried(&caller.registry, &actor, action, seen(&ids, if_exists), force).await;
    }
    let named = ids.clone();
    let command = async move |registry: Registry| registry.reassign(&actor, seen(&named, if_exists), &to, force).await;
    many(&console, caller.registry, ids, wait, command).await
}

/// How a command goes about its tokens.
struct Flags {
    force: bool,
    if_exists: bool,
    dry_run: bool,
}

fn seen(ids: &[TokenId], if_exists: bool) -> Seen<&[TokenId]> {
    Seen::at(ids, None).if_exists(if_exists)
}

impl Chosen {
    fn flags(&self) -> Flags {
        Flags { force: self.force, if_exists: self.if_exists, dry_run: self.dry_run }
    }

    /// The tokens, if they are those that were seen.
    async fn ids(self, registry: &Registry, actor: &Actor) -> Result<Vec<TokenId>, Problem> {
        let Self { ids, filter, count, fingerprint, if_exists: _, force: _, dry_run: _ } = self;
        let ids = match (ids, filter) {
            (Some(ids), None) if ids.is_empty() => return Err(Problem::invalid("ids: name at least one token")),
            (Some(ids), None) => ids,
            (None, Some(Object(filter))) => {
                let query = filter.query()?;
                if query == TokenQuery::default() {
                    return Err(Problem::invalid("filter: an empty one means every token; say which are meant"));
                }
                if fingerprint.is_none() {
                    let where_from = "/api/v1/tokens/selection with the same filter gives it";
                    return Err(Problem::invalid(format!("fingerprint: needed with a filter; {where_from}")));
                }
                registry.select(actor, &query).await?
            }
            _ => return Err(Problem::invalid("give either ids or a filter")),
        };
        let is_seen = fingerprint.is_none_or(|fingerprint| fingerprint == Fingerprint::of(&ids));
        let is_as_many = ids.len() as u64 == count;
        match is_as_many && is_seen {
            true => Ok(ids),
            false if !is_as_many => {
                Err(Problem::conflict(format!("these are {} tokens, and not {count}; nothing was done", ids.len())))
            }
            false => Err(Problem::conflict("these are other tokens than those you have seen; nothing was done")),
        }
    }
}

/// What it would be done to. Nobody is told so who would be refused.
async fn tried(
    registry: &Registry,
    actor: &Actor,
    action: BulkAction<'_>,
    seen: Seen<&[TokenId]>,
    force: bool,
) -> Result<Response, Problem> {
    let ids = ids_of(registry.preview(actor, action, seen, force).await?);
    let dependents = Some(registry.dependents(actor, &ids, NAMED).await?.into());
    Ok(reply::json(StatusCode::OK, &Many { count: ids.len(), ids, dependents }))
}

fn ids_of(tokens: Vec<TokenRecord>) -> Vec<TokenId> {
    tokens.into_iter().map(|token| token.id).collect()
}

/// Runs the command on all of them. One that breaks off says to which it was not done.
async fn many<F>(
    console: &Arc<Console>,
    registry: Registry,
    ids: Vec<TokenId>,
    wait: Option<Wait>,
    command: impl FnOnce(Registry) -> F + Send + 'static,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<Vec<TokenRecord>, RegistryError>> + Send,
{
    match console.change(registry, wait.map(|Wait(wait)| wait), command).await {
        Ok(done) => {
            let done = done.map(ids_of).map(|ids| Many { count: ids.len(), ids, dependents: None });
            Ok(reply::json(StatusCode::OK, &done))
        }
        Err(error) => Err(match error.done() {
            Some(done) => Problem::from(error).after(done, ids.get(done..).unwrap_or_default().to_vec()),
            None => error.into(),
        }),
    }
}
