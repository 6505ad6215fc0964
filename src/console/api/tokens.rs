//! `/api/v1/tokens`: one token at a time, and lists.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::LINK;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::input::{Json, NoBody, Nothing, Query, Segment, Wait, present_moment};
use super::problem::{Problem, Problems};
use super::reply;
use crate::console::Console;
use crate::console::caller::{AnyToken, Caller, TokensDelete, TokensRead, TokensWrite};
use crate::console::change::Done;
use crate::registry::view::TokenView;
use crate::registry::{ListState, Registry, RegistryError, Seen, TokenQuery, Unused, holds_token};
use crate::token::{Permission, PermissionSet, TokenId, TokenRecord};

/// Most records of a page.
pub(super) const MAX_PAGE: usize = 1000;

/// Records of a page, unless another number is asked for.
pub(super) const PAGE: usize = 50;

/// Which tokens: those for which all of it holds. Without anything, all that the caller may see.
#[derive(Debug, Clone, Default, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenFilter {
    /// Only tokens of this user.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) user: Option<String>,
    /// Only those in this state.
    #[serde(default, deserialize_with = "state")]
    #[schema(nullable = false)]
    #[param(inline)]
    pub(super) state: Option<ListState>,
    /// Only those that permit this.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    #[param(inline)]
    pub(super) permission: Option<Permission>,
    /// Only those that expire before this moment, or did.
    #[serde(default, deserialize_with = "present_moment")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    #[param(value_type = Option<String>, format = DateTime)]
    pub(super) expires_before: Option<Timestamp>,
    /// Only those that were made before this moment and not used since, as far as uses are recorded from then on.
    #[serde(default, deserialize_with = "present_moment")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    #[param(value_type = Option<String>, format = DateTime)]
    pub(super) unused_since: Option<Timestamp>,
    /// Only those that were never used.
    #[serde(default, deserialize_with = "yes")]
    #[schema(schema_with = only_true)]
    #[param(schema_with = only_true, required = false)]
    pub(super) never_used: bool,
    /// Only those with this text, in any case, in the description, the id, the last characters of the value or the owner's
    /// name. At most 200 characters, and never a token: no 32 letters and digits in a row.
    #[serde(default, deserialize_with = "present")]
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^([A-Za-z0-9]{0,31}[^A-Za-z0-9])*[A-Za-z0-9]{0,31}$",
        nullable = false
    )]
    #[param(min_length = 1, max_length = 200, pattern = "^([A-Za-z0-9]{0,31}[^A-Za-z0-9])*[A-Za-z0-9]{0,31}$")]
    pub(super) text: Option<String>,
}

fn state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ListState>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What is there says something: `null` would be a condition that is none.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A condition that is there or not: `false` would be one that says nothing.
fn yes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match bool::deserialize(deserializer)? {
        true => Ok(true),
        false => Err(serde::de::Error::custom("say true, or leave it out")),
    }
}

fn only_true() -> Object {
    let only = "Only those that were never used";
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true])).description(Some(only)).build()
}

/// What is asked for in a query is no value of a token.
pub(super) fn check_no_token(name: &str, text: &str) -> Result<(), Problem> {
    match holds_token(text) {
        true => Err(Problem::invalid(format!(
            "{name}: this may be a token, which must not be in a query; revoke it if it is"
        ))),
        false => Ok(()),
    }
}

/// Longest text to search for, in characters.
const MAX_TEXT: usize = 200;

impl TokenFilter {
    /// As the registry takes it.
    pub(super) fn query(self) -> Result<TokenQuery, Problem> {
        let Self { user, state, permission, expires_before, unused_since, never_used, text } = self;
        // Since a moment to come nothing was used: that would be every token.
        if unused_since.is_some_and(|since| since > Timestamp::now()) {
            return Err(Problem::conflict("unused_since is a moment of the past"));
        }
        let (unused, made_before) = match (unused_since, never_used) {
            // One that was made since may yet be used.
            (since, true) => (Some(Unused::Ever), since),
            (Some(since), false) => (Some(Unused::Since(since)), None),
            (None, false) => (None, None),
        };
        if let Some(text) = &text {
            // Servers and browsers keep what they are asked for: it is known to others from now on.
            check_no_token("text", text)?;
            if text.is_empty() || text.chars().count() > MAX_TEXT {
                return Err(Problem::invalid("text: give 1 to 200 characters, or leave it out"));
            }
        }
        Ok(TokenQuery { user, state, permission, expires_before, unused, made_before, text, digest: None })
    }
}

