//! Connections to servers: TCP, TLS where the URL asks for it, and a greeting that says who we are and asks who they are.
//!
//! Names are resolved, and passwords and certificates read, for each connection anew: what was rotated or moved counts
//! from the next one on. A name may have several addresses, of which some may not answer, or not be what is wanted: each is
//! tried.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::check;
use super::fault::Fault;
use super::heard::{Audible, Heard};
use super::stagger;
use crate::store::Settings;
use crate::store::settings::read_password;
use crate::store::url::{RedisUrl, Server, Topology};
use crate::tls::{self, TlsError};

/// Longest wait for an address to be reached.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest silence during TLS and the greeting where no other server can be the primary: a fleet that comes back at once has
/// Redis busy with handshakes for seconds, and those that are given up are work for nothing.
const ONLY_SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that is gone without a word is noticed after silence of this length, and three unanswered probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));

/// Longest time that data may stay unacknowledged by the peer's system (`TCP_USER_TIMEOUT`, RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// For connections whose commands are answered within this time; without it, whoever asks looks to that.
pub(super) fn config(limit: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(limit)
}

/// Makes connections.
pub(super) struct Dialer {
    settings: Settings,
    pub(super) url: RedisUrl,
    /// On any connection.
    pub(super) heard: Arc<Heard>,
}

/// What the other end has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The primary, as it sees it itself.
    Primary,
    /// A server with our data, primary or not.
    Any,
    /// A Sentinel, which has a user and a password of its own.
    Sentinel,
}

/// The task that moves a connection's bytes. Ends with it, whatever was still under way.
#[derive(Debug)]
pub(super) struct Carrier {
    task: AbortHandle,
    /// What arrives on it.
    pub(super) heard: Arc<Heard>,
    /// Closed when the connection is over.
    alive: watch::Receiver<()>,
}

impl Carrier {
    fn start(carry: impl Future<Output = ()> + Send + 'static, heard: Arc<Heard>) -> Self {
        let (living, alive) = watch::channel(());
        let task = tokio::spawn(async move {
            carry.await;
            drop(living);
        });
        Self { task: task.abort_handle(), heard, alive }
    }

    /// Whether the connection is over.
    pub(super) fn is_over(&self) -> bool {
        self.alive.has_changed().is_err()
    }

    /// Waits until the connection is over.
    pub(super) async fn over(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection's bytes, plain or in TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection, and what carries it.
pub(super) type Dialled = (MultiplexedConnection, Carrier);

impl Dialer {
    pub(super) fn new(settings: Settings, url: RedisUrl) -> Self {
        Self { settings, url, heard: Heard::new() }
    }

    /// Connects and greets, at the first of the server's addresses that answers as it should.
    ///
    /// # Errors
    /// Of its addresses, the one whose failure somebody has to mend, or else the last.
    pub(super) async fn dial(
        self: &Arc<Self>,
        server: &Server,
        peer: Peer,
        config: AsyncConnectionConfig,
    ) -> Result<Dialled, Fault> {
        let resolving = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((server.host.as_str(), server.port)));
        let addresses = resolving.await.map_err(|_| Fault::unreachable(server, late(CONNECT_TIMEOUT, "")))?;
        let addresses = addresses.map_err(|error| Fault::unreachable(server, error))?;
        self.dial_any(server, addresses, peer, config).await
    }

    async fn dial_any(
        self: &Arc<Self>,
        server: &Server,
        addresses: impl Iterator<Item = SocketAddr>,
        peer: Peer,
        config: AsyncConnectionConfig,
    ) -> Result<Dialled, Fault> {
        let mut waiting = addresses.map(|address| {
            let (this, server, config) = (Arc::clone(self), server.clone(), config.clone());
            async move { this.try_address(&server, address, peer, config).await }
        });
        let (mut attempts, mut failure) = (JoinSet::new(), None);
        while let Some(outcome) = stagger::next(&mut attempts, &mut waiting).await {
            match outcome {
                Ok(dialled) => return Ok(dialled),
                Err(fault) => failure = failure.filter(Fault::is_unusable).or(Some(fault)),
            }
        }
        let nowhere = || Fault::unreachable(server, io::Error::from(io::ErrorKind::AddrNotAvailable));
        Err(failure.unwrap_or_else(nowhere))
    }

    /// RESP3 always: its greeting reports errors in the server's own words, and takes what the server says unasked.
    async fn try_address(
        &self,
        server: &Server,
        address: SocketAddr,
        peer: Peer,
        config: AsyncConnectionConfig,
    ) -> Result<Dialled, Fault> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| Fault::unreachable(server, late(CONNECT_TIMEOUT, "")))?;
        let stream = stream.map_err(|error| Fault::unreachable(server, error))?;
        let limit = match self.url.topology {
            Topology::Single(_) => ONLY_SERVER_TIMEOUT,
            Topology::Sentinel { .. } | Topology::Cluster(_) => CONNECT_TIMEOUT,
        };
        let heard = Heard::new();
        let greeted = heard.unless_silent(limit, async {
            let stream = Audible { stream, heard: [Arc::clone(&heard), Arc::clone(&self.heard)] };
            let stream = self.secure(server, stream).await.map_err(|source| Fault::unreachable(server, source))?;
            let greeting = self.greeting(server, peer).await?;
            let made = MultiplexedConnection::new_with_config(&greeting, stream, config).await;
            let (mut connection, carry) = made.map_err(|error| Fault::of_connecting(server, error))?;
            let carrier = Carrier::start(carry, Arc::clone(&heard));
            check::greet(&mut connection, server, peer, &self.url.topology).await?;
            Ok((connection, carrier))
        });
        // A server without TLS waits for the rest of what it takes for a command.
        let hint = if self.url.tls { "; does this port speak TLS?" } else { "" };
        greeted.await.unwrap_or_else(|| Err(Fault::crowded(server, late(limit, hint))))
    }

    async fn secure(&self, server: &Server, stream: Audible) -> Result<Box<dyn Stream>, ConnectError> {
        stream.stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream.stream);
        let (idle, interval) = KEEPALIVE;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3))?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        if !self.url.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.tls().await?);
        Ok(Box::new(connector.connect(name, stream).await.map_err(ConnectError::Handshake)?))
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
            Peer::Primary | Peer::Any => {
                (&self.url.username, self.url.password.clone(), password_file, self.url.database)
            }
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

