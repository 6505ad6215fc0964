//! HTTP/1 over raw sockets: where a message ends, and that nothing of it is ever taken for another.

mod body;
mod expect;
mod framing;
mod pipeline;
mod slow;
mod version;

use crate::harness::{Site, Token, get};

/// A request that must never reach an upstream: with a token that would permit it.
fn smuggled(site: &Site) -> String {
    get("/api/configs/smuggled", &site.agent)
}

/// Asserts that it did not.
#[track_caller]
fn assert_nothing_smuggled(site: &Site) {
    for request in site.api.requests().iter().chain(&site.heartbeat.requests()) {
        assert!(!request.request_line().contains("smuggled"), "{}", request.head);
    }
}

/// The head of a heartbeat with these framing fields (whole lines).
fn beat(token: &Token, fields: &str) -> String {
    format!("POST /agents/heartbeat HTTP/1.1\r\nHost: tollgate\r\nAuthorization: Bearer {}\r\n{fields}\r\n", token.raw)
}
