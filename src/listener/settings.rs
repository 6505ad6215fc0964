//! The settings of a listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::tls::TlsConfig;

/// One address agents connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080), tls: None }
    }
}
