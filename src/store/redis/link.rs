//! Connections to the primary: found, made, shared, and replaced when they are of no more use.
//!
//! ```text
//!   main        everything that is answered at once; once somebody watches, also what commits publish
//!   confirming  with a quorum only: `WAIT`, and the writes before it, so that nothing else waits behind them
//!   bulk        while much is read
//!   replica     the same, where replicas are to be read from: the only one that does not lead to the primary
//! ```
//!
//! What is published before a command is answered arrives before the answer, as both come over the main connection: so an
//! answered probe proves the subscription too, and there is nothing else that could fail in silence.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::dial::{Carrier, Dialer, Peer, config};
use super::discovery::Discovery;
use super::fault::Fault;
use super::followers::ReplicaUnusable;
use super::hash_slot::HashSlot;
use super::heard::Exchange;
use super::layout::Layout;
use super::unusable::Unusable;
use super::watch::Subscriber;
use super::{check, earlier, replicas, tenure};
use crate::backoff::Backoff;
use crate::lock::Mutex;
use crate::store::url::{Server, Topology};
use crate::store::{Settings, StoreUrl};

/// Longest wait for an answer, or for what is still to come of one, once the question must have arrived.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without a word for so long is not merely behind others.
const LONG_SILENCE: Duration = Duration::from_secs(10);

/// Longest wait for a connection to a replica, within what is waited for its answers: the next one has to have time too.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(1);

/// The waits before the next attempt to connect. Where nothing is there, whoever comes back is to be found at once.
const ABSENT: Backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_millis(600) };

/// Where somebody has to mend something, and needs a connection for that too.
const UNUSABLE: Backoff = Backoff { first: Duration::from_millis(50), last: Duration::from_secs(3) };

/// Where somebody is there and does not come to greeting us: too many others are, so that all of us spread out.
const CROWDED: Backoff = Backoff { first: Duration::from_millis(500), last: Duration::from_secs(10) };

/// After a connection that did not last for [`STEADY`].
const BROKEN: Backoff = Backoff { first: Duration::from_millis(20), last: Duration::from_millis(200) };
const STEADY: Duration = Duration::from_secs(1);

/// The way to the primary.
pub(super) struct Link {
    pub(super) dialer: Arc<Dialer>,
    pub(super) discovery: Arc<Discovery>,
    layout: Layout,
    needs_quorum: bool,
    subscriber: Arc<Subscriber>,
    /// Somebody watches: the main connection is subscribed before it is used.
    is_watched: AtomicBool,
    slots: [Slot; 4],
    /// Numbers connections.
    made: AtomicU64,
    /// Which run of which server the main connection led to last, where somebody watches.
    arrival: Mutex<tenure::Arrival>,
    /// The last server on which the user was found to have its permissions.
    permitted: Mutex<Option<Server>>,
    /// Replicas that were of no use, the latest last.
    passed_over: Mutex<Vec<Server>>,
    /// Of the replicas, so that not all sidecars read from the same one.
    order: RandomState,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.dialer.url).finish_non_exhaustive()
    }
}

/// Which of the cached connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Commands that are answered at once.
    Main,
    /// `WAIT`, and the writes before it.
    Confirming,
    /// Reads of much.
    Bulk,
    /// Reads of much from a replica.
    Replica,
}

/// A connection that is cached for the next command.
#[derive(Default)]
struct Slot {
    current: watch::Sender<Current>,
    attempts: Mutex<Attempts>,
}

#[derive(Default)]
enum Current {
    #[default]
    None,
    /// By a task that nobody who waits for it can cut short: what is given up has to be begun anew, all its round trips.
    Making(Attempt),
    Made(Connection),
}

/// How an attempt to connect ended, as soon as it has: whoever waits for one learns of that one, whatever has begun since.
type Attempt = watch::Receiver<Option<Result<Connection, Fault>>>;

