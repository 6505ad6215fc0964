//! Connections to the server in charge: found, made, shared, and replaced when they are of no more use.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo,
};

use super::fault::Fault;
use crate::store::url::{Password, RedisUrl, Server, Topology};
use crate::store::{Settings, StoreUrl};

/// Longest wait for a connection, its greeting included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the server in charge.
pub(super) struct Link {
    settings: Settings,
    url: RedisUrl,
    /// For everything that does not wait on the server.
    shared: Slot,
    /// For what waits for replicas: on the shared connection, everything else would wait too.
    confirming: Slot,
    /// Numbers connections.
    made: AtomicU64,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Which of the kept connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Commands that are answered at once.
    Shared,
    /// `WAIT`, and the writes before it.
    Confirming,
}

/// A connection that is kept for the next command.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<Connection>>,
    /// Held while connecting, so that it is done once.
    connecting: tokio::sync::Mutex<()>,
}

/// A connection to the server that was in charge when it was made. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    connection: MultiplexedConnection,
    number: u64,
}

impl Connection {
    /// Sends commands and waits for their answers. The first error among them is the whole's.
    pub(super) async fn query<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, Fault> {
        let answer = commands.query_async(&mut self.connection).await;
        answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
    }

    /// Has what is published on a channel given to the sender that the connection was made with.
    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<(), Fault> {
        let answer = self.connection.subscribe(channel).await;
        answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
    }
}

impl Link {
    /// Does not connect yet.
    ///
    /// # Errors
    /// [`Fault::Unusable`] for settings of another kind of store.
    pub(super) fn new(settings: &Settings) -> Result<Self, Fault> {
        let StoreUrl::Redis(url) = &settings.url else {
            return Err(Fault::Unusable("is not in Redis".to_owned()));
        };
        Ok(Self {
            settings: settings.clone(),
            url: url.clone(),
            shared: Slot::default(),
            confirming: Slot::default(),
            made: AtomicU64::new(0),
        })
    }

    /// A connection of one's own, to one server for as long as it lasts.
    pub(super) async fn dedicated(&self) -> Result<Connection, Fault> {
        self.connect(ProtocolVersion::RESP2, config()).await
    }

    /// A connection of one's own that gives what the server says unasked to `sender`.
    pub(super) async fn listening(&self, sender: impl redis::aio::AsyncPushSender) -> Result<Connection, Fault> {
        self.connect(ProtocolVersion::RESP3, config().set_push_sender(sender)).await
    }

    /// Sends commands once. The connection is replaced if it turns out to be of no more use.
    pub(super) async fn send<T: FromRedisValue>(&self, on: Use, commands: &Pipeline) -> Result<T, Fault> {
        let slot = self.slot(on);
        let mut connection = self.kept(slot).await?;
        // Given up half-way, it may be the connection that hangs: the next command takes another.
        let mut guard = Suspicion { slot, number: connection.number, is_suspect: true };
        let outcome = connection.query(commands).await;
        guard.is_suspect = outcome.as_ref().is_err_and(Fault::ends_connection);
        outcome
    }

    /// Sends commands that only read, and again over a new connection if the first one turns out to be of no use.
    pub(super) async fn read<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Fault> {
        match self.send(Use::Shared, commands).await {
            Err(fault) if fault.ends_connection() => self.send(Use::Shared, commands).await,
            outcome => outcome,
        }
    }

    /// Lets go of the kept connections: they lead to a server that is not in charge.
    pub(super) fn discard(&self) {
        *self.shared.current() = None;
        *self.confirming.current() = None;
    }

    /// The kept connection, or a new one.
    async fn kept(&self, slot: &Slot) -> Result<Connection, Fault> {
        if let Some(connection) = slot.current().clone() {
            return Ok(connection);
        }
        let _turn = slot.connecting.lock().await;
        if let Some(connection) = slot.current().clone() {
            return Ok(connection);
        }
        let connection = self.dedicated().await?;
        *slot.current() = Some(connection.clone());
        Ok(connection)
    }

    fn slot(&self, on: Use) -> &Slot {
        match on {
            Use::Shared => &self.shared,
            Use::Confirming => &self.confirming,
        }
    }

    /// Finds the server in charge and connects to it.
    async fn connect(&self, protocol: ProtocolVersion, config: AsyncConnectionConfig) -> Result<Connection, Fault> {
        let server = match &self.url.topology {
            Topology::Single(server) => server,
            Topology::Sentinel { .. } | Topology::Cluster(_) => {
                return Err(Fault::Unusable("needs Sentinel or Cluster, which are not supported yet".to_owned()));
            }
        };
        let refused = |error| Fault::of_connecting(server.to_string(), error);
        let mut redis = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_db(i64::from(self.url.database))
            .set_skip_set_lib_name();
        if let Some(username) = &self.url.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = self.password().await? {
            redis = redis.set_password(password.reveal());
        }
        let info = self.address(server).into_connection_info().map_err(refused)?;
        let info = info.set_redis_settings(redis).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(refused)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(refused)?;
        Ok(Connection { connection, number: self.made.fetch_add(1, Ordering::Relaxed) })
    }

    fn address(&self, server: &Server) -> ConnectionAddr {
        let (host, port) = (server.host.clone(), server.port);
        match self.url.tls {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        }
    }

    /// From the file, which is read anew each time, or from the URL.
    async fn password(&self) -> Result<Option<Password>, Fault> {
        let Some(path) = &self.settings.password_file else { return Ok(self.url.password.clone()) };
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Ok(Some(Password::new(text.trim_end_matches(['\r', '\n']).to_owned()))),
            Err(error) => Err(Fault::Unusable(format!("cannot be asked: reading {}: {error}", path.display()))),
        }
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
}

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<Connection>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection out of its slot when dropped, unless it is cleared before.
struct Suspicion<'a> {
    slot: &'a Slot,
    number: u64,
    is_suspect: bool,
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        if self.is_suspect {
            let mut current = self.slot.current();
            if current.as_ref().is_some_and(|connection| connection.number == self.number) {
                *current = None;
            }
        }
    }
}