/// A page of the tokens for which all of it holds.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only tokens of this user.
    user: Option<String>,
    /// Only those in this state.
    #[serde(default, deserialize_with = "state")]
    #[param(inline)]
    state: Option<ListState>,
    /// Only those that permit this.
    #[param(inline)]
    permission: Option<Permission>,
    /// Only those that expire before this moment, or did.
    #[serde(default, deserialize_with = "present_moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    expires_before: Option<Timestamp>,
    /// Only those that were made before this moment and not used since, as far as uses are recorded from then on.
    #[serde(default, deserialize_with = "present_moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    unused_since: Option<Timestamp>,
    /// Only those that were never used.
    #[serde(default, deserialize_with = "yes")]
    #[param(schema_with = only_true, required = false)]
    never_used: bool,
    /// Only those with this text, in any case, in the description, the id, the last characters of the value or the owner's
    /// name. At most 200 characters, and never a token: no 32 letters and digits in a row.
    #[param(min_length = 1, max_length = 200, pattern = "^([A-Za-z0-9]{0,31}[^A-Za-z0-9])*[A-Za-z0-9]{0,31}$")]
    text: Option<String>,
    /// Start after this id, the last one of the page before.
    #[param(inline)]
    after: Option<TokenId>,
    /// Most tokens of the page: 50, unless said otherwise.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The size of a page.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(Problem::invalid("limit: 1 to 1000")),
    }
}

/// A page of a list, with the way to the next one if there is more.
pub(super) fn page<T: Serialize>(console: &Console, uri: &http::Uri, page: &[T], next: Option<String>) -> Response {
    with_next(reply::json(StatusCode::OK, &page), console, uri, next)
}

/// A page with the way to the next one, if there is one.
pub(super) fn with_next(mut reply: Response, console: &Console, uri: &http::Uri, next: Option<String>) -> Response {
    if let Some(next) = next {
        let is_after = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == "after");
        let query = uri.query().unwrap_or_default().split('&');
        let others = query.filter(|pair| !pair.is_empty() && !is_after(pair)).map(|pair| format!("{pair}&"));
        let own = uri.path().split_once("/api/v1/").map_or_else(|| uri.path(), |(_, own)| own);
        let path = format!("/api/v1/{own}");
        let link = format!("<{}?{}after={next}>; rel=\"next\"", console.path(&path), others.collect::<String>());
        reply.headers_mut().extend(HeaderValue::try_from(link).ok().map(|link| (LINK, link)));
    }
    reply
}

/// Lists tokens, the newest first.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "tokens", operation_id = "list_tokens", params(ListQuery),
    responses(
        (status = 200, description = "The page; `Link` with `rel=\"next\"` leads to the next one", body = [TokenView]),
        Problems,
    ),
)]
pub(super) async fn list(
    caller: Caller<TokensRead>,
    State(console): State<Arc<Console>>,
    uri: http::Uri,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let ListQuery { user, state, permission, expires_before, unused_since, never_used, text, after, limit: most } =
        query;
    let query = TokenFilter { user, state, permission, expires_before, unused_since, never_used, text }.query()?;
    let limit = limit(most)?;
    // One more, to know whether the list goes on.
    let mut found = caller.registry.tokens(&caller.actor(), &query, after, limit + 1).await?;
    let is_whole = found.len() <= limit;
    found.truncate(limit);
    let ids: Vec<_> = found.iter().map(|(token, _)| token.id).collect();
    let uses = caller.registry.usage(&caller.actor(), &ids).await?;
    let view = |(token, owner): &(_, _)| TokenView::new(token, owner, Timestamp::now()).with_usage(&uses);
    let views: Vec<_> = found.iter().map(view).collect();
    let next = views.last().filter(|_| !is_whole).map(|last| last.id.to_string());
    Ok(page(&console, &uri, &views, next))
}

/// Shows one token and its history.
#[utoipa::path(
    get, path = "/api/v1/tokens/{id}", tag = "tokens", operation_id = "show_token", params(("id" = TokenId, Path, description = "The token's id")),
    responses(
        (status = 200, description = "The token; `ETag` is its version", body = TokenView),
        Problems,
    ),
)]
pub(super) async fn show(
    caller: Caller<TokensRead>,
    Segment(id): Segment,
    _: Query<Nothing>,
) -> Result<Response, Problem> {
    let (registry, actor, id) = (&caller.registry, caller.actor(), token_id(&id)?);
    let details = registry.token(&actor, id).await?;
    let uses = registry.usage(&actor, &[id]).await?;
    let agents = registry.agents(&actor, id, MAX_PAGE).await?;
    let view = TokenView::of_details(&details, Timestamp::now()).with_usage(&uses).with_agents(&agents);
    Ok(reply::record(&view, details.version))
}

/// What is no id is that of no token.
pub(super) fn token_id(text: &str) -> Result<TokenId, Problem> {
    text.parse().map_err(|_| Problem::no_token())
}

/// What is done to one token.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangeQuery {
    /// Wait so many seconds, `60s` at most, until every sidecar has applied it: the reply says who has.
    #[param(value_type = Option<String>, example = "5s", pattern = "^([1-9]|[1-5][0-9]|60)s$")]
    wait: Option<Wait>,
    /// Go on even if the Owner loses the last usable token.
    #[serde(default)]
    force: bool,
}

