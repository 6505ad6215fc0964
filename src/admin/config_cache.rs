//! The stored configurations, for `tollgate cache`: which there are, and that they are forgotten. Only for this host: whoever could
//! forget them from elsewhere could keep a fleet from booting.

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{json, not_allowed};
use crate::health::Health;

/// Where they are.
pub(super) const PATH: &str = "/config-cache";

/// Lists them (`GET`), or forgets all or those of one path (`DELETE`, `?path=`).
pub(super) async fn answer(request: &Request<Incoming>, health: &Health) -> Response<Body> {
    let Some(cache) = &health.cache else {
        let error = "Configurations are not stored: config_cache.enabled is false";
        return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": error }));
    };
    match *request.method() {
        Method::GET => json(StatusCode::OK, &serde_json::json!({ "configurations": cache.list().await })),
        Method::DELETE => {
            let path = request.uri().query().and_then(|query| query.strip_prefix("path="));
            json(StatusCode::OK, &serde_json::json!({ "purged": cache.purge(path).await }))
        }
        _ => not_allowed("GET, DELETE"),
    }
}
