//! `POST /api/v1/tokens` and `.../rotate`: the calls that hand out the value of a token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::{Hashed, Json, Query, Segment, Wait, moment, whole};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::{WaitQuery, token_id};
use crate::console::Console;
use crate::console::caller::{Caller, TokensWrite};
use crate::console::change::Done;
use crate::console::idempotency::{Call, IdempotencyKey, Outcome};
use crate::registry::view::TokenView;
use crate::registry::{Actor, Created, Ensured, NewToken, Registry, RegistryError, Requested, Rotated, Rotation, Seen};
use crate::token::{Permission, PermissionSet, RawToken, TokenId};

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateToken {
    /// Its owner; without one, that of the calling token.
    user: Option<String>,
    /// What it is for. Never a token's value.
    #[schema(
        max_length = 200,
        pattern = r"^(?!.*[0-9A-Fa-f]{64})[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    description: String,
    /// What it shall permit, at least one; no more than the calling token does.
    #[schema(min_items = 1)]
    permissions: Vec<Permission>,
    /// When it stops working; without it, never, which a token that expires itself cannot give.
    #[serde(default, deserialize_with = "moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// A value of your own: `tc-apiv1_` and 64 lowercase hexadecimal digits. It is not in the reply.
    #[schema(value_type = Option<String>, pattern = "^tc-apiv1_[0-9a-f]{64}$")]
    token: Option<OwnValue>,
}

/// A value that the caller brings. Its problem names no part of it.
struct OwnValue(RawToken);

impl<'de> Deserialize<'de> for OwnValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        RawToken::brought(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// How a token is made.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CreateQuery {
    /// Wait so many seconds, `60s` at most, until every sidecar has applied it: the reply says who has.
    #[param(value_type = Option<String>, example = "5s", pattern = "^([1-9]|[1-5][0-9]|60)s$")]
    wait: Option<Wait>,
    /// That this user has an active token of the value in `token` is no conflict: the reply is that one.
    #[serde(default)]
    if_not_exists: bool,
}

/// A token that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    token: TokenView,
    /// What was asked for and its owner's role does not have.
    left_out: PermissionSet,
}

/// Creates a token. Its value is in this reply, and nowhere else ever.
///
/// With an `Idempotency-Key`, the same call once more creates nothing: it is answered with the token that was made, without
/// the value. A key is remembered for 24 hours, by the process that was called.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", operation_id = "create_token", request_body = CreateToken,
    params(
        CreateQuery,
        IdempotencyKey,
    ),
    responses(
        (status = 201, description = "It is made; `Location` is where", body = Done<CreatedToken>),
        (status = 200, description = "It was made by a call with the same key, or is there already", body = TokenView),
        Problems,
    ),
)]
pub(super) async fn create(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Query(CreateQuery { wait, if_not_exists }): Query<CreateQuery>,
    fields: HeaderMap,
    Hashed { value: asked, hash }: Hashed<CreateToken>,
) -> Result<Response, Problem> {
    let CreateToken { user, description, permissions, expires_at, token: own } = asked;
    let requested: PermissionSet = permissions.into_iter().collect();
    if requested.is_empty() {
        return Err(Problem::invalid("permissions: name at least one"));
    }
    let (actor, token) = (caller.actor(), caller.holder.token);
    let mut call = console.creations.begin(token, &fields, hash)?;
    if let Call::Again(outcome) = call {
        if let Some(reply) = again(&caller.registry, &actor, outcome).await? {
            return Ok(reply);
        }
        console.creations.forget(token, &fields);
        call = console.creations.begin(token, &fields, hash)?;
    }
    let Call::New(pending) = call else { return Err(Problem::under_way()) };
    let user = user.unwrap_or_else(|| caller.holder.owner.name().to_owned());
    if let (true, Some(OwnValue(value))) = (if_not_exists, &own)
        && let Some(existing) = caller.registry.token_made_before(&actor, &user, &value.digest()).await?
    {
        return Ok(reply::record(&TokenView::of_details(&existing, Timestamp::now()), existing.version));
    }
    let new = NewToken { user, description, permissions: Requested::Permissions(requested), expires_at };
    let is_own = own.is_some();
    let command = async move |registry: Registry| {
        let outcome = match own {
            Some(OwnValue(value)) if if_not_exists => registry.ensure_token(&actor, new, value).await,
            Some(OwnValue(value)) => registry.create_token_of(&actor, new, value).await.map(Ensured::Made),
            None => registry.create_token(&actor, new).await.map(Ensured::Made),
        };
        pending.end(match &outcome {
            Ok(Ensured::Made(created)) => Ok(created.record.id),
            Ok(Ensured::There(found)) => Ok(found.record.id),
            Err(error) => Err(error),
        });
        outcome
    };
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    match done.made() {
        Ok(done) => Ok(created(&console, done.map(|created| (made(&created, requested, is_own), created.record.id)))),
        Err(found) => Ok(reply::record(&TokenView::of_details(&found, Timestamp::now()), found.version)),
    }
}