/// Whether to wait.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Wait so many seconds, `60s` at most, until every sidecar has applied it: the reply says who has.
    #[param(value_type = Option<String>, example = "5s", pattern = "^([1-9]|[1-5][0-9]|60)s$")]
    pub(super) wait: Option<Wait>,
}

/// Revokes a token, for good. Its record stays.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/revoke", tag = "tokens", operation_id = "revoke_token",
    params(
        ("id" = TokenId, Path, description = "The token's id"), ChangeQuery,
        reply::IfMatch,
    ),
    responses(
        (status = 200, description = "It is revoked, or was already", body = Done<TokenView>),
        Problems,
    ),
)]
pub(super) async fn revoke(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
    Query(ChangeQuery { wait, force }): Query<ChangeQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let (ids, version, actor) = ([token_id(&id)?], reply::expected(&fields)?, caller.actor());
    let command = async move |registry: Registry| {
        let revoked = registry.revoke(&actor, Seen::at(ids.as_slice(), version), force).await?;
        view_of(&registry, revoked).await
    };
    done(console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await)
}

/// Deletes a token and its history, for good. Where there is none of this id (any more) it is 404, `not-found`.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "tokens", operation_id = "delete_token",
    params(
        ("id" = TokenId, Path, description = "The token's id"), ChangeQuery,
        reply::IfMatch,
    ),
    responses(
        (status = 200, description = "It is gone: this is what it was", body = Done<TokenView>),
        Problems,
    ),
)]
pub(super) async fn delete(
    caller: Caller<TokensDelete>,
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
    Query(ChangeQuery { wait, force }): Query<ChangeQuery>,
    fields: HeaderMap,
    _: NoBody,
) -> Result<Response, Problem> {
    let (ids, version, actor) = ([token_id(&id)?], reply::expected(&fields)?, caller.actor());
    let command = async move |registry: Registry| {
        let deleted = registry.delete(&actor, Seen::at(ids.as_slice(), version), force).await?;
        view_of(&registry, deleted).await
    };
    done(console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await)
}

/// Whom a token is given to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReassignToken {
    /// The new owner.
    to: String,
}

/// Gives a token to another user. It loses what that user's role does not have, and works on.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/reassign", tag = "tokens", operation_id = "reassign_token", request_body = ReassignToken,
    params(
        ("id" = TokenId, Path, description = "The token's id"), ChangeQuery,
        reply::IfMatch,
    ),
    responses(
        (status = 200, description = "It is the new owner's, or was already", body = Done<TokenView>),
        Problems,
    ),
)]
pub(super) async fn reassign(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
    Query(ChangeQuery { wait, force }): Query<ChangeQuery>,
    fields: HeaderMap,
    Json(ReassignToken { to }): Json<ReassignToken>,
) -> Result<Response, Problem> {
    let (ids, version, actor) = ([token_id(&id)?], reply::expected(&fields)?, caller.actor());
    let command = async move |registry: Registry| {
        let reassigned = registry.reassign(&actor, Seen::at(ids.as_slice(), version), &to, force).await?;
        view_of(&registry, reassigned).await
    };
    done(console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await)
}

fn done(done: Result<Done<Option<TokenView>>, RegistryError>) -> Result<Response, Problem> {
    let done = done?;
    match done.done {
        Some(_) => Ok(reply::json(StatusCode::OK, &done)),
        // Its owner was deleted meanwhile, and took it along.
        None => Err(Problem::no_token()),
    }
}

/// The one token that a command was about.
async fn view_of(registry: &Registry, tokens: Vec<TokenRecord>) -> Result<Option<TokenView>, RegistryError> {
    let owners = registry.users_by_id(tokens.iter().map(|token| token.owner)).await?;
    let now = Timestamp::now();
    let view = |token: &TokenRecord| Some(TokenView::new(token, &owners.get(&token.owner)?.record, now));
    Ok(tokens.first().and_then(view))
}

/// The calling token, and whose it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Own {
    /// The token's id.
    token: TokenId,
    /// Its owner.
    user: String,
    /// The owner's role.
    role: crate::token::Role,
    /// What the token permits, as far as the role does too.
    permissions: PermissionSet,
    /// When it stops working.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Shows what the calling token is, whatever it permits.
#[utoipa::path(
    get, path = "/api/v1/self", tag = "tokens", operation_id = "show_self",
    responses(
        (status = 200, description = "The calling token", body = Own),
        Problems,
    ),
)]
pub(super) async fn own(caller: Caller<AnyToken>, _: Query<Nothing>) -> Response {
    let holder = caller.holder;
    let own = Own {
        token: holder.token,
        user: holder.owner.name().to_owned(),
        role: holder.role,
        permissions: holder.permissions,
        expires_at: holder.expires_at.and_then(|second| Timestamp::from_second(second).ok()),
    };
    reply::json(StatusCode::OK, &own).into_response()
}
