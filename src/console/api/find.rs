//! `/api/v1/tokens/find`: whose token it is that an agent has, or that a log names.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use zeroize::Zeroizing;

use super::input::{Json, Nothing, Query};
use super::problem::{Problem, Problems};
use super::reply;
use super::tokens::MAX_PAGE;
use crate::console::caller::{Caller, TokensRead};
use crate::registry::view::TokenView;
use crate::registry::{RegistryError, TokenDetails, TokenQuery};
use crate::token::{DigestPrefix, RawToken};

/// A token, by its value or by its digest. In a body, which no server writes to its log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FindToken {
    #[serde(default, deserialize_with = "value")]
    token: Option<RawToken>,
    #[serde(default, deserialize_with = "digits")]
    digest: Option<DigestPrefix>,
}

/// What is wrong with it is said without any of it.
fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RawToken>, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?);
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DigestPrefix>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl PartialSchema for FindToken {
    fn schema() -> RefOr<Schema> {
        let by = |name: &str, pattern: &str, what: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).description(Some(what));
            let closed = Some(AdditionalProperties::FreeForm(false));
            ObjectBuilder::new().property(name, text).required(name).additional_properties(closed)
        };
        let token = by("token", "^tc-apiv1_[!-~]{1,500}$", "The token itself");
        let digits = "The first digits of the digest, 6 at least, as logs and lists have them";
        OneOfBuilder::new().item(token).item(by("digest", "^[0-9A-Fa-f]{6,64}$", digits)).into()
    }
}

impl ToSchema for FindToken {}

/// Finds tokens by a value, which is stored nowhere, or by the first digits of their digests.
#[utoipa::path(
    post, path = "/api/v1/tokens/find", tag = "tokens", operation_id = "find_tokens", request_body = FindToken,
    responses(
        (status = 200, description = "The token, or all whose digests begin so, 1000 at most", body = [TokenView]),
        Problems,
    ),
)]
pub(super) async fn find(
    caller: Caller<TokensRead>,
    _: Query<Nothing>,
    Json(asked): Json<FindToken>,
) -> Result<Response, Problem> {
    let (registry, actor) = (&caller.registry, caller.actor());
    let found = match asked {
        FindToken { token: Some(token), digest: None } => {
            let id = registry.token_with(&actor, &token.digest()).await?;
            let TokenDetails { record, owner, .. } = registry.token(&actor, id).await?;
            vec![(record, owner)]
        }
        FindToken { token: None, digest: Some(digits) } => {
            let query = TokenQuery { digest: Some(digits.clone()), ..TokenQuery::default() };
            match registry.tokens(&actor, &query, None, MAX_PAGE).await? {
                found if found.is_empty() => return Err(RegistryError::NoSuchDigest(digits).into()),
                found => found,
            }
        }
        _ => return Err(Problem::invalid("give either token or digest")),
    };
    let ids: Vec<_> = found.iter().map(|(token, _)| token.id).collect();
    let (uses, now) = (registry.usage(&actor, &ids).await?, Timestamp::now());
    let view = |(token, owner): &(_, _)| TokenView::new(token, owner, now).with_usage(&uses);
    Ok(reply::json(StatusCode::OK, &found.iter().map(view).collect::<Vec<_>>()))
}
