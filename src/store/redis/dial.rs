//! Connections to servers: TCP, TLS where the URL asks for it, and a greeting that says who we are.
//!
//! Names are resolved, and passwords and certificates read, for each connection anew: what was rotated or moved counts
//! from the next one on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio_rustls::TlsConnector;

use super::fault::Fault;
use crate::socket::Stream;
use crate::store::Settings;
use crate::store::settings::read_password;
use crate::store::url::{RedisUrl, Server};
use crate::tls::{self, TlsError};

/// Longest wait for a connection, its greeting included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A peer that is gone without a word is noticed after silence of this length, and three unanswered probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// Longest time that data may stay unacknowledged by the peer's system (`TCP_USER_TIMEOUT`, RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Makes connections.
pub(super) struct Dialer {
    settings: Settings,
    url: RedisUrl,
}

/// What the other end is: it has its own user and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A Redis server.
    Server,
    /// A Sentinel.
    Sentinel,
}

/// The task that moves a connection's bytes. Ends with it, whatever was still under way.
#[derive(Debug)]
pub(super) struct Carrier(AbortHandle);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dialer {
    pub(super) fn new(settings: Settings, url: RedisUrl) -> Self {
        Self { settings, url }
    }

    pub(super) fn url(&self) -> &RedisUrl {
        &self.url
    }

    /// Connects and greets. RESP3 always: its greeting reports errors in the server's own words, and takes what the server
    /// says unasked.
    pub(super) async fn dial(
        &self,
        server: &Server,
        peer: Peer,
        config: AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, Carrier), Fault> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let stream = self.connect(server).await.map_err(|source| Fault::unreachable(server, source))?;
            let greeting = self.greeting(server, peer).await?;
            match MultiplexedConnection::new_with_config(&greeting, stream, config).await {
                Ok((connection, carry)) => Ok((connection, Carrier(tokio::spawn(carry).abort_handle()))),
                Err(error) => Err(Fault::of_connecting(server, error)),
            }
        });
        let late = |_| {
            // A server without TLS waits for the rest of what it takes for a command.
            let hint = if self.url.tls { "; does this port speak TLS?" } else { "" };
            let text = format!("no answer within {CONNECT_TIMEOUT:?}{hint}");
            Fault::unreachable(server, io::Error::new(io::ErrorKind::TimedOut, text))
        };
        connected.await.map_err(late)?
    }

    async fn connect(&self, server: &Server) -> Result<Stream, ConnectError> {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let (idle, interval) = KEEPALIVE;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3))?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        if !self.url.tls {
            return Ok(Stream::Plain(stream));
        }
        let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.tls().await?);
        let stream = connector.connect(name, stream).await.map_err(ConnectError::Handshake)?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    async fn tls(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let Settings { ca, certificate, key, .. } = self.settings.clone();
        let read = spawn_blocking(move || {
            let identity = certificate.as_deref().zip(key.as_deref());
            tls::store_config(ca.as_deref(), identity)
        });
        Ok(read.await.map_err(io::Error::other)??)
    }

    async fn greeting(&self, server: &Server, peer: Peer) -> Result<RedisConnectionInfo, Fault> {
        let Settings { password_file, sentinel_username, sentinel_password_file, .. } = &self.settings;
        let (username, password, file, database) = match peer {
            Peer::Server => (&self.url.username, self.url.password.clone(), password_file, self.url.database),
            Peer::Sentinel => (sentinel_username, None, sentinel_password_file, 0),
        };
        let password = match file.clone() {
            Some(file) => {
                let read = spawn_blocking(move || read_password(&file)).await;
                let read = read.map_err(|error| Fault::unreachable(server, io::Error::other(error)))?;
                Some(read.map_err(|error| Fault::unreachable(server, error))?)
            }
            None => password,
        };
        let mut greeting = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(i64::from(database))
            .set_skip_set_lib_name();
        if let Some(username) = username {
            // A user without a password is one that needs none: any will do.
            greeting = greeting.set_username(username).set_password("");
        }
        if let Some(password) = password {
            greeting = greeting.set_password(password.reveal());
        }
        Ok(greeting)
    }
}

/// Why there is no stream of bytes to a server.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("TLS, which this port may not speak, or with another certificate")]
    Handshake(#[source] io::Error),
    #[error(transparent)]
    Files(#[from] TlsError),
}
