//! The settings of a listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::proxy::Network;
use crate::tls::TlsConfig;

/// One address agents connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Balancers, each of which must begin its connections with a PROXY header and is believed what it says there.
    pub proxy_protocol: Vec<Network>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080), tls: None, proxy_protocol: Vec::new() }
    }
}
