//! The console: the admin API, by which tokens and users are managed from elsewhere, on the admin listener.
//!
//! ```text
//!   admin ──► origin: is it for us? ──► caller: token, by the replica ──► api ──► registry (rules, by the store) ──► store
//! ```
//!
//! A call needs its permission in the calling *token*, so an agent's token can do nothing here whoever owns it; then the
//! rules of its owner's role hold. Both are judged twice: by the replica, which refuses without asking the store, and by the
//! records that the command rests on when it is committed.

pub(crate) mod api;
mod caller;
mod change;
mod idempotency;
mod origin;
mod page;
mod rate;
mod settings;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;

use crate::lock::RwLock;
use crate::proxy::Network;
use crate::proxy::authorize::Authorizer;
use crate::proxy::failed_auth::FailedAuth;
use crate::registry::Registry;
use crate::replica::FreshnessConfig;
use crate::token::TokenId;
use change::Confirmations;
use idempotency::Creations;
use page::Sessions;
use rate::Rates;

pub(crate) use caller::{OverTls, Peer};
pub(crate) use origin::PublicUrl;
pub(crate) use settings::Switch;

/// Calls a second by one token, and how many at once.
const CALLS: (f64, f64) = (20.0, 300.0);

/// Who is believed what it says of earlier hops, which a reload may change.
pub(crate) type TrustedProxies = Arc<RwLock<Vec<Network>>>;

/// What all calls share.
pub(crate) struct Console {
    authorizer: Authorizer,
    freshness: FreshnessConfig,
    registry: Registry,
    public_url: Option<PublicUrl>,
    trusted_proxies: TrustedProxies,
    failed_auth: Arc<FailedAuth>,
    calls: Rates<TokenId>,
    creations: Creations,
    confirmations: Confirmations,
    sessions: Sessions,
}

impl Console {
    /// On this registry, for whoever this decides over.
    pub(crate) fn new(
        authorizer: Authorizer,
        freshness: FreshnessConfig,
        registry: Registry,
        public_url: Option<PublicUrl>,
        trusted_proxies: TrustedProxies,
        failed_auth: Arc<FailedAuth>,
    ) -> Arc<Self> {
        Arc::new(Self {
            authorizer,
            freshness,
            registry,
            public_url,
            trusted_proxies,
            failed_auth,
            calls: Rates::new(CALLS),
            creations: Creations::default(),
            confirmations: Confirmations::default(),
            sessions: Sessions::default(),
        })
    }

    /// Everything that it answers.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let routes = beside(page::router(Arc::clone(&self)), api::router(Arc::clone(&self)));
        let prefix = self.public_url.as_ref().map_or("", PublicUrl::prefix);
        // A proxy in front may take the prefix away, or not.
        if prefix.is_empty() { routes } else { Router::new().nest(prefix, routes.clone()).merge(routes) }
    }

    /// A path of the console, as it is from outside.
    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_ref().map_or("", PublicUrl::prefix))
    }
}

/// What is answered where there is no console, and why.
pub(crate) fn off(reason: &'static str) -> Router {
    beside(page::off(reason), api::off(reason))
}

/// Pages for people, and the API for programs. Each says in its own way that there is nothing at a path.
fn beside(pages: Router, api: Router) -> Router {
    // Not by a route: what that matched would be a part of the path to the routes below it too.
    Router::new().fallback(async move |request: Request| {
        let is_for_programs = request.uri().path().starts_with("/api/");
        let routes = if is_for_programs { &api } else { &pages };
        match TowerToHyperService::new(routes.clone()).call(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        }
    })
}
