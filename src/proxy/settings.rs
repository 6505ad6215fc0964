//! The settings of the proxy.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use super::failed_auth::{FailedAuth, FailedAuthLimit};
use super::late::LateUses;
use super::route::RouteTable;
use super::{Cache, Network, Observers};
use crate::readiness::Readiness;
use crate::replica::MaxStaleness;

/// What a [`Gate`](super::Gate) decides by, tokens aside.
pub(crate) struct Settings {
    /// Sizes and numbers.
    pub limits: Limits,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Where requests may go.
    pub routes: RouteTable,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<Network>,
    /// The bound on staleness for whatever has none of its own.
    pub max_staleness: MaxStaleness,
    /// For how long an expired token is refused as such; then as one that nobody knows.
    pub expired_retention: Duration,
    /// The path that is answered with whether the sidecar is ready, if there is one.
    pub health_path: Option<String>,
    /// What that is.
    pub readiness: Arc<Readiness>,
    /// Who was refused for want of a good token.
    pub failed_auth: Arc<FailedAuth>,
    /// Tokens that are used after their end.
    pub late: Arc<LateUses>,
    /// Who wants to know of requests.
    pub observers: Observers,
    /// Answers for when the Controller is away, if they are stored.
    pub cache: Option<Arc<Cache>>,
}

/// What is refused for its size or number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open client connections, over all listeners. Above it, accepting pauses.
    pub max_connections: NonZeroUsize,
    /// Open client connections from one address; `None`: as many as there may be in all.
    pub max_connections_per_client: Option<NonZeroUsize>,
    /// Failed authentications of one client network.
    pub failed_auth: FailedAuthLimit,
    /// Bytes of a request head (request line and fields).
    pub max_head_bytes: NonZeroUsize,
    /// Fields of a request.
    pub max_headers: NonZeroUsize,
    /// Bytes of a request body.
    pub max_body_bytes: NonZeroU64,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: NonZeroUsize,
    /// Bytes per second below which a peer that makes us wait within a body is cut off, after
    /// [`Timeouts::body_grace`].
    pub min_body_rate: NonZeroU64,
}

impl Default for Limits {
    fn default() -> Self {
        let number = |number| NonZeroUsize::new(number).expect("none of these is zero");
        let bytes = |number| NonZeroU64::new(number).expect("none of these is zero");
        Self {
            max_connections: number(100_000),
            max_connections_per_client: None,
            max_head_bytes: number(16 << 10),
            max_headers: number(100),
            max_body_bytes: bytes(10 << 20),
            max_streams: number(100),
            min_body_rate: bytes(1 << 10),
            failed_auth: FailedAuthLimit::default(),
        }
    }
}

/// How long each thing may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accepting a connection to the end of its TLS handshake.
    pub tls_handshake: Duration,
    /// From the first byte of a request to the end of its head; for the first request, from accepting.
    pub request_head: Duration,
    /// How long a peer may make us wait within a body, over what [`Limits::min_body_rate`] allows.
    pub body_grace: Duration,
    /// How long a connection without a request stays open.
    pub keep_alive: Duration,
    /// From the signal to stop to the end of accepting: balancers take note meanwhile.
    pub drain_delay: Duration,
    /// From then to cutting what still runs.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            body_grace: Duration::from_secs(20),
            keep_alive: Duration::from_mins(5),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}
