//! The data path: what happens to one request, in this order, whichever protocol it came by.
//!
//! ```text
//! connection ─► Head (form) ─► call ─► Gate::decide: route ─► authenticate ─► authorize = Permit ─► sanitize ─► forward
//! ```
//!
//! It reads the replica and nothing else; no request ever waits for the store. What was used it leaves in memory.

pub(crate) mod authorize;
pub(crate) mod body;
pub(crate) mod cache;
pub mod credential;
mod current;
mod delivery;
pub(crate) mod exchange;
pub(crate) mod failed_auth;
pub(crate) mod fields;
mod forward;
mod gate;
mod late;
pub(crate) mod network;
pub(crate) mod pace;
pub mod path;
mod record;
pub(crate) mod refusal;
pub mod request;
pub mod route;
pub(crate) mod sanitize;
mod settings;
pub(crate) mod tally;
mod usage;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::token::Digest;
use crate::upstream::{Balancer, UpstreamName};
use crate::usage::Uses;
use crate::worker::Worker;
use body::{Relayed, Upload};
use exchange::Exchange;
use failed_auth::Attempt;
use refusal::Refusal;
use request::Origin;
use route::RouteGroup;
use tally::{Outcome, Tally};

pub use cache::{Cache, CacheConfig, CacheStatus, StoredConfiguration};
pub(crate) use current::Current;
pub use failed_auth::FailedAuthLimit;
pub(crate) use gate::{Admission, Gate, Permit};
pub use late::LateUses;
pub use network::Network;
pub(crate) use record::Observers;
pub(crate) use settings::Settings;
pub use settings::{Limits, Timeouts};
pub use tally::Tallies;

/// The proxy as one worker has it, with upstream connections of its own, under one configuration. A request keeps the one that it began
/// with; the next one's is [`Current::proxy`].
pub(crate) struct Proxy {
    /// Where it runs.
    pub worker: Rc<Worker>,
    /// What decides over requests.
    pub gate: Arc<Gate>,
    /// Which tokens are used.
    uses: Arc<Uses>,
    /// What is counted of its requests.
    pub tally: Arc<Tally>,
    api: Balancer<Upload>,
    heartbeat: Balancer<Upload>,
}

impl Proxy {
    fn new(worker: Rc<Worker>, gate: Arc<Gate>, uses: Arc<Uses>, tally: Arc<Tally>) -> Self {
        let api = Balancer::new(Arc::clone(&gate.api));
        let heartbeat = Balancer::new(Arc::clone(&gate.heartbeat));
        Self { worker, gate, uses, tally, api, heartbeat }
    }

    /// The same with another gate: connections to upstreams stay, as far as these are still there.
    fn with(&self, gate: Arc<Gate>) -> Self {
        Self {
            worker: Rc::clone(&self.worker),
            api: self.api.with(Arc::clone(&gate.api)),
            heartbeat: self.heartbeat.with(Arc::clone(&gate.heartbeat)),
            gate,
            uses: Arc::clone(&self.uses),
            tally: Arc::clone(&self.tally),
        }
    }

    fn upstream(&self, name: UpstreamName) -> &Balancer<Upload> {
        match name {
            UpstreamName::Api => &self.api,
            UpstreamName::Heartbeat => &self.heartbeat,
        }
    }
}

