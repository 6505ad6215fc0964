//! From a node's URL to a connection: its name is looked up, its addresses are tried, TLS is agreed on, all of it
//! within `timeouts.connect`.
//!
//! ```text
//! resolve (lookup: one at a time, shared) ─► connect ─► tls     each address (race: the one that worked last first)
//! ```

mod lookup;
mod race;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use self::lookup::Lookup;
pub(super) use self::lookup::Resolve;
use self::race::Race;
use super::{Step, UpstreamConfig, UpstreamError, UpstreamUrl};
use crate::lock::{Mutex, RwLock};
use crate::socket::Stream;
use crate::tls::{self, ClientTls, TlsError, UpstreamTlsConfig};

/// Makes connections to one node. Shared by all workers.
pub(crate) struct Connector {
    target: Target,
    tls: Option<Tls>,
    timeout: Mutex<Duration>,
    /// Where the last connection was made to. The next one begins there: an address that does not answer costs time once.
    last: Mutex<Option<SocketAddr>>,
}

enum Target {
    /// Never looked up.
    Address(SocketAddr),
    /// Looked up for each connection: a name may move.
    Name(Lookup),
    /// Not looked up either.
    Unix(Arc<Path>),
}

/// How long a resolver may take before the addresses are used that it said last, where there are some.
const RESOLVER_PATIENCE: Duration = Duration::from_millis(250);

struct Tls {
    config: UpstreamTlsConfig,
    name: ServerName<'static>,
    current: RwLock<ClientTls>,
    /// How often the files were found to be others: a connection belongs to those that it was made by.
    generation: AtomicU64,
}

/// Where a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{step}{}", address.as_ref().map(|address| format!(" {address}")).unwrap_or_default())]
pub(crate) struct ConnectError {
    /// Where it ended: with several addresses, as far as any of them got.
    pub step: Step,
    /// At which address.
    pub address: Option<Address>,
    /// Whether nothing answered in time, here or as the system sees it.
    pub timed_out: bool,
    source: io::Error,
}

impl ConnectError {
    pub(super) fn new(step: Step, address: Option<Address>, source: io::Error) -> Self {
        Self { step, address, timed_out: source.kind() == io::ErrorKind::TimedOut, source }
    }
}

impl Connector {
    /// For this node of the upstream of this configuration.
    ///
    /// # Errors
    /// When its name or its TLS files cannot be used.
    pub(crate) fn new(url: &UpstreamUrl, config: &UpstreamConfig) -> Result<Self, UpstreamError> {
        Self::resolving(url, config, lookup::system())
    }

    pub(super) fn resolving(
        url: &UpstreamUrl,
        config: &UpstreamConfig,
        resolve: Resolve,
    ) -> Result<Self, UpstreamError> {
        let UpstreamUrl { host, port, socket, .. } = url;
        let target = match (socket, host.parse::<IpAddr>()) {
            (Some(path), _) => Target::Unix(path.as_path().into()),
            (None, Ok(address)) => Target::Address(SocketAddr::new(address, *port)),
            (None, Err(_)) => Target::Name(Lookup::new(host.clone(), *port, resolve)),
        };
        let tls = config.tls.as_ref().map(|tls| Tls::new(host, tls)).transpose()?;
        Ok(Self { target, tls, timeout: Mutex::new(config.connect_timeout), last: Mutex::default() })
    }

    /// Reads the authorities and the client certificate again, for the connections from now on. Where they are others than
    /// before, there is another [`Connector::generation`].
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let read = tls::client_config(&tls.config)?;
        let mut current = tls.current.write();
        if !current.is_same(&read) {
            tls.generation.fetch_add(1, Ordering::SeqCst);
        }
        *current = read;
        Ok(())
    }

    /// Of its TLS files: what was connected by an earlier one is used no more.
    pub(super) fn generation(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.generation.load(Ordering::SeqCst))
    }

    /// How long connections may take from now on.
    pub(super) fn set_timeout(&self, timeout: Duration) {
        *self.timeout.lock() = timeout;
    }

    /// When what its TLS is made of ends: see [`ClientTls::ends`].
    pub(crate) fn tls_ends(&self) -> Option<[Option<jiff::Timestamp>; 2]> {
        self.tls.as_ref().map(|tls| tls.current.read().ends())
    }

    /// A new connection, and the address that it leads to. Takes no longer than `timeouts.connect`; cancel-safe.
    /// Needs a tokio runtime with time and input/output.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub(crate) async fn connect(&self) -> Result<(Stream, Address), ConnectError> {
        let timeout = *self.timeout.lock();
        let deadline = Instant::now() + timeout;
        let mut addresses = match &self.target {
            Target::Unix(path) => {
                let connected = timeout_at(deadline, connect_unix(path)).await.unwrap_or_else(|_| Err(late(timeout)));
                let address = Address::Unix(Arc::clone(path));
                return match connected {
                    Ok(stream) => Ok((stream, address)),
                    Err(error) => Err(ConnectError::new(Step::Connect, Some(address), error)),
                };
            }
            Target::Address(address) => vec![*address],
            Target::Name(lookup) => {
                let patience = RESOLVER_PATIENCE.min(timeout / 4);
                let found = timeout_at(deadline, lookup.addresses(patience)).await.unwrap_or_else(|_| {
                    let late = late(timeout);
                    lookup.give_up(&late);
                    Err(late)
                });
                found.map_err(|error| ConnectError::new(Step::Resolve, None, error))?
            }
        };
        let last = *self.last.lock();
        // A stable sort: the others stay in the resolver's order.
        addresses.sort_by_key(|address| Some(*address) != last);
        let mut race = Race::new(addresses, self.tls.as_ref().map(Tls::client), timeout);
        let won = timeout_at(deadline, race.run()).await;
        let (stream, address) = won.unwrap_or_else(|_| Err(race.late(late(timeout))))?;
        *self.last.lock() = Some(address);
        Ok((stream, Address::Tcp(address)))
    }

    /// Whether there is an address to connect to, as far as is known.
    pub(super) fn is_resolved(&self) -> bool {
        self.lookup().is_none_or(Lookup::is_resolved)
    }

    /// Whether its name could not be looked up when that was tried last.
    pub(super) fn has_lookup_trouble(&self) -> bool {
        self.lookup().is_some_and(Lookup::is_troubled)
    }

    /// Lookups of its name that gave nothing.
    pub(crate) fn lookups_failed(&self) -> u64 {
        self.lookup().map_or(0, Lookup::failed)
    }

    fn lookup(&self) -> Option<&Lookup> {
        match &self.target {
            Target::Name(lookup) => Some(lookup),
            Target::Address(_) | Target::Unix(_) => None,
        }
    }
}

fn late(timeout: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"))
}

/// From here on it is a stream socket like any other.
async fn connect_unix(path: &Path) -> io::Result<Stream> {
    let socket = UnixStream::connect(path).await?.into_std()?;
    TcpStream::from_std(OwnedFd::from(socket).into()).map(Stream::Plain)
}

impl Tls {
    fn new(host: &str, config: &UpstreamTlsConfig) -> Result<Self, UpstreamError> {
        let name = match &config.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|source| UpstreamError::Name { host: host.to_owned(), source })?,
        };
        let current = RwLock::new(tls::client_config(config)?);
        Ok(Self { config: config.clone(), name, current, generation: AtomicU64::new(0) })
    }

    fn client(&self) -> race::Tls {
        let config = Arc::clone(&self.current.read().config);
        (TlsConnector::from(config), self.name.clone())
    }
}

#[cfg(test)]
mod tests;
