//! The configuration, usable as it stands: every value here was checked when it was read.
//!
//! [`load()`] reads the file as written, lets `TOLLGATE_*` environment variables and flags override it, and converts it
//! once into [`Config`], reporting every [`Problem`] of a run together. `config/tollgate.toml` documents every key.
//!
//! ```text
//!   file, variables, flags ── raw ──► values with their places ── keys ──► unknown ones
//!                                            └── convert, through read ──► Config, or Problems
//! ```

mod convert;
mod keys;
mod load;
mod problem;
mod raw;
mod read;
mod routes;
mod show;
mod store;
mod upstream;

pub mod network;
pub mod units;

pub use load::{Overrides, Source, load, store_settings};
pub use problem::{Problem, Problems};
pub use raw::Place;
pub use show::effective;

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::proxy::route::RouteTable;
use crate::store::Settings;
use crate::token::Permission;

/// Everything a sidecar is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where agents connect.
    pub listeners: Vec<ListenerConfig>,
    /// What people call this sidecar; by default the host's name.
    pub name: String,
    /// Threads that accept and serve, each with its own listener sockets and upstream connections.
    pub workers: NonZeroUsize,
    /// The Controller's two servers.
    pub upstreams: Upstreams,
    /// Where the registry is kept.
    pub store: Settings,
    /// Where the replica is saved, so that the next start need not read all of the store.
    pub snapshot_file: Option<PathBuf>,
    /// How long the replica is believed.
    pub freshness: FreshnessConfig,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin_address: SocketAddr,
    /// What is refused for its size or number.
    pub limits: Limits,
    /// How long each thing may take.
    pub timeouts: Timeouts,
    /// What is logged.
    pub log: LogConfig,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<Network>,
    /// The built-in routes with the file's own and the opened groups applied.
    pub routes: RouteTable,
}

/// One address agents connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
}

/// A listener's TLS files, read and checked.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The certificate chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// When set, clients must show a certificate that one of these authorities (PEM) issued.
    pub client_ca: Option<PathBuf>,
    /// Protocols offered by ALPN, the preferred one first.
    pub alpn: Vec<Alpn>,
}

/// A protocol offered by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2, `h2`.
    Http2,
    /// HTTP/1.1, `http/1.1`.
    Http1,
}

/// Both upstreams.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// `/api/...`
    pub api: UpstreamConfig,
    /// `POST /agents/heartbeat`
    pub heartbeat: UpstreamConfig,
}

/// Names one of the two upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamName {
    /// The API server.
    Api,
    /// The heartbeat server.
    Heartbeat,
}

/// One server of the Controller.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Host name or address to connect to; an IPv6 address without brackets.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// `host[:port]` as the `Host` field says it.
    pub authority: String,
    /// `https`: connect with TLS and verify the server.
    pub tls: Option<UpstreamTlsConfig>,
    /// What becomes of the client's credential.
    pub credential: CredentialMode,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait from the whole request being written to the first byte of the reply.
    pub first_byte_timeout: Duration,
    /// Longest pause within a reply, or within writing a request.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept. The Controller (Node) closes after 5 s.
    pub pool_idle_timeout: Duration,
    /// Unused connections kept by each worker.
    pub pool_max_idle: usize,
    /// Requests under way, and connections, over all workers.
    pub max_in_flight: NonZeroUsize,
}

/// How an `https` upstream is verified, and what it is shown.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTlsConfig {
    /// Authorities (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The name to ask for and to verify, instead of [`UpstreamConfig::host`].
    pub server_name: Option<ServerName<'static>>,
    /// For a server that asks for a certificate.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// What the upstream gets as the `Authorization` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialMode {
    /// The client's own.
    Forward,
    /// None.
    Strip,
    /// The Controller's service token, read from this file and again when it changes.
    Replace {
        /// Holds the raw token, nothing else; surrounding white space is ignored.
        token_file: PathBuf,
    },
}

/// How long the replica is believed after it was last proven to be the store's.
#[derive(Debug, Clone)]
pub struct FreshnessConfig {
    /// How often the store is asked for its position.
    pub probe_interval: Duration,
    /// The bound for every permission without one of its own.
    pub max_staleness: MaxStaleness,
    /// Bounds of their own.
    pub per_permission: Vec<(Permission, MaxStaleness)>,
}

impl FreshnessConfig {
    /// How stale the replica may be for requests that need this permission.
    #[must_use]
    pub fn bound(&self, permission: Permission) -> MaxStaleness {
        let own = self.per_permission.iter().find(|(other, _)| *other == permission);
        own.map_or(self.max_staleness, |(_, bound)| *bound)
    }
}

/// A bound on staleness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStaleness {
    /// This long.
    Within(Duration),
    /// No bound: a stated choice of the operator's.
    Never,
}

impl MaxStaleness {
    /// Whether a replica that is so stale is still believed.
    #[must_use]
    pub fn allows(self, staleness: Duration) -> bool {
        match self {
            Self::Within(bound) => staleness <= bound,
            Self::Never => true,
        }
    }
}

/// What is refused for its size or number.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open client connections, over all listeners. Above it, accepting pauses.
    pub max_connections: NonZeroUsize,
    /// Open client connections from one address; `None`: as many as there may be in all.
    pub max_connections_per_client: Option<NonZeroUsize>,
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

/// How long each thing may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accepting a connection to the end of its TLS handshake.
    pub tls_handshake: Duration,
    /// From the first byte of a request to the end of its head; for the first request, from accepting.
    pub request_head: Duration,
    /// How long a peer may make us wait within a body, over what [`Limits::min_body_rate`] allows.
    pub body_grace: Duration,
    /// How long a connection without a request is kept.
    pub keep_alive: Duration,
    /// From the signal to stop to cutting what still runs.
    pub drain: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `tollgate=debug`.
    pub filter: String,
    /// Text or JSON lines.
    pub format: LogFormat,
}

/// The form of log lines, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Addresses that share a prefix, such as `10.0.0.0/8`; a lone address is one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The first address.
    pub address: std::net::IpAddr,
    /// Leading bits that count: 0 to 32, or 128.
    pub prefix: u8,
}
