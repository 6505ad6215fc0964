//! What decides over requests: route, authenticate, authorize.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Request};

use super::body::GATHERED;
use super::failed_auth::FailedAuth;
use super::late::LateUses;
use super::path::normalise;
use super::refusal::Refusal;
use super::route::{Access, NoRoute, RouteTable};
use super::{Limits, Network, Settings, Timeouts, credential, is_fetched};
use crate::clock::{Instant, unix_seconds};
use crate::readiness::Readiness;
use crate::replica::{Holder, MaxStaleness, Replica};
use crate::upstream::{Upstream, UpstreamName};
use crate::worker::alarm::AdmissionTerms;

/// What decides over requests. Shared by all workers, and read-only to them.
pub(crate) struct Gate {
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
    expired_retention: Duration,
    health_path: Option<String>,
    readiness: Arc<Readiness>,
    /// Who was refused for want of a good token.
    pub(super) failed_auth: Arc<FailedAuth>,
    late: Arc<LateUses>,
}

/// What a request was permitted: the only way to an upstream. Only [`Gate::decide`] makes one.
pub(crate) struct Permit {
    upstream: UpstreamName,
    admission: Option<Admission>,
    is_fetched: bool,
}

impl Permit {
    /// Where the request goes.
    pub(super) const fn upstream(&self) -> UpstreamName {
        self.upstream
    }

    /// With whose token; `None` on an open route.
    pub(super) const fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// Agents fetch it as their configuration.
    pub(super) const fn is_fetched(&self) -> bool {
        self.is_fetched
    }
}

/// Under which token a request was admitted.
pub(crate) struct Admission {
    /// What has to hold for as long as it runs.
    pub terms: AdmissionTerms,
    /// The token and its owner.
    pub holder: Holder,
    /// When.
    pub at: Instant,
}

impl Gate {
    /// A gate before a replica that may still be empty, and these two upstreams.
    pub(crate) fn new(settings: Settings, replica: Arc<Replica>, api: Arc<Upstream>, heartbeat: Arc<Upstream>) -> Self {
        let Settings { limits, timeouts, routes, trusted_proxies, max_staleness, expired_retention, .. } = settings;
        let Settings { health_path, readiness, failed_auth, late, .. } = settings;
        Self {
            replica,
            limits,
            timeouts,
            api,
            heartbeat,
            routes,
            trusted_proxies,
            max_staleness,
            expired_retention,
            health_path,
            readiness,
            failed_auth,
            late,
        }
    }

    /// Bytes of a read buffer: a head must fit, and bodies pass through in pieces of this size.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.limits.max_head_bytes.get().max(GATHERED)
    }

    /// Whether what this peer says of earlier hops is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }

    /// If a request asks whether the sidecar is ready, as balancers do: why it is not, or nothing.
    pub(crate) fn asks_for_health<B>(&self, request: &Request<B>) -> Option<Result<(), Refusal>> {
        let asks = self.health_path.as_deref()? == request.uri().path();
        let asks = asks && matches!(*request.method(), Method::GET | Method::HEAD);
        asks.then(|| self.readiness.problem().map_or(Ok(()), |problem| Err(Refusal::NotReady(problem))))
    }

    /// Decides over a request: route, authenticate, authorize.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(crate) fn decide<B>(&self, request: &Request<B>) -> Result<Permit, Refusal> {
        let path = normalise(request.uri().path())?;
        let route = self.routes.find(request.method().as_str(), &path).map_err(|missing| match missing {
            NoRoute::Path => Refusal::NoRoute,
            NoRoute::Method { allow } => Refusal::Method { allow },
        })?;
        let admission = match route.access {
            Access::Open => None,
            Access::Token { needed, max_staleness } => {
                // Of several none is chosen: the upstream might choose another.
                let mut credentials = request.headers().get_all(AUTHORIZATION).iter();
                let credential = credentials.next().filter(|_| credentials.next().is_none());
                let digest = credential::digest(credential.ok_or(Refusal::NoCredential)?.as_bytes())?;
                let terms = AdmissionTerms { digest, needed, max_staleness };
                let at = Instant::now();
                Some(Admission { holder: self.authorize(&terms, at)?, terms, at })
            }
        };
        Ok(Permit { upstream: route.upstream, admission, is_fetched: is_fetched(&path) })
    }

    /// Authenticates by the replica and checks the permission: identity first.
    ///
    /// Yes is said by a replica as stale as the route allows. No is said only by one that is fresh by the general bound
    /// too: a replica that may be behind cannot know that a token does *not* exist. Neither is said where a commit is known
    /// that takes the yes away, and is not reached yet.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(crate) fn authorize(&self, terms: &AdmissionTerms, now: Instant) -> Result<Holder, Refusal> {
        let AdmissionTerms { digest, needed, max_staleness } = *terms;
        let staleness = self.replica.staleness(now).ok_or(Refusal::Stale)?;
        if !max_staleness.allows(staleness) {
            return Err(Refusal::Stale);
        }
        let no = |refusal| if self.max_staleness.allows(staleness) { refusal } else { Refusal::Stale };
        let holder = self.replica.lookup(&digest).ok_or_else(|| no(Refusal::UnknownToken))?;
        if let Some(expired_for) = holder.expired_for(unix_seconds()) {
            // "Expired" is true however stale the replica is: a token never gets more time than it had. And the replica has
            // it still when that is no longer said: its checksum is that of what the store holds, and a clock that was wrong
            // may be set.
            self.late.add(holder.token);
            let is_remembered = expired_for < self.expired_retention;
            return Err(if is_remembered { Refusal::Expired } else { no(Refusal::UnknownToken) });
        }
        if let Some(lacking) = needed.filter(|permission| !holder.permissions.contains(*permission)) {
            return Err(no(Refusal::Permission(lacking)));
        }
        if self.replica.doubts(&digest, &holder, needed) {
            return Err(Refusal::Stale);
        }
        Ok(holder)
    }

    /// Whether what a running request was admitted by still holds. Not asked of its expiry: that a token expires while its
    /// request runs is no reason to end it.
    pub(crate) fn holds(&self, terms: &AdmissionTerms, staleness: Option<Duration>) -> bool {
        staleness.is_some_and(|staleness| terms.max_staleness.allows(staleness))
            && self.replica.permits(&terms.digest, terms.needed)
    }
}