/// Nothing came within this time.
fn late(limit: Duration, hint: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}{hint}"))
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::store::StoreUrl;

    /// Greets as this; says nothing if it is nothing.
    fn server(role: &'static str) -> SocketAddr {
        slow_server(role, Duration::ZERO)
    }

    /// The same, after a while.
    fn slow_server(role: &'static str, delay: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut answers = stream.try_clone().expect("clones");
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                for _ in lines.filter(|line| line == "HELLO" && !role.is_empty()) {
                    std::thread::sleep(delay);
                    let fields = [("version", "7.0.15"), ("mode", "standalone"), ("role", role)];
                    let fields = fields.map(|(name, value)| format!("+{name}\r\n+{value}\r\n"));
                    answers.write_all(format!("%3\r\n{}", fields.concat()).as_bytes()).ok();
                }
            }
        });
        address
    }

    fn dialer(url: &str) -> (Arc<Dialer>, Server) {
        let settings = Settings::from(url.parse::<StoreUrl>().expect("a URL"));
        let StoreUrl::Redis(url) = settings.url.clone() else { unreachable!("as written above") };
        (Arc::new(Dialer::new(settings, url)), Server { host: "store.test".to_owned(), port: 6379 })
    }

    /// One that hangs, one that is not the primary, and one where nobody is.
    #[tokio::test]
    async fn each_address_of_a_name_is_tried() {
        let (dialer, name) = dialer("redis://store.test");
        let dial = |addresses: Vec<SocketAddr>| {
            dialer.dial_any(&name, addresses.into_iter(), Peer::Primary, AsyncConnectionConfig::new())
        };
        let nowhere = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (hangs, replica, primary) = (server(""), server("replica"), server("master"));
        let began = Instant::now();
        assert!(dial(vec![nowhere, hangs, replica, primary]).await.is_ok());
        assert!(began.elapsed() < CONNECT_TIMEOUT, "{:?}", began.elapsed());
        assert!(matches!(dial(vec![nowhere, replica]).await.map(drop), Err(Fault::NotPrimary)));
        assert!(matches!(dial(vec![]).await.map(drop), Err(Fault::Unreachable { .. })));
    }

    /// Each answer takes less than is waited for, and all of them more.
    #[tokio::test]
    async fn who_is_far_is_greeted_too() {
        let (dialer, name) = dialer("redis-sentinel://store.test/main");
        let far = slow_server("master", CONNECT_TIMEOUT * 3 / 5);
        assert!(dialer.dial_any(&name, [far].into_iter(), Peer::Primary, config(None)).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_known_to_be_over() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut peer, _) = listener.accept().await.expect("accepts");
        let (said, is_said) = tokio::sync::oneshot::channel::<()>();
        let carry = async move {
            drop(is_said.await);
            drop(stream);
        };
        let carrier = Carrier::start(carry, Heard::new());
        assert!(!carrier.is_over());
        drop(said);
        carrier.over().await;
        assert!(carrier.is_over());
        assert_eq!(tokio::io::AsyncReadExt::read(&mut peer, &mut [0]).await.expect("reads"), 0);
    }
}
