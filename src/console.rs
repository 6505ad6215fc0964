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
use http::Uri;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use crate::lock::RwLock;
use crate::proxy::Network;
use crate::proxy::authorize::Authorizer;
use crate::proxy::failed_auth::FailedAuth;
use crate::registry::Registry;
use crate::replica::FreshnessConfig;
use crate::token::TokenId;
use crate::usage::Uses;
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
    uses: Arc<Uses>,
    calls: Rates<TokenId>,
    creations: Creations,
    confirmations: Confirmations,
    sessions: Sessions,
    /// Places for imports that are under way.
    imports: Semaphore,
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
        uses: Arc<Uses>,
    ) -> Arc<Self> {
        Arc::new(Self {
            authorizer,
            freshness,
            registry,
            public_url,
            trusted_proxies,
            failed_auth,
            uses,
            calls: Rates::new(CALLS),
            creations: Creations::default(),
            confirmations: Confirmations::default(),
            sessions: Sessions::default(),
            imports: Semaphore::new(api::IMPORTS),
        })
    }

    /// Everything that it answers.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let prefix = self.public_url.as_ref().map_or("", PublicUrl::prefix).to_owned();
        beside(prefix, page::router(Arc::clone(&self)), api::router(self))
    }

    /// A path of the console, as it is from outside.
    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_ref().map_or("", PublicUrl::prefix))
    }
}

/// Why the rest of a body is not read: by the time that it came, the console answered as many as it can.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the console answers as many as it can")]
pub(crate) struct Busy;

/// What is answered while it answers as many as it can.
pub(crate) fn busy() -> axum::response::Response {
    axum::response::IntoResponse::into_response(api::problem::Problem::busy())
}

/// What is answered where there is no console, and why.
pub(crate) fn off(reason: &'static str) -> Router {
    beside(String::new(), page::off(reason), api::off(reason))
}

/// Pages for people, and the API for programs. Each says in its own way that there is nothing at a path.
fn beside(prefix: String, pages: Router, api: Router) -> Router {
    // Not by a route: what that matched would be a part of the path to the routes below it too.
    Router::new().fallback(async move |mut request: Request| {
        // A proxy in front may take the prefix away, or not.
        if let Some(uri) = without(&prefix, request.uri()) {
            *request.uri_mut() = uri;
        }
        let is_for_programs = request.uri().path().starts_with("/api/");
        let routes = if is_for_programs { &api } else { &pages };
        match TowerToHyperService::new(routes.clone()).call(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        }
    })
}

/// The target without the path before the console's own; `None`: it does not have that.
fn without(prefix: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix)?;
    if prefix.is_empty() || !(rest.is_empty() || rest.starts_with('/')) {
        return None;
    }
    let path = if rest.is_empty() { "/" } else { rest };
    let target = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_may_leave_the_path_that_it_has_the_console_at() {
        let of = |uri: &str| without("/ops/tollgate", &uri.parse().expect("a target")).map(|uri| uri.to_string());
        for (with, expected) in [
            ("/ops/tollgate", "/"),
            ("/ops/tollgate/", "/"),
            ("/ops/tollgate/tokens?a=b", "/tokens?a=b"),
            ("http://ops.example/ops/tollgate/api/v1/self", "http://ops.example/api/v1/self"),
        ] {
            assert_eq!(of(with).as_deref(), Some(expected));
        }
        assert_eq!((of("/tokens"), of("/ops/tollgates"), of("/")), (None, None, None));
        assert_eq!(without("", &"/tokens".parse().expect("a target")), None);
    }
}