/// Those since the last connection that lasted, and when it is time for the next one.
#[derive(Default)]
struct Attempts {
    absent: u32,
    crowded: u32,
    broken: u32,
    made_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Attempts {
    /// How long to wait before the next one.
    fn pause(&mut self) -> Duration {
        match self.made_at.take() {
            None => {}
            Some(made_at) if made_at.elapsed() < STEADY => {
                self.broken += 1;
                self.not_before = Some(Instant::now() + BROKEN.wait(self.broken));
            }
            Some(_) => *self = Self::default(),
        }
        self.not_before.map_or(Duration::ZERO, |not_before| not_before.saturating_duration_since(Instant::now()))
    }

    fn succeed(&mut self) {
        *self = Self { broken: self.broken, made_at: Some(Instant::now()), ..Self::default() };
    }

    fn fail(&mut self, fault: &Fault) {
        let wait = if let Fault::Crowded { .. } = fault {
            self.crowded += 1;
            CROWDED.wait(self.crowded)
        } else {
            self.absent += 1;
            if fault.is_unusable() { UNUSABLE.wait(self.absent) } else { ABSENT.wait(self.absent) }
        };
        self.not_before = Some(Instant::now() + wait);
    }
}

/// A connection to the server that was the primary when it was made. Clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    connection: MultiplexedConnection,
    server: Server,
    number: u64,
    carrier: Arc<Carrier>,
    is_subscribed: bool,
    /// What it said of itself then.
    info: Arc<str>,
}

impl Connection {
    /// Sends commands and waits for their answers. The first error among them is the whole's.
    pub(super) async fn query<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, Fault> {
        let carrier = Arc::clone(&self.carrier);
        carrier.heard.ask();
        let answer = answered(&carrier, commands.query_async(&mut self.connection)).await?;
        answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
    }

    /// How the latest commands and their answer were carried.
    pub(super) fn exchange(&self) -> Exchange {
        self.carrier.heard.exchange()
    }

    /// Asks for what is published on a channel.
    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<(), Fault> {
        let carrier = Arc::clone(&self.carrier);
        let answer = answered(&carrier, self.connection.subscribe(channel)).await?;
        answer.map_err(|error| Fault::of_command(error, ANSWER_TIMEOUT))
    }

