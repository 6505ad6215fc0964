//! The settings of a listener.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ListenAddress;
use crate::proxy::Network;
use crate::tls::TlsConfig;

/// A Unix socket's user and group may connect.
const DEFAULT_MODE: u32 = 0o660;

/// One address agents connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where it listens; port 0 takes a free one.
    pub address: ListenAddress,
    /// Who may connect to it, if it is a Unix socket: the mode of its file, [`DEFAULT_MODE`] without one.
    pub mode: Option<u32>,
    /// Without it, plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Balancers, each of which must begin its connections with a PROXY header and is believed what it says there.
    pub proxy_protocol: Vec<Network>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        let address = ListenAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080));
        Self { address, mode: None, tls: None, proxy_protocol: Vec::new() }
    }
}

impl ListenerConfig {
    /// The mode of a Unix socket's file.
    pub(crate) fn mode(&self) -> u32 {
        self.mode.unwrap_or(DEFAULT_MODE)
    }
}
