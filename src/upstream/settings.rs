//! How the Controller's servers are reached.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::UpstreamUrl;
use crate::tls::UpstreamTlsConfig;
use crate::words::words;

/// Most nodes of an upstream.
pub(crate) const MAX_NODES: usize = 16;

/// Both upstreams.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// `/api/...`
    pub api: UpstreamConfig,
    /// `POST /agents/heartbeat`
    pub heartbeat: UpstreamConfig,
}

impl Default for Upstreams {
    fn default() -> Self {
        let local = |port, health| UpstreamConfig::at(UpstreamUrl::local(port), PathAndQuery::from_static(health));
        Self { api: local(8888, "/health/ready"), heartbeat: local(8000, "/health") }
    }
}

words! {
    /// Names one of the two upstreams.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub enum UpstreamName ("upstreams") {
        /// The API server.
        #[default]
        Api = "api",
        /// The heartbeat server.
        Heartbeat = "heartbeat",
    }
}

/// One server of the Controller.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Where its nodes are: one at least, `MAX_NODES` at most, all of one scheme.
    pub nodes: Vec<UpstreamUrl>,
    /// `https`: connect with TLS and verify the server.
    pub tls: Option<UpstreamTlsConfig>,
    /// Asked for of each of several nodes: one that answers 503 is unhealthy. `None`: a connection is enough.
    pub health_path: Option<PathAndQuery>,
    /// How often; and how long the answer may take.
    pub health_interval: Duration,
    /// What becomes of the client's credential.
    pub credential: CredentialMode,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest wait from the whole request being written to the first byte of the reply.
    pub first_byte_timeout: Duration,
    /// Longest pause within a reply, or within writing a request.
    pub idle_timeout: Duration,
    /// How long an unused connection stays in the pool. The Controller (Node) closes after 5 s.
    pub pool_idle_timeout: Duration,
    /// Unused connections in the pool of each worker, to each node.
    pub pool_max_idle: usize,
    /// In-flight requests, and connections, over all workers and nodes.
    pub max_in_flight: NonZeroUsize,
}

impl UpstreamConfig {
    /// The defaults, for the upstream with this URL.
    fn at(url: UpstreamUrl, health_path: PathAndQuery) -> Self {
        Self {
            tls: url.https.then(UpstreamTlsConfig::default),
            nodes: vec![url],
            health_path: Some(health_path),
            health_interval: Duration::from_secs(5),
            credential: CredentialMode::Forward,
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            pool_idle_timeout: Duration::from_secs(4),
            pool_max_idle: 512,
            max_in_flight: NonZeroUsize::new(512).expect("it is not zero"),
        }
    }
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