    /// What the server said of itself when it was made; nothing where it was not examined.
    pub(super) fn info(&self) -> &str {
        &self.info
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
    pub(super) fn new(settings: &Settings, subscriber: Arc<Subscriber>) -> Result<Arc<Self>, Fault> {
        let StoreUrl::Redis(url) = &settings.url else {
            return Err(Unusable::NotRedis.into());
        };
        let dialer = Arc::new(Dialer::new(settings.clone(), url.clone()));
        Ok(Arc::new(Self {
            discovery: Discovery::new(Arc::clone(&dialer), HashSlot::of(&settings.namespace)),
            dialer,
            layout: Layout::of(settings),
            needs_quorum: settings.quorum_replicas > 0,
            subscriber,
            is_watched: AtomicBool::new(false),
            slots: Default::default(),
            made: AtomicU64::new(0),
            arrival: Mutex::default(),
            permitted: Mutex::default(),
            passed_over: Mutex::default(),
            order: RandomState::new(),
        }))
    }

    /// From now on the main connection is subscribed before it is used.
    pub(super) fn listen(&self) {
        self.is_watched.store(true, Ordering::SeqCst);
    }

    /// Sends commands, until they are executed at most once. The connection is replaced if it turns out to be of no more
    /// use.
    pub(super) async fn send<T: FromRedisValue>(self: &Arc<Self>, on: Use, commands: &Pipeline) -> Result<T, Fault> {
        self.fetch(on, commands).await.map(|(answer, _)| answer)
    }

    /// The same, and how commands and answer were carried.
    pub(super) async fn fetch<T: FromRedisValue>(
        self: &Arc<Self>,
        on: Use,
        commands: &Pipeline,
    ) -> Result<(T, Exchange), Fault> {
        let has_waited = self.ready(on).is_none();
        let mut connection = self.connection(on).await?;
        let (number, carrier, sent) = (connection.number, Arc::clone(&connection.carrier), Instant::now());
        let mut under_way = UnderWay { link: self, on, number, carrier, sent, has_waited, is_good: None };
        let outcome = connection.query(commands).await;
        under_way.is_good = Some(!outcome.as_ref().is_err_and(Fault::ends_connection));
        if let Err(Fault::Refused(code, detail)) = &outcome
            && code == "MOVED"
        {
            self.discovery.moved(detail);
        }
        outcome.map(|answer| (answer, connection.exchange()))
    }

    /// Sends commands that only read, or may be repeated, and again over a new connection if the first one turns out to be
    /// of no use.
    pub(super) async fn read<T: FromRedisValue>(self: &Arc<Self>, on: Use, commands: &Pipeline) -> Result<T, Fault> {
        self.fetch_again(on, commands).await.map(|(answer, _)| answer)
    }

    /// The same, and how commands and answer were carried.
    pub(super) async fn fetch_again<T: FromRedisValue>(
        self: &Arc<Self>,
        on: Use,
        commands: &Pipeline,
    ) -> Result<(T, Exchange), Fault> {
        match self.fetch(on, commands).await {
            Err(fault) if fault.ends_connection() => self.fetch(on, commands).await,
            outcome => outcome,
        }
    }

    /// Waits until the main connection is another one, or none.
    pub(super) async fn gone(&self, connection: &Connection) {
        let mut current = self.slot(Use::Main).current.subscribe();
        let is_other =
            |current: &Current| !matches!(current, Current::Made(current) if current.number == connection.number);
        tokio::select! {
            () = connection.carrier.over() => {}
            // Fails with the slot only, which lives as long as this does.
            _ = current.wait_for(is_other) => {}
        }
    }

    /// The primary, as far as is known.
    pub(super) fn primary(&self) -> Option<Server> {
        self.slot(Use::Main).connection().map(|connection| connection.server)
    }

    /// Lets go of all connections: they lead to a server that is not the primary.
    pub(super) fn discard(&self) {
        self.slots.iter().for_each(|slot| slot.clear(|_| true));
    }

    /// Lets go of a connection that is of no more use.
    pub(super) fn release(&self, on: Use) {
        self.slot(on).clear(|_| true);
    }

    /// The cached connection, or a new one; where somebody watches, the main one is subscribed.
    pub(super) async fn connection(self: &Arc<Self>, on: Use) -> Result<Connection, Fault> {
        loop {
            if let Some(connection) = self.ready(on) {
                return Ok(connection);
            }
            match self.attempt(on).wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Ok(connection))) if self.is_ready(on, connection) => return Ok(connection.clone()),
                Ok(Some(Err(fault))) => return Err(fault.clone()),
                // Somebody watches since; or the task is gone without an outcome.
                Ok(Some(Ok(_)) | None) | Err(_) => {}
            }
        }
    }

    /// The cached connection, if it can be used as it is.
    fn ready(&self, on: Use) -> Option<Connection> {
        self.slot(on).connection().filter(|connection| self.is_ready(on, connection))
    }

    fn is_ready(&self, on: Use, connection: &Connection) -> bool {
        connection.is_subscribed || !self.is_to_be_subscribed(on)
    }

    fn is_to_be_subscribed(&self, on: Use) -> bool {
        on == Use::Main && self.is_watched.load(Ordering::SeqCst)
    }

    /// The attempt that is under way, or a new one.
    fn attempt(self: &Arc<Self>, on: Use) -> Attempt {
        let (outcome, begun) = watch::channel(None);
        let mut attempt = begun.clone();
        self.slot(on).current.send_if_modified(|current| {
            let unsubscribed = match current {
                Current::Making(under_way) if under_way.has_changed().is_ok() => {
                    attempt = under_way.clone();
                    return false;
                }
                Current::Made(connection) if connection.carrier.is_over() => None,
                // Just made: this attempt ends before it began, and its caller looks again.
                Current::Made(connection) if self.is_ready(on, connection) => return false,
                Current::Made(connection) => Some(connection.clone()),
                Current::Making(_) | Current::None => None,
            };
            *current = Current::Making(begun);
            tokio::spawn(Arc::clone(self).make(on, unsubscribed, outcome));
            true
        });
        attempt
    }

    /// What is committed from here on is announced, and what was before is to be asked for.
    async fn subscribe(&self, mut connection: Connection) -> Result<Connection, Fault> {
        let arriving = tenure::arrive(connection.clone(), &self.layout, &self.arrival);
        let (arrived, subscribed) = tokio::join!(arriving, connection.subscribe(self.layout.channel()));
        arrived.and(subscribed)?;
        let earlier = earlier::subscribe(&self.layout, &mut connection).await?;
        self.subscriber.subscribed(earlier);
        Ok(Connection { is_subscribed: true, ..connection })
    }

    /// Makes a connection, when it is time for the next attempt, or subscribes the one that is there, and puts it into its slot.
    async fn make(
        self: Arc<Self>,
        on: Use,
        unsubscribed: Option<Connection>,
        outcome: watch::Sender<Option<Result<Connection, Fault>>>,
    ) {
        let slot = self.slot(on);
        let made = match unsubscribed {
            Some(connection) => Ok(connection),
            None => {
                let pause = slot.attempts.lock().pause();
                tokio::time::sleep(pause).await;
                self.connect(on).await
            }
        };
        let made = match made {
            Ok(connection) if self.is_to_be_subscribed(on) => self.subscribe(connection).await,
            made => made,
        };
        match &made {
            Ok(connection) => {
                // Connections to another server than the primary are of no more use.
                for other in [Use::Main, Use::Confirming, Use::Bulk].iter().filter(|_| on != Use::Replica) {
                    self.slot(*other).clear(|other| other.server != connection.server);
                }
                slot.attempts.lock().succeed();
                slot.current.send_replace(Current::Made(connection.clone()));
            }
            Err(fault) => {
                slot.attempts.lock().fail(fault);
                slot.current.send_replace(Current::None);
            }
        }
        outcome.send_replace(Some(made));
    }

    /// Looks whether what is there is ours; and, on another server than before, whether its users may do what they have to.
    async fn examine(&self, connection: &mut Connection) -> Result<(), Fault> {
        let carrier = Arc::clone(&connection.carrier);
        connection.info = answered(&carrier, check::types(&mut connection.connection, &self.layout)).await??.into();
        if *self.permitted.lock() != Some(connection.server.clone()) {
            let permissions = check::permissions(&mut connection.connection, &self.layout, self.needs_quorum);
            answered(&carrier, permissions).await??;
            *self.permitted.lock() = Some(connection.server.clone());
        }
        Ok(())
    }

    /// Where this process came to last.
    pub(super) fn arrival(&self) -> &Mutex<tenure::Arrival> {
        &self.arrival
    }

    /// Looks again. Fails with what is wrong, if it is still there.
    pub(super) async fn examine_again(self: &Arc<Self>) -> Result<(), Fault> {
        let mut connection = self.connection(Use::Main).await?;
        answered(&connection.carrier, check::types(&mut connection.connection, &self.layout)).await?.map(drop)
    }

    fn slot(&self, on: Use) -> &Slot {
        &self.slots[on as usize]
    }

    /// Finds the primary and connects to it.
    async fn connect(&self, on: Use) -> Result<Connection, Fault> {
        let subscriber = Arc::clone(&self.subscriber);
        let config = config(None).set_push_sender(move |push| {
            subscriber.take(push);
            Ok::<_, redis::aio::SendError>(())
        });
        let mut candidates = match on {
            Use::Replica => self.discovery.only(self.replicas().await?),
            Use::Main | Use::Confirming | Use::Bulk => self.discovery.candidates(),
        };
        let mut failure = None;
        while let Some(candidate) = candidates.next().await {
            let connected = match candidate {
                Ok(server) if on == Use::Replica => self.connect_to_replica(server, config.clone()).await,
                Ok(server) => self.connect_to(server, config.clone(), on).await,
                Err(fault) => Err(fault),
            };
            match connected {
                Ok(connection) => return Ok(connection),
                // What somebody has to mend is reported rather than what may pass.
                Err(fault) => failure = failure.filter(Fault::is_unusable).or(Some(fault)),
            }
        }
        Err(failure.unwrap_or(Fault::NotPrimary))
    }

    async fn connect_to(&self, server: Server, config: AsyncConnectionConfig, on: Use) -> Result<Connection, Fault> {
        let peer = if on == Use::Replica { Peer::Any } else { Peer::Primary };
        let (connection, carrier) = self.dialer.dial(&server, peer, config).await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let (carrier, info) = (Arc::new(carrier), Arc::from(""));
        let mut connection = Connection { connection, server, number, carrier, is_subscribed: false, info };
        match on {
            Use::Main | Use::Confirming => self.examine(&mut connection).await?,
            Use::Replica if matches!(self.dialer.url.topology, Topology::Cluster(_)) => {
                connection.query::<()>(Pipeline::new().cmd("READONLY").ignore()).await?;
            }
            Use::Bulk | Use::Replica => {}
        }
        Ok(connection)
    }

    /// There are others, and the primary: one that does not answer at once is passed over.
    async fn connect_to_replica(&self, server: Server, config: AsyncConnectionConfig) -> Result<Connection, Fault> {
        let connecting = timeout(REPLICA_TIMEOUT, self.connect_to(server.clone(), config, Use::Replica));
        let connected = connecting.await.unwrap_or(Err(Fault::TimedOut(REPLICA_TIMEOUT)));
        connected.inspect_err(|_| self.pass_over(server))
    }

    /// Replicas to read from, in an order of our own; last those that were of no use.
    async fn replicas(&self) -> Result<Vec<Server>, Fault> {
        let mut replicas = match (&self.dialer.url.topology, self.slot(Use::Main).connection()) {
            (Topology::Single(_), Some(mut primary)) => {
                let (role,): (Vec<Value>,) = primary.query(Pipeline::new().cmd("ROLE")).await?;
                replicas::following(&role)
            }
            (Topology::Single(_), None) => Vec::new(),
            (Topology::Sentinel { .. } | Topology::Cluster(_), _) => self.discovery.replicas().await?,
        };
        if replicas.is_empty() {
            return Err(ReplicaUnusable::None.into());
        }
        let mut passed_over = self.passed_over.lock();
        passed_over.retain(|server| replicas.contains(server));
        let since = |server: &Server| passed_over.iter().position(|other| other == server);
        replicas.sort_by_cached_key(|server| (since(server), self.order.hash_one(server)));
        Ok(replicas)
    }

    /// Lets go of the replica: it is of no use. It is this one, where the connection to it may be gone already.
    pub(super) fn pass_over_replica(&self, server: Option<Server>) {
        let connected = || self.slot(Use::Replica).connection().map(|connection| connection.server);
        if let Some(server) = server.or_else(connected) {
            self.pass_over(server);
        }
        self.release(Use::Replica);
    }

    /// Any other replica is asked before this one.
    fn pass_over(&self, server: Server) {
        let mut passed_over = self.passed_over.lock();
        passed_over.retain(|other| *other != server);
        passed_over.push(server);
    }
}

