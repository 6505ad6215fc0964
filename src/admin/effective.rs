//! The configuration that is in effect, for `tollgate check --running`.

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{json, read_only};
use crate::health::Health;

/// Where it is.
pub(super) const PATH: &str = "/config";

/// Every key with its value. None is a secret: those are in files.
pub(super) fn answer(request: &Request<Incoming>, health: &Health) -> Response<Body> {
    let values = &health.configured().values;
    if values.is_empty() {
        return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "A console reloads nothing" }));
    }
    read_only(request, || json(StatusCode::OK, &serde_json::json!({ "values": values })))
}
