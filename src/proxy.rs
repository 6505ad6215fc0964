//! The data path: what happens to one request, in this order, whichever protocol it came by.
//!
//! ```text
//! connection ─► Head (form) ─► call ─► Gate::decide: route ─► authenticate ─► authorize = Permit ─► sanitize ─► forward
//! ```
//!
//! It reads the replica and nothing else; no request ever waits for the store.

pub(crate) mod body;
pub mod credential;
pub mod exchange;
pub mod fields;
mod forward;
pub mod pace;
pub mod path;
pub mod refusal;
pub mod request;
pub mod route;
mod sanitize;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{Method, Request, Response};

use crate::clock::Instant;
use crate::config::{Config, Limits, MaxStaleness, Network, Timeouts, UpstreamName, Upstreams};
use crate::replica::{Holder, Replica};
use crate::upstream::{Upstream, UpstreamError};
use crate::worker::alarm::Terms;
use body::{Relayed, Upload};
use exchange::Exchange;
use refusal::Refusal;
use route::{Access, NoRoute, RouteTable};

/// What decides over requests. Shared by all workers, and read-only to them.
#[derive(Debug)]
pub struct Gate {
    /// What is known of tokens.
    pub replica: Arc<Replica>,
    /// Sizes and numbers.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// The API server.
    pub api: Arc<Upstream>,
    /// The heartbeat server.
    pub heartbeat: Arc<Upstream>,
    routes: RouteTable,
    trusted_proxies: Vec<Network>,
    max_staleness: MaxStaleness,
    /// Open client connections, over all workers.
    pub connections: Arc<AtomicUsize>,
    /// Tasks that ended by a panic.
    pub panics: Arc<AtomicU64>,
}

/// What a request was permitted: the only way to an upstream.
#[derive(Debug)]
pub struct Permit {
    /// Where it goes.
    pub upstream: UpstreamName,
    /// With whose token; `None` on an open route.
    pub holder: Option<Admission>,
    /// It fetches a configuration.
    pub is_configuration: bool,
}

/// Under which token a request was admitted.
#[derive(Debug)]
pub struct Admission {
    /// What has to hold for as long as it runs.
    pub terms: Terms,
    /// The token and its owner.
    pub holder: Holder,
}

/// Serves one request, whichever protocol it came by: decides, then forwards it or refuses.
///
/// The request is lent, not given: it is moved out only where a connection takes it. (Every async function that is given
/// one keeps room for it twice.)
///
/// # Errors
/// The [`Refusal`] to answer with.
pub async fn call(exchange: &Rc<Exchange>, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
    let gate = &exchange.worker.gate;
    if let Some(id) = sanitize::request_id(request.headers(), exchange.origin) {
        exchange.set_id(id);
    }
    exchange.set_line(request.method(), request.uri().path());
    let withheld = *request.method() == Method::HEAD && is_configuration(request.uri().path());
    let permit = if request.body().is_too_large() { Err(Refusal::BodyTooLarge) } else { gate.decide(request) };
    let permit = permit.map_err(|refusal| withhold(refusal, withheld))?;
    if let Some(admission) = &permit.holder {
        exchange.set_token(admission.holder.token);
    }
    let reply = forward::forward(exchange, &permit, request).await.map_err(|refusal| withhold(refusal, withheld))?;
    if withheld && matches!(reply.status().as_u16(), 502..=504) { Err(Refusal::Withheld) } else { Ok(reply) }
}

/// Telegraf's watcher forgets what it knew of a configuration at *any* reply to its HEAD that has no `Last-Modified`, and
/// then never loads an edit that was made meanwhile; at a connection that breaks it remembers (Telegraf 1.39.0). So an outage
/// is told to it by none.
fn withhold(refusal: Refusal, withheld: bool) -> Refusal {
    if withheld && matches!(refusal.status(), 502..=504) { Refusal::Withheld } else { refusal }
}

/// Whether this is the path of a configuration.
fn is_configuration(path: &str) -> bool {
    path.starts_with("/api/configs/")
}

impl Gate {
    /// The gate that a configuration describes, before a replica that may still be empty.
    ///
    /// # Errors
    /// When an upstream's TLS or credential files cannot be used.
    pub fn new(config: &Config, replica: Arc<Replica>) -> Result<Self, UpstreamError> {
        let Upstreams { api, heartbeat } = config.upstreams.clone();
        Ok(Self {
            replica,
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            api: Arc::new(Upstream::new(UpstreamName::Api, api)?),
            heartbeat: Arc::new(Upstream::new(UpstreamName::Heartbeat, heartbeat)?),
            routes: config.routes.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            max_staleness: config.freshness.max_staleness,
            connections: Arc::default(),
            panics: Arc::default(),
        })
    }

    /// Bytes of a read buffer: a head must fit, and bodies pass through in pieces of this size.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.limits.max_head_bytes.get().max(body::GATHERED)
    }

    /// Whether what this peer says of earlier hops is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }

    /// Decides over a request: route, authenticate, authorize.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn decide<B>(&self, request: &Request<B>) -> Result<Permit, Refusal> {
        let path = path::normalise(request.uri().path())?;
        let route = self.routes.find(request.method().as_str(), &path).map_err(|missing| match missing {
            NoRoute::Path => Refusal::NoRoute,
            NoRoute::Method { allow } => Refusal::Method { allow },
        })?;
        let holder = match route.access {
            Access::Open => None,
            Access::Requires { permission, max_staleness } => {
                let mut credentials = request.headers().get_all(AUTHORIZATION).iter();
                let credential = credentials.next().filter(|_| credentials.next().is_none());
                let digest = credential::digest(credential.ok_or(Refusal::NoCredential)?.as_bytes())?;
                let terms = Terms { digest, permission, max_staleness };
                Some(Admission { holder: self.authorize(&terms)?, terms })
            }
        };
        Ok(Permit { upstream: route.upstream, holder, is_configuration: is_configuration(&path) })
    }

    /// Authenticates by the replica and checks the permission: identity first.
    ///
    /// Yes is said by a replica as stale as the route allows. No is said only by one that is fresh by the general bound
    /// too: a replica that may be behind cannot know that a token does *not* exist.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(crate) fn authorize(&self, terms: &Terms) -> Result<Holder, Refusal> {
        let Terms { digest, permission, max_staleness } = *terms;
        let staleness = self.replica.staleness(Instant::now()).ok_or(Refusal::Stale)?;
        if !max_staleness.allows(staleness) {
            return Err(Refusal::Stale);
        }
        let no = |refusal| if self.max_staleness.allows(staleness) { refusal } else { Refusal::Stale };
        let holder = self.replica.lookup(&digest).ok_or_else(|| no(Refusal::UnknownToken))?;
        if holder.expires_at.is_some_and(|expires_at| expires_at <= unix_seconds()) {
            return Err(Refusal::Expired);
        }
        if !holder.permissions.contains(permission) {
            return Err(no(Refusal::Permission(permission)));
        }
        Ok(holder)
    }

    /// Whether what a running request was admitted by still holds. Not asked of its expiry: that a token expires while its
    /// request runs is no reason to end it.
    #[must_use]
    pub fn holds(&self, terms: &Terms, staleness: Option<Duration>) -> bool {
        staleness.is_some_and(|staleness| terms.max_staleness.allows(staleness))
            && self.replica.permits(&terms.digest, terms.permission)
    }
}

/// Expiry is a date, so it goes by the wall clock; nothing else does.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
