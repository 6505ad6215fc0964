//! Connections to one of the Controller's servers: made, kept for a while, used again.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::config::{CredentialMode, UpstreamConfig};
use crate::socket::{Socket, Stream};
use crate::tls::{self, TlsError};
use crate::worker::alarm::Moment;

/// One upstream, as all workers share it.
pub struct Upstream {
    /// How to reach it.
    pub config: UpstreamConfig,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The `Authorization` value that replaces the client's. Changed when its file changes.
    service_credential: RwLock<Arc<Zeroizing<Vec<u8>>>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("authority", &self.config.authority).finish_non_exhaustive()
    }
}

/// What becomes of the `Authorization` field.
pub enum Credential {
    /// The client's goes on.
    Forward,
    /// None goes on.
    Strip,
    /// This value goes on.
    Replace(Arc<Zeroizing<Vec<u8>>>),
}

/// Why a service token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    /// The file cannot be read.
    #[error("reading the credential file {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("the credential file {path} holds no token")]
    Token {
        /// Which.
        path: String,
        /// What is wrong with it.
        #[source]
        source: crate::token::raw::InvalidToken,
    },
}

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its host is no name that a certificate could have.
    #[error("the upstream host {host} cannot be verified by TLS")]
    Name {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: rustls::pki_types::InvalidDnsNameError,
    },
    /// Its TLS files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its service token.
    #[error(transparent)]
    Credential(#[from] CredentialFileError),
}

impl Upstream {
    /// An upstream to connect to.
    ///
    /// # Errors
    /// When its TLS files or its credential file cannot be used.
    pub fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let host = config.host.clone();
                let name = ServerName::try_from(host.clone()).map_err(|source| UpstreamError::Name { host, source })?;
                Some((TlsConnector::from(tls::client_config(tls)?), name))
            }
        };
        let upstream = Self { config, tls, service_credential: RwLock::default() };
        upstream.reload_credential()?;
        Ok(upstream)
    }

    /// Reads the service token again, if there is a file for it.
    ///
    /// # Errors
    /// [`CredentialFileError`]; the one read before stays.
    pub fn reload_credential(&self) -> Result<(), CredentialFileError> {
        let CredentialMode::Replace { token_file } = &self.config.credential else { return Ok(()) };
        let path = token_file.display().to_string();
        let text = match std::fs::read_to_string(token_file) {
            Ok(text) => Zeroizing::new(text),
            Err(source) => return Err(CredentialFileError::Read { path, source }),
        };
        let token: crate::token::RawToken =
            text.trim().parse().map_err(|source| CredentialFileError::Token { path, source })?;
        let mut value = Zeroizing::new(Vec::with_capacity(7 + token.reveal().len()));
        value.extend_from_slice(b"Bearer ");
        value.extend_from_slice(token.reveal().as_bytes());
        let mut current = self.service_credential.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = Arc::new(value);
        Ok(())
    }

    /// What becomes of the `Authorization` field.
    #[must_use]
    pub fn credential(&self) -> Credential {
        match self.config.credential {
            CredentialMode::Forward => Credential::Forward,
            CredentialMode::Strip => Credential::Strip,
            CredentialMode::Replace { .. } => {
                let current = self.service_credential.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                Credential::Replace(Arc::clone(&current))
            }
        }
    }

    async fn connect(&self) -> io::Result<Socket> {
        let port = self.config.port;
        let stream = match self.config.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, port)).await?,
            Err(_) => TcpStream::connect((self.config.host.as_str(), port)).await?,
        };
        stream.set_nodelay(true)?;
        Ok(Socket::new(match &self.tls {
            None => Stream::Plain(stream),
            Some((connector, name)) => Stream::Tls(Box::new(connector.connect(name.clone(), stream).await?.into())),
        }))
    }
}

/// A worker's connections to one upstream. The last used is used first, so that spare ones age and go.
#[derive(Debug)]
pub struct Pool {
    /// Where they lead.
    pub upstream: Arc<Upstream>,
    idle: RefCell<Vec<(Socket, Moment)>>,
}

impl Pool {
    /// No connections yet.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>) -> Self {
        Self { upstream, idle: RefCell::default() }
    }

    /// A connection that was used before and still stands, as far as can be seen from here.
    pub fn reuse(&self, now: Moment) -> Option<Socket> {
        loop {
            let (socket, since) = self.idle.borrow_mut().pop()?;
            if now.since(since) < self.upstream.config.pool_idle_timeout && socket.is_quiet() {
                return Some(socket);
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// The connection's, or those of TLS.
    pub async fn connect(&self) -> io::Result<Socket> {
        self.upstream.connect().await
    }

    /// Keeps a connection on which a reply ended cleanly.
    pub fn keep(&self, socket: Socket, now: Moment) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.upstream.config.pool_max_idle {
            idle.push((socket, now));
        }
    }

    /// Closes every idle connection: one was found dead, so the others are suspect.
    pub fn forget(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes those that were idle for too long.
    pub fn drop_idle(&self, now: Moment) {
        self.idle.borrow_mut().retain(|(_, since)| now.since(*since) < self.upstream.config.pool_idle_timeout);
    }
}
