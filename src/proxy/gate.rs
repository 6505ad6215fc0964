//! What decides over requests: route, authenticate, authorize.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};

use super::authorize::Authorizer;
use super::body::GATHERED;
use super::failed_auth::FailedAuth;
use super::path::normalise;
use super::refusal::Refusal;
use super::route::{Access, NoRoute, RouteGroup, RouteTable};
use super::{Cache, Limits, Network, Observers, Settings, Timeouts, credential, is_fetched};
use crate::clock::Instant;
use crate::readiness::Readiness;
use crate::replica::{Holder, Replica};
use crate::token::Digest;
use crate::upstream::{Upstream, UpstreamName};
use crate::worker::alarm::AdmissionTerms;

/// What decides over requests, under one configuration. Shared by all workers, and read-only to them.
pub(crate) struct Gate {
    /// What decides over tokens.
    pub authorizer: Authorizer,
    /// Sizes and numbers.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// The API server.
    pub api: Arc<Upstream>,
    /// The heartbeat server.
    pub heartbeat: Arc<Upstream>,
    /// Who wants to know of requests.
    pub observers: Observers,
    pub(super) routes: RouteTable,
    trusted_proxies: Vec<Network>,
    health_path: Option<String>,
    readiness: Arc<Readiness>,
    /// Answers for when the Controller is away, if they are stored.
    pub(super) cache: Option<Arc<Cache>>,
    /// Who was refused for want of a good token.
    pub(super) failed_auth: Arc<FailedAuth>,
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
        let Settings { health_path, readiness, failed_auth, late, observers, cache, .. } = settings;
        Self {
            authorizer: Authorizer { replica, max_staleness, expired_retention, late },
            limits,
            timeouts,
            api,
            heartbeat,
            observers,
            routes,
            trusted_proxies,
            health_path,
            readiness,
            failed_auth,
            cache,
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

    /// Whether somebody reads whose clients' certificates are.
    pub(crate) fn wants_subjects(&self) -> bool {
        self.observers.access_log.is_some()
    }

    /// If a request asks whether the sidecar is ready, as balancers do: why it is not, or nothing. Nothing else is at that path.
    pub(crate) fn asks_for_health<B>(&self, request: &Request<B>) -> Option<Result<(), Refusal>> {
        if self.health_path.as_deref()? != request.uri().path() {
            return None;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some(Err(Refusal::Method { allow: "GET, HEAD".to_owned() }));
        }
        Some(self.readiness.problem().map_or(Ok(()), |problem| Err(Refusal::NotReady(problem))))
    }

    /// Decides over a request: route, authenticate, authorize. `group` is set to that of its route, and `digest` to
    /// that of its token, if there is one.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub(crate) fn decide<B>(
        &self,
        request: &Request<B>,
        at: Instant,
        group: &mut RouteGroup,
        digest: &mut Option<Digest>,
    ) -> Result<Permit, Refusal> {
        let path = normalise(request.uri().path())?;
        let route = self.routes.find(request.method().as_str(), &path).map_err(|missing| match missing {
            NoRoute::Path => Refusal::NoRoute,
            NoRoute::Method { allow } => Refusal::Method { allow },
        })?;
        *group = route.group;
        let admission = match route.access {
            Access::Open => None,
            Access::Token { needed, max_staleness } => {
                let digest = *digest.insert(credential::of(request.headers())?);
                let terms = AdmissionTerms { digest, needed, max_staleness };
                Some(Admission { holder: self.authorizer.authorize(&terms, at)?, terms, at })
            }
        };
        Ok(Permit { upstream: route.upstream, admission, is_fetched: is_fetched(&path) })
    }

    /// Whether what a running request was admitted by still holds. Not asked of its expiry: that a token expires while its
    /// request runs is no reason to end it.
    pub(crate) fn holds(&self, terms: &AdmissionTerms, staleness: Option<Duration>) -> bool {
        staleness.is_some_and(|staleness| terms.max_staleness.allows(staleness))
            && self.authorizer.replica.permits(&terms.digest, terms.needed)
    }
}
