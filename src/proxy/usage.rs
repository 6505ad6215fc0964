//! What a request says of who uses its token. It is let through: whatever the Controller makes of it, it was used.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::USER_AGENT;
use http::{HeaderMap, Method, Request};

use super::body::Upload;
use super::exchange::Exchange;
use super::request::Origin;
use super::{Admission, Permit, sanitize};
use crate::clock::Instant;
use crate::token::TokenId;
use crate::upstream::UpstreamName;
use crate::usage::{self, Beginning, Seen};

/// Remembers that the request's token is used, and by whom: now, or when the first bytes of its body have passed.
pub(super) fn note(exchange: &Rc<Exchange>, permit: &Permit, request: &mut Request<Upload>) {
    let Some(Admission { holder, at, .. }) = permit.admission() else { return };
    let (uses, token, headers) = (&exchange.proxy.uses, holder.token, request.headers());
    let (&Origin { address, trusted, .. }, gate) = (&exchange.origin, &exchange.proxy.gate);
    let address = sanitize::client(headers, address, trusted, |hop| gate.trusts(hop)).to_canonical();
    let is_heartbeat = permit.upstream() == UpstreamName::Heartbeat && *request.method() == Method::POST;
    let seen = match request.body().begun().filter(|_| is_heartbeat) {
        Some(begun) if uses.renew(token, begun, address, *at) => return,
        Some(begun) => usage::name(begun).ok(),
        None if is_heartbeat => {
            uses.note_token(token, *at);
            let (exchange, version) = (Rc::clone(exchange), version(headers).map(Into::into));
            let reader = AgentReader { exchange, token, address, version, beginning: Beginning::default() };
            return request.body_mut().show(reader);
        }
        None => None,
    };
    let version = seen.as_ref().and_then(|name| name.version).or_else(|| version(headers));
    let id = seen.as_ref().map(|name| &*name.id);
    uses.note(token, Seen { id, version, address }, *at);
}

fn version(headers: &HeaderMap) -> Option<&str> {
    usage::version_of(headers.get(USER_AGENT)?.as_bytes())
}

/// Looks for the agent's name in the first pieces of a body that is longer than what is read at once. Of one that breaks off
/// before, nothing more is known than that its token was used.
pub(crate) struct AgentReader {
    exchange: Rc<Exchange>,
    token: TokenId,
    address: IpAddr,
    /// Of the `User-Agent` field.
    version: Option<Box<str>>,
    beginning: Beginning,
}

impl AgentReader {
    /// Looks at the next piece. Whether there is nothing more to look for.
    pub(super) fn is_done_with(&mut self, piece: &[u8]) -> bool {
        let Self { exchange, token, address, version, beginning } = self;
        beginning.take(piece, |name| {
            let version = name.as_ref().and_then(|name| name.version).or(version.as_deref());
            let id = name.as_ref().map(|name| &*name.id);
            exchange.proxy.uses.note(*token, Seen { id, version, address: *address }, Instant::now());
        })
    }
}
