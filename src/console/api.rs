//! `/api/v1`: what the commands on tokens, users and the status of the fleet do, for programs.
//!
//! JSON in and out, described by OpenAPI 3.1 as it is generated from these handlers. Lists are arrays, newest first; where
//! one goes on, the `Link` of the reply leads there (RFC 8288). What is refused is told by problem details (RFC 9457).

mod audit;
mod bulk;
mod create;
mod find;
pub(crate) mod input;
mod moving;
mod openapi;
pub(crate) mod problem;
mod purge;
mod reply;
mod status;
mod tokens;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};

use super::{Console, origin};
pub(super) use moving::IMPORTS;
use problem::Problem;

/// Everything below `/api/v1`.
pub(super) fn router(console: Arc<Console>) -> Router {
    Router::new()
        .route("/api/v1/openapi.json", get(openapi::show))
        .route("/api/v1/self", get(tokens::own))
        .route("/api/v1/tokens", get(tokens::list).post(create::create))
        .route("/api/v1/tokens/selection", get(bulk::selection))
        .route("/api/v1/tokens/revoke", post(bulk::revoke))
        .route("/api/v1/tokens/delete", post(bulk::delete))
        .route("/api/v1/tokens/reassign", post(bulk::reassign))
        .route("/api/v1/tokens/dependents", get(bulk::dependents))
        .route("/api/v1/tokens/find", post(find::find))
        .route("/api/v1/tokens/import", post(moving::import))
        .route("/api/v1/tokens/export", get(moving::export))
        .route("/api/v1/tokens/purge", post(purge::purge))
        .route("/api/v1/tokens/{id}", get(tokens::show).delete(tokens::delete))
        .route("/api/v1/tokens/{id}/revoke", post(tokens::revoke))
        .route("/api/v1/tokens/{id}/reassign", post(tokens::reassign))
        .route("/api/v1/tokens/{id}/rotate", post(create::rotate))
        .route("/api/v1/users", get(users::list).post(users::add))
        .route("/api/v1/users/{name}", get(users::show).delete(users::delete))
        .route("/api/v1/users/{name}/role", post(users::set_role))
        .route("/api/v1/users/{name}/disable", post(users::disable))
        .route("/api/v1/users/{name}/enable", post(users::enable))
        .route("/api/v1/users/{name}/transfer-ownership", post(users::transfer_ownership))
        .route("/api/v1/audit-logs", get(audit::list))
        .route("/api/v1/audit-logs/verify", get(audit::verify))
        .route("/api/v1/status", get(status::show))
        .fallback(async || Problem::no_route())
        .method_not_allowed_fallback(async || Problem::no_method())
        .layer(middleware::from_fn_with_state(Arc::clone(&console), origin::check))
        .layer(middleware::from_fn(private))
        .with_state(console)
}

/// What is answered where there is no console, and why.
pub(crate) fn off(reason: &'static str) -> Router {
    Router::new()
        .route("/api/v1/{*path}", axum::routing::any(async move || Problem::off(reason)))
        .fallback(async || Problem::no_route())
        .layer(middleware::from_fn(private))
}

/// Replies are for whoever called, and for no cache.
async fn private(request: Request, next: Next) -> Response {
    let mut reply = next.run(request).await.into_response();
    let fields = reply.headers_mut();
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
