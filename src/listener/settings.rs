//! What a listener is told.

use std::net::SocketAddr;

use crate::tls::TlsConfig;

/// One address agents connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
}
