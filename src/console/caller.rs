//! Who calls: a token with what the call needs, by the replica. Nobody else's word counts: no cookie, nothing in a query.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath};
use http::header::USER_AGENT;
use http::request::Parts;
use http::{HeaderValue, Method};

use super::Console;
use super::api::problem::Problem;
use crate::audit::{Action as Event, Origin, Subject};
use crate::clock::Instant;
use crate::proxy::failed_auth::Attempt;
use crate::proxy::refusal::Refusal;
use crate::proxy::{credential, sanitize};
use crate::registry::{ActingToken, Actor, Registry, audit};
use crate::replica::Holder;
use crate::token::{Action, Digest, Permission, Resource, TokenId};
use crate::usage::{self, Seen};
use crate::worker::alarm::AdmissionTerms;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Whether the connection is one over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls(pub(crate) bool);

/// What a call needs.
pub(super) trait Need: Send + Sync + 'static {
    /// `None`: a token, whatever it permits.
    const PERMISSION: Option<Permission>;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident: $resource:ident $action:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Need for $name {
            const PERMISSION: Option<Permission> = Permission::new(Resource::$resource, Action::$action);
        }

        const _: () = assert!($name::PERMISSION.is_some());
    )+};
}

needs! {
    /// `tokens:read`
    TokensRead: Tokens Read;
    /// `tokens:write`
    TokensWrite: Tokens Write;
    /// `tokens:delete`
    TokensDelete: Tokens Delete;
    /// `users:read`
    UsersRead: Users Read;
    /// `users:write`
    UsersWrite: Users Write;
    /// `users:delete`
    UsersDelete: Users Delete;
    /// `settings:read`, which Administrators and the Owner have.
    SettingsRead: Settings Read;
    /// `audit-logs:read`, which Administrators and the Owner have.
    AuditRead: AuditLogs Read;
}

/// A token that works.
#[derive(Debug)]
pub(super) struct AnyToken;

impl Need for AnyToken {
    const PERMISSION: Option<Permission> = None;
}

/// Somebody whose token has what a call needs.
pub(super) struct Caller<N> {
    /// The token and its owner, as the replica has them.
    pub(super) holder: Holder,
    /// For the one command that is called, which comes from there.
    pub(super) registry: Registry,
    need: PhantomData<N>,
}

impl<N: Need> Caller<N> {
    /// As the registry knows them.
    pub(super) fn actor(&self) -> Actor {
        let user = self.holder.owner.name().to_owned();
        Actor::Token(ActingToken { id: self.holder.token, user, needed: N::PERMISSION })
    }
}

impl Console {
    /// Whether a token has what is needed.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn authorize(&self, digest: Digest, needed: Option<Permission>) -> Result<Holder, Refusal> {
        let max_staleness = self.freshness.bound(needed);
        self.authorizer.authorize(&AdmissionTerms { digest, needed, max_staleness }, Instant::now())
    }

    /// Whose a call is: who connected, or who the trusted proxies name.
    fn client(&self, parts: &Parts) -> Option<IpAddr> {
        let Peer(peer) = parts.extensions.get()?;
        let trusted = self.trusted_proxies.read();
        let trusts = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        let peer = peer.ip().to_canonical();
        Some(sanitize::client(&parts.headers, peer, trusts(peer), trusts))
    }

    /// Notes that a token was let in here: it is as much used by that as by an agent.
    pub(super) fn note_use(&self, parts: &Parts, token: TokenId) {
        let (client, now) = (self.client(parts), Instant::now());
        let version = parts.headers.get(USER_AGENT).and_then(|agent| usage::version_of(agent.as_bytes()));
        match client {
            Some(address) => self.uses.note(token, Seen { id: None, version, address: address.to_canonical() }, now),
            None => self.uses.note_token(token, now),
        }
    }

    /// The registry, for a call with this token.
    pub(super) fn registry_for(&self, parts: &Parts, token: Option<TokenId>) -> Registry {
        let user_agent = parts.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        self.registry.coming_from(Origin::new(token, self.client(parts), user_agent))
    }

    /// What is said to somebody whose credential is none, or does not suffice: guessing is bounded, here as where agents
    /// connect. The audit trail has it, and nobody waits for that.
    pub(super) fn refuse(&self, parts: &Parts, digest: Option<Digest>, refusal: Refusal) -> Problem {
        let known = digest.and_then(|digest| self.authorizer.replica.lookup(&digest));
        let registry = self.registry_for(parts, known.as_ref().map(|holder| holder.token));
        match (&refusal, known) {
            (Refusal::Permission(_), Some(holder)) => {
                if let Some((action, subject)) = attempted(parts) {
                    let user = holder.owner.name().to_owned();
                    let actor = Actor::Token(ActingToken { id: holder.token, user, needed: None });
                    tokio::spawn(async move { registry.note_denied(&actor, action, subject).await });
                }
            }
            (Refusal::TokenFormat | Refusal::UnknownToken | Refusal::Expired, _) => {
                tokio::spawn(async move { registry.note_stranger(Event::SignIn).await });
            }
            _ => {}
        }
        let Some(client) = self.client(parts) else { return refusal.into() };
        let attempt = Attempt { client, digest, replica: &self.authorizer.replica, request_id: None };
        self.failed_auth.refused(&attempt, refusal).into()
    }
}

