//! Connections to the server in charge: found, made, shared, and replaced when they are of no more use.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline};
use tokio::sync::watch;

use super::check::{self, Kind};
use super::dial::{Carrier, Dialer, Peer};
use super::discovery::Discovery;
use super::fault::Fault;
use super::layout::Layout;
use super::migration::Migrating;
use super::slot::Slot as ClusterSlot;
use crate::store::url::Server;
use crate::store::{Settings, StoreUrl};

/// Longest wait for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to try again while a cluster is busy with itself, and the pauses between.
const BRIEFLY: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// The way to the server in charge.
pub(super) struct Link {
    dialer: Arc<Dialer>,
    discovery: Discovery,
    kind: Kind,
    layout: Layout,
    needs_quorum: bool,
    /// For everything that does not wait on the server.
    shared: Slot,
    /// For what waits for replicas: on the shared connection, everything else would wait too.
    confirming: Slot,
    /// Numbers connections.
    made: AtomicU64,
    /// The last server on which the user was found to have its permissions.
    permitted: Mutex<Option<Server>>,
    /// The server in charge, as far as is known; `None` when it is known to be another one than before.
    primary: watch::Sender<Option<Server>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", self.dialer.url()).finish_non_exhaustive()
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
    server: Server,
    number: u64,
    _carrier: Arc<Carrier>,
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

    /// Where it leads.
    pub(super) fn server(&self) -> &Server {
        &self.server
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
        let dialer = Arc::new(Dialer::new(settings.clone(), url.clone()));
        Ok(Self {
            discovery: Discovery::new(Arc::clone(&dialer), ClusterSlot::of(&settings.namespace)),
            kind: Kind::of(&url.topology),
            dialer,
            layout: Layout::of(settings),
            needs_quorum: settings.quorum_replicas > 0,
            shared: Slot::default(),
            confirming: Slot::default(),
            made: AtomicU64::new(0),
            permitted: Mutex::default(),
            primary: watch::Sender::new(None),
        })
    }

    /// A connection of one's own, to one server for as long as it lasts.
    pub(super) async fn dedicated(&self) -> Result<Connection, Fault> {
        self.connect(config()).await
    }

    /// A connection of one's own that gives what the server says unasked to `sender`.
    pub(super) async fn listening(&self, sender: impl redis::aio::AsyncPushSender) -> Result<Connection, Fault> {
        self.connect(config().set_push_sender(sender)).await
    }

    /// Sends commands, until they are executed at most once. The connection is replaced if it turns out to be of no more
    /// use.
    pub(super) async fn send<T: FromRedisValue>(&self, on: Use, commands: &Pipeline) -> Result<T, Fault> {
        let began = Instant::now();
        loop {
            match self.send_once(on, commands).await {
                Err(fault) if fault.is_passing() && !fault.leaves_open() && began.elapsed() < BRIEFLY => {
                    tokio::time::sleep(PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Sends commands that only read, and again over a new connection if the first one turns out to be of no use.
    pub(super) async fn read<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Fault> {
        match self.send_once(Use::Shared, commands).await {
            Err(fault) if fault.is_ask() => self.read_migrating(commands).await,
            Err(fault) if fault.ends_connection() || fault.is_passing() => self.send(Use::Shared, commands).await,
            outcome => outcome,
        }
    }

    async fn send_once<T: FromRedisValue>(&self, on: Use, commands: &Pipeline) -> Result<T, Fault> {
        let slot = self.slot(on);
        let mut connection = self.kept(slot).await?;
        // Given up half-way, it may be the connection that hangs: the next command takes another.
        let mut guard = Suspicion { slot, number: connection.number, is_suspect: true };
        let outcome = connection.query(commands).await;
        guard.is_suspect = outcome.as_ref().is_err_and(Fault::ends_connection);
        if let Err(Fault::Refused(code, detail)) = &outcome
            && code == "MOVED"
        {
            self.discovery.moved(detail);
        }
        outcome
    }

    async fn read_migrating<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Fault> {
        let source = self.kept(&self.shared).await?.connection;
        let mut migrating = Migrating { dialer: &self.dialer, source, config: config(), target: None };
        let answer = commands.query_async(&mut migrating).await;
        answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
    }

    pub(super) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// The server in charge, as far as is known, and when another one is.
    pub(super) fn primary(&self) -> watch::Receiver<Option<Server>> {
        self.primary.subscribe()
    }

    /// Lets go of the kept connections, and of the subscription: they lead to a server that is not in charge.
    pub(super) fn discard(&self) {
        self.primary.send_replace(None);
        for slot in [&self.shared, &self.confirming] {
            slot.current().take();
        }
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
        let mut connection = self.dedicated().await?;
        self.examine(&mut connection).await?;
        *slot.current() = Some(connection.clone());
        Ok(connection)
    }

    /// Looks whether what is there is ours; and, on another server than before, whether its users may do what they have to.
    async fn examine(&self, connection: &mut Connection) -> Result<(), Fault> {
        check::types(&mut connection.connection, &self.layout).await?;
        if *lock(&self.permitted) != Some(connection.server.clone()) {
            // On a connection of its own: a transaction is begun on it.
            let (mut trial, _carrier) = self.dialer.dial(&connection.server, Peer::Server, config()).await?;
            check::permissions(&mut trial, &self.layout, self.needs_quorum).await?;
            *lock(&self.permitted) = Some(connection.server.clone());
        }
        Ok(())
    }

    /// How many replicas of the server in charge Sentinels or nodes of the cluster named, when they were asked last.
    pub(super) fn named_replicas(&self) -> usize {
        self.discovery.named_replicas()
    }

    /// Looks again. Fails with what is wrong, if it is still there.
    pub(super) async fn examine_again(&self) -> Result<(), Fault> {
        self.examine(&mut self.dedicated().await?).await
    }

    fn slot(&self, on: Use) -> &Slot {
        match on {
            Use::Shared => &self.shared,
            Use::Confirming => &self.confirming,
        }
    }

    /// Finds the server in charge and connects to it.
    async fn connect(&self, config: AsyncConnectionConfig) -> Result<Connection, Fault> {
        let mut candidates = self.discovery.candidates();
        let mut failure = None;
        while let Some(candidate) = candidates.next().await {
            let connected = match candidate {
                Ok(server) => self.connect_to(server, config.clone()).await,
                Err(fault) => Err(fault),
            };
            match connected {
                Ok(connection) => {
                    self.found(connection.server());
                    return Ok(connection);
                }
                // What somebody has to mend is told rather than what may pass.
                Err(fault) if !failure.as_ref().is_some_and(Fault::is_unusable) => failure = Some(fault),
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or(Fault::NotPrimary))
    }

    async fn connect_to(&self, server: Server, config: AsyncConnectionConfig) -> Result<Connection, Fault> {
        let (mut connection, carrier) = self.dialer.dial(&server, Peer::Server, config).await?;
        check::greet(&mut connection, &server, self.kind).await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Connection { connection, server, number, _carrier: Arc::new(carrier) })
    }

    /// Connections to any other server are of no more use.
    fn found(&self, server: &Server) {
        for slot in [&self.shared, &self.confirming] {
            let mut current = slot.current();
            if current.as_ref().is_some_and(|connection| connection.server != *server) {
                current.take();
            }
        }
        self.primary.send_if_modified(|primary| {
            let is_other = primary.as_ref() != Some(server);
            if is_other {
                *primary = Some(server.clone());
            }
            is_other
        });
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(ANSWER_TIMEOUT))
}

impl Slot {
    fn current(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.current)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
