//! `/api/v1/tokens/purge`: deletes what has been of no use for long.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::input::{Json, Query, Wait, present_moment, whole};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::WaitQuery;
use crate::console::Console;
use crate::console::caller::{Caller, TokensDelete};
use crate::console::change::Done;
use crate::registry::{PurgeFilter, Purged, Registry};

/// Which tokens to delete, and how many they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PurgeTokens {
    #[serde(default, deserialize_with = "present_moment")]
    expired_by: Option<Timestamp>,
    #[serde(default, deserialize_with = "present_moment")]
    revoked_by: Option<Timestamp>,
    #[serde(default, deserialize_with = "count")]
    count: Option<u64>,
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    whole(deserializer).map(Some)
}

impl PartialSchema for PurgeTokens {
    fn schema() -> RefOr<Schema> {
        let moment = |what: &str| {
            let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
            ObjectBuilder::new().schema_type(Type::String).format(Some(format)).description(Some(what))
        };
        let revoked = || moment("Those that were revoked at this moment of the past or before");
        let count = || {
            let what = "How many they are: where they are not as many, nothing is done. Without it nothing is done either, and \
                        the reply says how many they are";
            let count = ObjectBuilder::new().schema_type(Type::Integer).description(Some(what));
            count.minimum(Some(0)).maximum(Some(1_000_000_000))
        };
        let closed = || {
            let closed = Some(AdditionalProperties::FreeForm(false));
            ObjectBuilder::new().property("count", count()).additional_properties(closed)
        };
        let expired = moment("Those that expired at this moment of the past or before, and were not revoked");
        let both = closed().property("expired_by", expired).required("expired_by").property("revoked_by", revoked());
        let revoked = closed().property("revoked_by", revoked()).required("revoked_by");
        OneOfBuilder::new().item(both).item(revoked).into()
    }
}

impl ToSchema for PurgeTokens {}

/// How many tokens were deleted, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokensPurged {
    /// All of them.
    count: usize,
    /// Those that had expired.
    expired: usize,
    /// Those that had been revoked.
    revoked: usize,
    /// Nothing was done: no `count` was given.
    dry_run: bool,
}

impl TokensPurged {
    fn of(purged: Purged, dry_run: bool) -> Self {
        let Purged { expired, revoked } = purged;
        Self { count: purged.tokens(), expired, revoked, dry_run }
    }
}

/// Deletes tokens that expired or were revoked long ago, with their histories, for good. Broken off, the same call goes on.
#[utoipa::path(
    post, path = "/api/v1/tokens/purge", tag = "tokens", operation_id = "purge_tokens", request_body = PurgeTokens, params(WaitQuery),
    responses((status = 200, description = "They are gone", body = Done<TokensPurged>), Problems),
)]
pub(super) async fn purge(
    caller: Caller<TokensDelete>,
    State(console): State<Arc<Console>>,
    Query(WaitQuery { wait }): Query<WaitQuery>,
    Json(PurgeTokens { expired_by, revoked_by, count }): Json<PurgeTokens>,
) -> Result<Response, Problem> {
    let latest = expired_by.max(revoked_by).ok_or_else(|| Problem::invalid("give expired_by, revoked_by or both"))?;
    // Of the past: no later moment makes them more than they were when they were counted.
    if latest > Timestamp::now() {
        return Err(Problem::conflict("expired_by and revoked_by are moments of the past; nothing was done"));
    }
    let (actor, filter) = (caller.actor(), PurgeFilter { expired_by, revoked_by });
    let found = caller.registry.count_purgeable(&actor, &filter).await?;
    match (count, found.tokens()) {
        (None, _) => return Ok(reply::json(StatusCode::OK, &TokensPurged::of(found, true))),
        (Some(count), tokens) if count != tokens as u64 => {
            return Err(Problem::conflict(format!("these are {tokens} tokens, and not {count}; nothing was done")));
        }
        (Some(_), _) => {}
    }
    let command = async move |registry: Registry| registry.purge(&actor, &filter).await;
    let done = console.change(caller.registry, wait.map(|Wait(wait)| wait), command).await?;
    Ok(reply::json(StatusCode::OK, &done.map(|purged| TokensPurged::of(purged, false))))
}