/// Serves one request, whichever protocol it came by: decides, then forwards it or refuses.
///
/// The request is lent, not given: it is moved out only where a connection takes it. (Every async function that is given
/// one reserves room for it twice.)
///
/// # Errors
/// The [`Refusal`] to answer with.
pub(crate) async fn call(exchange: &Rc<Exchange>, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
    let gate = &exchange.proxy.gate;
    // First of all: whatever is said of the request names it so.
    if let Some(id) = sanitize::request_id(request.headers(), &exchange.origin) {
        exchange.set_id(id);
    }
    exchange.set_line(request.method(), request.uri().path());
    if let Some(record) = exchange.record() {
        record.asked(request, gate);
    }
    if let Some(health) = gate.asks_for_health(request) {
        exchange.set_group(RouteGroup::Health);
        return health.map(|()| healthy(exchange, *request.method() == Method::HEAD));
    }
    let withheld = *request.method() == Method::HEAD && may_be_watched(request.uri().path());
    let (mut digest, mut group) = (None, RouteGroup::Unrouted);
    let is_too_large = request.body().is_too_large();
    let decision = if is_too_large {
        Err(Refusal::BodyTooLarge)
    } else {
        gate.decide(request, exchange.began, &mut group, &mut digest)
    };
    exchange.set_group(group);
    if let Some((record, digest)) = exchange.record().zip(digest.as_ref()) {
        record.authenticated(digest, gate);
    }
    let reply = match decision {
        Ok(permit) => {
            if let Some(admission) = permit.admission() {
                exchange.set_token(admission.holder.token);
            }
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            match &gate.cache {
                // Boxed: it is rare, and would make every exchange's state several times as large.
                Some(cache) if is_read && permit.is_fetched() => {
                    Box::pin(cache::serve(cache, exchange, permit, request)).await
                }
                cache => {
                    let reply = forward::forward(exchange, &permit, request).await;
                    cache.iter().for_each(|cache| cache.overhear(&permit, &reply));
                    reply
                }
            }
        }
        Err(refusal) => Err(refused(exchange, request.headers(), digest, refusal)),
    };
    // Telegraf's watcher forgets what it knew of a configuration at *any* reply to its HEAD that has no `Last-Modified`, and
    // then never loads an edit that was made meanwhile; at a connection that breaks it remembers (Telegraf 1.39.0). So an
    // outage reaches it by none.
    let status = reply.as_ref().map_or_else(Refusal::status, |reply| reply.status().as_u16());
    if withheld && matches!(status, 502..=504) {
        // Before the reply ends, which would say that it was served.
        exchange.end(0, Outcome::Refused(Refusal::Withheld.reason()));
        return Err(Refusal::Withheld);
    }
    reply
}

/// What a request is answered with that was refused.
fn refused(exchange: &Exchange, headers: &HeaderMap, digest: Option<Digest>, refusal: Refusal) -> Refusal {
    let (gate, &Origin { address, trusted, .. }) = (&exchange.proxy.gate, &exchange.origin);
    let client = sanitize::client(headers, address, trusted, |hop| gate.trusts(hop));
    let attempt = Attempt { client, digest, replica: &gate.authorizer.replica, request_id: Some(exchange.id()) };
    gate.failed_auth.refused(&attempt, refusal)
}

/// The answer to a balancer.
fn healthy(exchange: &Exchange, to_head: bool) -> Response<Relayed> {
    const BODY: &str = r#"{"ready":true}"#;
    exchange.settle();
    exchange.end(StatusCode::OK.as_u16(), Outcome::Health);
    let mut reply = Response::new(Relayed::own(Bytes::from_static(if to_head { b"" } else { BODY.as_bytes() })));
    let fields = reply.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(CONTENT_LENGTH, BODY.len().into());
    fields.insert(DATE, exchange.proxy.worker.date());
    reply
}

/// Whether agents fetch this normalised path as their configuration: by its id, its alias, or the group it is in.
fn is_fetched(path: &str) -> bool {
    let by_id = |prefix| path.strip_prefix(prefix).and_then(|rest: &str| rest.strip_suffix("/toml"));
    let by_alias = path.strip_prefix("/c/");
    [by_id("/api/configs/"), by_id("/api/config-groups/"), by_alias]
        .into_iter()
        .flatten()
        .any(|name| !name.contains('/'))
}

/// Whether an agent may watch this path: one of these, or what else there is of a configuration.
fn may_be_watched(path: &str) -> bool {
    let is_below =
        |path: &str| ["/api/configs/", "/c/", "/api/config-groups/"].iter().any(|prefix| path.starts_with(prefix));
    path::normalise(path).is_ok_and(|path| is_below(&path))
}