impl<N: Need> FromRequestParts<Arc<Console>> for Caller<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Arc<Console>) -> Result<Self, Problem> {
        let digest = credential::of(&parts.headers).map_err(|refusal| console.refuse(parts, None, refusal))?;
        let holder = console.authorize(digest, N::PERMISSION);
        let holder = holder.map_err(|refusal| console.refuse(parts, Some(digest), refusal))?;
        match console.calls.take(holder.token, Instant::now()) {
            Ok(()) => {
                console.note_use(parts, holder.token);
                let registry = console.registry_for(parts, Some(holder.token));
                Ok(Self { holder, registry, need: PhantomData })
            }
            Err(wait) => Err(Problem::too_many(wait, "this token calls too often")),
        }
    }
}

/// What a call would have done, as the audit trail names it, and to what. `None`: it would have shown something.
fn attempted(parts: &Parts) -> Option<(Event, Subject)> {
    let route = parts.extensions.get::<MatchedPath>()?.as_str();
    let (_, route) = route.split_once("/api/v1/")?;
    let action = match (&parts.method, route) {
        (&Method::GET, "audit-logs" | "audit-logs/verify") => Event::AuditRead,
        (&Method::POST, "tokens") => Event::TokenCreate,
        (&Method::DELETE, "tokens/{id}") | (_, "tokens/delete" | "tokens/purge") => Event::TokenDelete,
        (_, "tokens/import") => Event::TokenImport,
        (_, "tokens/export") => Event::TokenExport,
        (_, "tokens/revoke" | "tokens/{id}/revoke") => Event::TokenRevoke,
        (_, "tokens/reassign" | "tokens/{id}/reassign") => Event::TokenReassign,
        (_, "tokens/{id}/rotate") => Event::TokenRotate,
        (&Method::POST, "users") => Event::UserCreate,
        (&Method::DELETE, "users/{name}") => Event::UserDelete,
        (_, "users/{name}/role") => Event::UserSetRole,
        (_, "users/{name}/disable") => Event::UserDisable,
        (_, "users/{name}/enable") => Event::UserEnable,
        (_, "users/{name}/transfer-ownership") => Event::OwnershipTransfer,
        _ => return None,
    };
    let subject = Subject { reason: Some("the token does not permit it".to_owned()), ..subject(parts, route) };
    Some((action, subject))
}

/// The token or the user that the path names, if what it names may be one.
fn subject(parts: &Parts, route: &str) -> Subject {
    let segments = route.rsplit('/').zip(parts.uri.path().rsplit('/'));
    let named = |name| segments.clone().find(|(segment, _)| *segment == name).map(|(_, named)| named);
    let token = named("{id}").and_then(|id| id.parse().ok());
    match named("{name}") {
        Some(name) => audit::of_user(name),
        None => audit::of_tokens(token.as_slice()),
    }
}
