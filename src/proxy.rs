//! The data path: what happens to one request, in this order.
//!
//! ```text
//! connection ─► Request (form) ─► Gate::admit: route ─► authenticate ─► authorize = Permit ─► sanitize ─► forward
//! ```
//!
//! It reads the replica and nothing else; no request ever waits for the store.

pub mod credential;
pub mod fields;
pub mod forward;
pub mod pace;
pub mod path;
pub mod refusal;
pub mod request;
pub mod route;
pub mod sanitize;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Config, Limits, MaxStaleness, Network, Timeouts, UpstreamName};
use crate::replica::{Holder, Replica};
use crate::token::{Digest, Permission};
use crate::upstream::{Upstream, UpstreamError};
use refusal::Refusal;
use request::Request;
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
}

/// What a request was permitted: the only way to an upstream.
#[derive(Debug)]
pub struct Permit {
    /// Where it goes.
    pub upstream: UpstreamName,
    /// With whose token; `None` on an open route.
    pub holder: Option<Admission>,
}

/// Under which token a request was admitted.
#[derive(Debug)]
pub struct Admission {
    /// The token's digest.
    pub digest: Digest,
    /// What it was admitted for.
    pub permission: Permission,
    /// The token and its owner.
    pub holder: Holder,
}

impl Gate {
    /// The gate that a configuration describes, before a replica that may still be empty.
    ///
    /// # Errors
    /// When an upstream's TLS or credential files cannot be used.
    pub fn new(config: &Config, replica: Arc<Replica>) -> Result<Self, UpstreamError> {
        Ok(Self {
            replica,
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            api: Arc::new(Upstream::new(config.upstreams.api.clone())?),
            heartbeat: Arc::new(Upstream::new(config.upstreams.heartbeat.clone())?),
            routes: config.routes.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            max_staleness: config.freshness.max_staleness,
            connections: Arc::default(),
        })
    }

    /// Bytes of a read buffer: a head must fit, and bodies pass through in pieces of this size.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.limits.max_head_bytes.get().max(16 * 1024)
    }

    /// Whether what this peer says of earlier hops is believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }

    /// Decides over a request.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn admit(&self, request: &Request<'_>) -> Result<Permit, Refusal> {
        let path = path::normalise(request.path)?;
        let route = self.routes.find(request.method, &path).map_err(|missing| match missing {
            NoRoute::Path => Refusal::NoRoute,
            NoRoute::Method { allow } => Refusal::Method { allow },
        })?;
        let holder = match route.access {
            Access::Open => None,
            Access::Requires { permission, max_staleness } => {
                let authorization = request.found.authorization.value().ok_or(Refusal::NoCredential)?;
                let digest = credential::digest(authorization)?;
                let holder = self.authorize(&digest, permission, max_staleness)?;
                Some(Admission { digest, permission, holder })
            }
        };
        Ok(Permit { upstream: route.upstream, holder })
    }

    /// Authenticates by the replica and checks the permission: identity first.
    ///
    /// Yes is said by a replica as stale as the route allows. No is said only by one that is fresh by the general bound
    /// too: a replica that may be behind cannot know that a token does *not* exist.
    fn authorize(
        &self,
        digest: &Digest,
        permission: Permission,
        max_staleness: MaxStaleness,
    ) -> Result<Holder, Refusal> {
        let staleness = self.replica.staleness(Instant::now()).ok_or(Refusal::Stale)?;
        if !allows(max_staleness, staleness) {
            return Err(Refusal::Stale);
        }
        let no = |refusal| if allows(self.max_staleness, staleness) { refusal } else { Refusal::Stale };
        let holder = self.replica.lookup(digest).ok_or_else(|| no(Refusal::UnknownToken))?;
        if holder.expires_at.is_some_and(|expires_at| expires_at <= unix_seconds()) {
            return Err(Refusal::Expired);
        }
        if !holder.permissions.contains(permission) {
            return Err(no(Refusal::Permission(permission)));
        }
        Ok(holder)
    }
}

fn allows(bound: MaxStaleness, staleness: Duration) -> bool {
    match bound {
        MaxStaleness::Within(bound) => staleness <= bound,
        MaxStaleness::Never => true,
    }
}

/// Expiry is a date, so it goes by the wall clock; nothing else does.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