fn made(created: &Created, requested: PermissionSet, is_own: bool) -> CreatedToken {
    let now = Timestamp::now();
    let token = match is_own {
        // Whoever brought the value has it.
        true => TokenView::new(&created.record, &created.owner, now),
        false => TokenView::of_created(created, now),
    };
    CreatedToken { token, left_out: requested.without(created.record.permissions) }
}

fn created(console: &Console, done: Done<(CreatedToken, TokenId)>) -> Response {
    let path = console.path(&format!("/api/v1/tokens/{}", done.done.1));
    let mut reply = reply::json(StatusCode::CREATED, &done.map(|(token, _)| token));
    reply.headers_mut().extend(HeaderValue::try_from(path).ok().map(|path| (LOCATION, path)));
    reply
}

/// The reply to a call that was answered before; `None`: it has made nothing.
async fn again(registry: &Registry, actor: &Actor, outcome: Outcome) -> Result<Option<Response>, Problem> {
    let (Outcome::Made(id) | Outcome::Unknown(id)) = outcome;
    match registry.token(actor, id).await {
        Ok(details) => Ok(Some(reply::record(&TokenView::of_details(&details, Timestamp::now()), details.version))),
        Err(RegistryError::NoSuchTokens(_)) if matches!(outcome, Outcome::Unknown(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How a token is rotated.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateToken {
    /// For how many seconds the old token still works, at most as long as it would have anyway; 0 ends it at once.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64, example = 86400)]
    overlap_seconds: u64,
    /// When the successor stops working; without it, as long from now as the old token was made for.
    #[serde(default, deserialize_with = "moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// A value of your own: `tc-apiv1_` and 64 lowercase hexadecimal digits. It is not in the reply. Where the Controller has
    /// the same tokens, install it there first.
    #[schema(value_type = Option<String>, pattern = "^tc-apiv1_[0-9a-f]{64}$")]
    token: Option<OwnValue>,
}

/// Rotates a token: makes a successor with the same owner, permissions and description, and lets the old one end after an
/// overlap. The value of the successor is in this reply, and nowhere else ever. A token is rotated once.
#[utoipa::path(
    post, path = "/api/v1/tokens/{id}/rotate", tag = "tokens", operation_id = "rotate_token", request_body = RotateToken,
    params(("id" = TokenId, Path, description = "The token's id"), WaitQuery, reply::IfMatch),
    responses(
        (status = 201, description = "The successor; `Location` is where", body = Done<CreatedToken>),
        Problems,
    ),
)]
pub(super) async fn rotate(
    caller: Caller<TokensWrite>,
    State(console): State<Arc<Console>>,
    Segment(id): Segment,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    fields: HeaderMap,
    Json(RotateToken { overlap_seconds, expires_at, token }): Json<RotateToken>,
) -> Result<Response, Problem> {
    let (actor, is_own) = (caller.actor(), token.is_some());
    let rotation = Rotation { token: token_id(&id)?, overlap: Duration::from_secs(overlap_seconds), expires_at };
    let seen = Seen::at(rotation, reply::expected(&fields)?);
    let command = async move |registry: Registry| match token {
        Some(OwnValue(value)) => registry.rotate_to_value(&actor, seen, value).await,
        None => registry.rotate(&actor, seen).await,
    };
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    Ok(created(
        &console,
        done.map(|Rotated { old, successor }| (made(&successor, old.permissions, is_own), successor.record.id)),
    ))
}
