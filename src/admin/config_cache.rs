//! The stored configurations, for `tollgate cache`: which there are, and that they are forgotten. Only for this host: whoever could
//! forget them from elsewhere could keep a fleet from booting.

use std::net::SocketAddr;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{is_for_this_host, json};
use crate::health::Health;

/// Where they are.
pub(super) const PATH: &str = "/config-cache";

/// Lists them (`GET`), or forgets all or those of one path (`DELETE`, `?path=`).
pub(super) async fn answer(request: &Request<Incoming>, peer: SocketAddr, health: &Health) -> Response<Body> {
    let refused = |status, error| json(status, &serde_json::json!({ "error": error }));
    if !is_for_this_host(request, peer) {
        return refused(StatusCode::FORBIDDEN, "Only for this host");
    }
    let Some(cache) = &health.cache else {
        return refused(StatusCode::NOT_FOUND, "Configurations are not stored: config_cache.enabled is false");
    };
    match *request.method() {
        Method::GET => json(StatusCode::OK, &serde_json::json!({ "configurations": cache.list().await })),
        Method::DELETE => {
            let path = request.uri().query().and_then(|query| query.strip_prefix("path="));
            json(StatusCode::OK, &serde_json::json!({ "purged": cache.purge(path).await }))
        }
        _ => {
            let mut reply = refused(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
            reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, DELETE"));
            reply
        }
    }
}
