//! Connecting to an upstream: name, addresses, TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Step, UpstreamError};
use crate::config::UpstreamConfig;
use crate::socket::Stream;
use crate::tls;

/// Makes connections.
pub struct Connector {
    config: UpstreamConfig,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ConnectError {
    /// How far it came.
    pub step: Step,
    /// Where to.
    pub address: Option<SocketAddr>,
    /// It took too long.
    pub timed_out: bool,
    /// What happened.
    #[source]
    pub source: io::Error,
}

impl ConnectError {
    pub(super) fn setup(address: SocketAddr, error: hyper::Error) -> Self {
        Self { step: Step::Connect, address: Some(address), timed_out: false, source: io::Error::other(error) }
    }
}

impl Connector {
    /// As configured.
    ///
    /// # Errors
    /// TLS files.
    pub fn new(config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let host = config.host.clone();
                let name = match &tls.server_name {
                    Some(name) => name.clone(),
                    None => {
                        ServerName::try_from(host.clone()).map_err(|source| UpstreamError::Name { host, source })?
                    }
                };
                Some((TlsConnector::from(tls::client_config(tls)?), name))
            }
        };
        Ok(Self { config: config.clone(), tls })
    }

    /// Connects.
    ///
    /// # Errors
    /// How far it came.
    pub async fn connect(&self) -> Result<(Stream, SocketAddr), ConnectError> {
        let connect = async {
            let port = self.config.port;
            let stream = match self.config.host.parse::<IpAddr>() {
                Ok(address) => TcpStream::connect((address, port)).await?,
                Err(_) => TcpStream::connect((self.config.host.as_str(), port)).await?,
            };
            stream.set_nodelay(true)?;
            let address = stream.peer_addr()?;
            let stream = match &self.tls {
                None => Stream::Plain(stream),
                Some((connector, name)) => Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?.into())),
            };
            Ok((stream, address))
        };
        let outcome = tokio::time::timeout(self.config.connect_timeout, connect).await;
        let timed_out = outcome.is_err();
        let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        outcome.map_err(|source| ConnectError { step: Step::Connect, address: None, timed_out, source })
    }
}
