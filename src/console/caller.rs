//! Who calls: a token with what the call needs, by the replica. Nobody else's word counts: no cookie, nothing in a query.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::Console;
use super::api::problem::Problem;
use crate::clock::Instant;
use crate::proxy::failed_auth::Attempt;
use crate::proxy::refusal::Refusal;
use crate::proxy::{credential, sanitize};
use crate::registry::{ActingToken, Actor};
use crate::replica::Holder;
use crate::token::{Action, Digest, Permission, Resource};
use crate::worker::alarm::AdmissionTerms;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

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
}

/// A token that works.
#[derive(Debug)]
pub(super) struct AnyToken;

impl Need for AnyToken {
    const PERMISSION: Option<Permission> = None;
}

/// Somebody whose token has what a call needs.
#[derive(Debug)]
pub(super) struct Caller<N> {
    /// The token and its owner, as the replica has them.
    pub(super) holder: Holder,
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

    /// What is said to somebody whose credential is none: guessing is bounded, here as where agents connect.
    fn refuse(&self, parts: &Parts, digest: Option<Digest>, refusal: Refusal) -> Problem {
        let Some(Peer(peer)) = parts.extensions.get() else { return refusal.into() };
        let trusts = |address: IpAddr| self.trusted_proxies.iter().any(|network| network.contains(address));
        let peer = peer.ip().to_canonical();
        let client = sanitize::client(&parts.headers, peer, trusts(peer), trusts);
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
            Ok(()) => Ok(Self { holder, need: PhantomData }),
            Err(wait) => Err(Problem::too_many(wait, "this token calls too often")),
        }
    }
}