impl Slot {
    /// The connection that is there, if it lives.
    fn connection(&self) -> Option<Connection> {
        match &*self.current.borrow() {
            Current::Made(connection) if !connection.carrier.is_over() => Some(connection.clone()),
            _ => None,
        }
    }

    /// Lets go of the connection, if it is the one that is meant.
    fn clear(&self, is_meant: impl FnOnce(&Connection) -> bool) {
        self.current.send_if_modified(|current| {
            let is_meant = matches!(current, Current::Made(connection) if is_meant(connection));
            if is_meant {
                *current = Current::None;
            }
            is_meant
        });
    }
}

/// What is answered, unless nothing arrives for too long.
async fn answered<T>(carrier: &Carrier, answer: impl Future<Output = T>) -> Result<T, Fault> {
    let answered = carrier.heard.unless_silent(ANSWER_TIMEOUT, answer).await;
    answered.ok_or(Fault::TimedOut(ANSWER_TIMEOUT))
}

/// Commands that are under way. Takes their connection out of its slot when dropped, if that is of no more use.
struct UnderWay<'a> {
    link: &'a Link,
    on: Use,
    number: u64,
    carrier: Arc<Carrier>,
    sent: Instant,
    /// Whoever sent them had to wait for the connection.
    has_waited: bool,
    /// `None`: they were cancelled.
    is_good: Option<bool>,
}

