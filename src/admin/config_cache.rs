//! The stored configurations, for `tollgate cache`: which there are, and that they are forgotten.

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{json, not_allowed};
use crate::health::Health;
use crate::proxy::path::normalise;

/// Where they are.
pub(super) const PATH: &str = "/config-cache";

/// Lists them (`GET`), or forgets all, or those of the path that follows (`DELETE`).
pub(super) async fn answer(request: &Request<Incoming>, path: &str, health: &Health) -> Response<Body> {
    let refused = |status, error: &str| json(status, &serde_json::json!({ "error": error }));
    let Some(cache) = &health.cache else {
        return refused(StatusCode::NOT_FOUND, "Configurations are not stored: config_cache.enabled is false");
    };
    // What is not understood must not be taken for everything.
    if request.uri().query().is_some() || !path.is_empty() && normalise(path).is_err() {
        return refused(StatusCode::BAD_REQUEST, "Not the path of a configuration");
    }
    let path = Some(path).filter(|path| !path.is_empty());
    match (request.method(), path) {
        (&Method::GET, None) => json(StatusCode::OK, &serde_json::json!({ "configurations": cache.list().await })),
        (&Method::DELETE, path) => match cache.purge(path).await {
            Ok(purged) => json(StatusCode::OK, &serde_json::json!({ "purged": purged })),
            Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        _ => not_allowed("GET, DELETE"),
    }
}
