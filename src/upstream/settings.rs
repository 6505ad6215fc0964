//! How the Controller's servers are reached.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::UpstreamUrl;
use crate::tls::UpstreamTlsConfig;
use crate::words::words;

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
        let local = |port| UpstreamConfig::at(UpstreamUrl::local(port));
        Self { api: local(8888), heartbeat: local(8000) }
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
    /// How long an unused connection stays in the pool. The Controller (Node) closes after 5 s.
    pub pool_idle_timeout: Duration,
    /// Unused connections in the pool of each worker.
    pub pool_max_idle: usize,
    /// In-flight requests, and connections, over all workers.
    pub max_in_flight: NonZeroUsize,
}

impl UpstreamConfig {
    /// The defaults, for the upstream with this URL.
    pub(crate) fn at(url: UpstreamUrl) -> Self {
        let UpstreamUrl { https, host, port, authority } = url;
        Self {
            host,
            port,
            authority,
            tls: https.then(UpstreamTlsConfig::default),
            credential: CredentialMode::Forward,
            connect_timeout: Duration::from_secs(2),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            pool_idle_timeout: Duration::from_secs(4),
            pool_max_idle: 512,
            max_in_flight: NonZeroUsize::new(512).expect("it is not zero"),
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> UpstreamUrl {
        let Self { host, port, authority, tls, .. } = self;
        UpstreamUrl { https: tls.is_some(), host: host.clone(), port: *port, authority: authority.clone() }
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
