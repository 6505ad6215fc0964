//! What only this host may ask for: commands that change what the sidecar does, without a token.

use std::net::SocketAddr;

use axum::body::Body;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::json;

/// The refusal of a request that comes from elsewhere; `None`: it comes from here.
pub(super) fn refusal(request: &Request<Incoming>, peer: SocketAddr) -> Option<Response<Body>> {
    let comes_from_here = peer.ip().to_canonical().is_loopback() && is_for_this_host(request);
    (!comes_from_here).then(|| json(StatusCode::FORBIDDEN, &serde_json::json!({ "error": "Only for this host" })))
}

/// A web page that has this host's address looked up as its own name comes from this host too, with that name.
fn is_for_this_host(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    host.parse::<SocketAddr>().is_ok_and(|address| address.ip().to_canonical().is_loopback())
        || host.split(':').next() == Some("localhost")
}
