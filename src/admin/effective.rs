//! The configuration that is in effect, for `tollgate check --running`. Only for this host: it names files, and who is believed.

use std::net::SocketAddr;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{is_for_this_host, json, read_only};
use crate::health::Health;

/// Where it is.
pub(super) const PATH: &str = "/config";

/// Every key with its value. None is a secret: those are in files.
pub(super) fn answer(request: &Request<Incoming>, peer: SocketAddr, health: &Health) -> Response<Body> {
    if !is_for_this_host(request, peer) {
        return json(StatusCode::FORBIDDEN, &serde_json::json!({ "error": "Only for this host" }));
    }
    let values = &health.configured().values;
    if values.is_empty() {
        return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "A console reloads nothing" }));
    }
    read_only(request, || json(StatusCode::OK, &serde_json::json!({ "values": values })))
}
