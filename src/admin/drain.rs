//! Taking the sidecar out of its balancer while it serves on, for `tollgate drain`.

use axum::body::Body;
use http::{Method, Response, StatusCode};

use super::{json, not_allowed};
use crate::health::Health;

/// Where that is.
pub(super) const PATH: &str = "/drain";

/// Takes it out (`PUT`), or back (`DELETE`), and says how it is (`GET`).
pub(super) fn answer(method: &Method, health: &Health) -> Response<Body> {
    let before = health.readiness.is_drained();
    let after = match *method {
        Method::GET => before,
        Method::PUT => true,
        Method::DELETE => false,
        _ => return not_allowed("GET, PUT, DELETE"),
    };
    if before != after {
        if !health.readiness.drain(after) {
            let error = "Another process is taking over from this one: run the command again, which reaches that one";
            return json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": error }));
        }
        match after {
            true => tracing::warn!("drained by an operator: not ready, and serving on"),
            false => tracing::info!("no longer drained by an operator"),
        }
    }
    json(StatusCode::OK, &serde_json::json!({ "drained": after }))
}