impl UnderWay<'_> {
    /// Cancelled, it may be the connection that hangs: the next command takes another. Not where whoever cancelled has waited
    /// for the connection, and for the answer the shorter, nor where it may be behind others that are still on their way.
    fn is_suspect(&self) -> bool {
        let (own, any) = (self.carrier.heard.last(), self.link.dialer.heard.last());
        let is_silent = own < self.sent && (any < self.sent || own.elapsed() > LONG_SILENCE);
        is_silent && !self.has_waited && self.sent.elapsed() > self.carrier.heard.on_its_way()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_good.unwrap_or_else(|| !self.is_suspect()) {
            self.link.slot(self.on).clear(|connection| connection.number == self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits before so many attempts, all of which fail like this.
    fn waits(fault: &Fault, attempts: usize) -> Vec<Duration> {
        let mut all = Attempts::default();
        std::iter::repeat_with(|| {
            all.fail(fault);
            all.pause()
        })
        .take(attempts)
        .collect()
    }

    #[test]
    fn attempts_spread_out_where_somebody_is_too_busy_and_stay_dense_where_nobody_is() {
        let server = Server { host: "h".to_owned(), port: 1 };
        let crowded = Fault::crowded(&server, "");
        let waits_there = waits(&crowded, 8);
        assert!(waits_there[0] < Duration::from_secs(1) && waits_there[7] > Duration::from_secs(4), "{waits_there:?}");
        assert!(waits_there.iter().all(|wait| *wait <= Duration::from_secs(15)));
        let refused = Fault::NotPermitted("SUBSCRIBE".to_owned());
        assert!(
            waits(&refused, 20)[19] > Duration::from_secs(1),
            "each sidecar made five connections a second for ever"
        );
        let absent = Fault::unreachable(&server, "refused");
        assert!(waits(&absent, 100).iter().all(|wait| *wait < Duration::from_secs(1)), "found within a second");
    }

    #[test]
    fn a_connection_that_breaks_at_once_is_no_success() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.pause(), Duration::ZERO);
        attempts.succeed();
        assert!(attempts.pause() > Duration::ZERO);
        attempts.succeed();
        attempts.made_at = Instant::now().checked_sub(STEADY);
        assert_eq!(attempts.pause(), Duration::ZERO);
    }
}
