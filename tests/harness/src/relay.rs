//! A link that can be broken: a TCP relay in this process, between whoever connects to it and one server.
//!
//! While traffic stalls, bytes wait in the sockets' buffers and are delivered late, as after lost packets: nothing is ever
//! dropped from within a connection that lives on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// They are forwarded.
    Flows,
    /// Connections that were there are reset, and so is every new one at once.
    Cut,
    /// Nothing arrives any more, either way, and nobody is told. New connections are accepted, and silent.
    Stalls,
    /// Requests still arrive, answers do not.
    AnswersStall,
    /// Answers still arrive, requests do not.
    RequestsStall,
    /// Scripts arrive, and what they answer does not: nothing more is heard on their connections.
    ScriptsUnanswered,
    /// Every piece is late by this much, either way.
    Slow(Duration),
    /// As `Slow`, and all connections together carry no more than this, each way.
    Thin { delay: Duration, bytes_per_second: u32 },
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Traffic {
    fn lets_pass(self, way: Way, sent: &Sent) -> bool {
        match self {
            Self::Flows | Self::Slow(_) | Self::Thin { .. } => true,
            Self::Cut | Self::Stalls => false,
            Self::AnswersStall => way == Way::ToServer,
            Self::RequestsStall => way == Way::ToClient,
            Self::ScriptsUnanswered => way == Way::ToServer || !sent.script.load(Ordering::Relaxed),
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Slow(delay) | Self::Thin { delay, .. } => delay,
            _ => Duration::ZERO,
        }
    }
}

/// What a client has sent.
#[derive(Debug, Default)]
struct Sent {
    /// A script, while scripts were not to be answered.
    script: AtomicBool,
}

impl Sent {
    fn note(&self, piece: &[u8], traffic: Traffic) {
        let has = |word: &[u8]| piece.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
        // Not the one by which a connection tries whether its user may run any.
        if traffic == Traffic::ScriptsUnanswered && has(b"EVAL\r\n") && !has(b"return 0") {
            self.script.store(true, Ordering::Relaxed);
        }
    }
}

/// A relay on a free port, and its connections. They end when it is dropped.
pub struct Relay {
    address: SocketAddr,
    server: watch::Sender<SocketAddr>,
    commands: mpsc::Sender<(Traffic, oneshot::Sender<()>)>,
    accepted: Arc<AtomicUsize>,
    carried: Arc<Carried>,
    task: JoinHandle<()>,
}

/// What has arrived at the clients' side, and when the line is free again, each way.
#[derive(Debug, Default)]
struct Carried {
    to_clients: AtomicU64,
    free_at: [Mutex<Option<Instant>>; 2],
}

impl Carried {
    /// Waits until the line has carried so many bytes more.
    async fn carry(&self, way: Way, bytes: usize, bytes_per_second: u32) {
        let until = {
            let mut free_at = self.free_at[way as usize].lock().expect("whole");
            let begins = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
            let until = begins + Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second));
            *free_at = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

impl Relay {
    /// Forwards whatever connects to it to `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (commands, received) = mpsc::channel(1);
        let (accepted, carried) = (Arc::default(), Arc::default());
        let server = watch::Sender::new(server);
        let traffic = watch::Sender::new(Traffic::Flows);
        let link = Link {
            server: server.subscribe(),
            traffic,
            accepted: Arc::clone(&accepted),
            carried: Arc::clone(&carried),
        };
        let task = tokio::spawn(link.run(listener, received));
        Self { address, server, commands, accepted, carried, task }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to bytes. It holds when this returns.
    pub async fn set(&self, traffic: Traffic) {
        let (done, is_done) = oneshot::channel();
        self.commands.send((traffic, done)).await.expect("the relay runs");
        is_done.await.expect("the relay runs");
    }

    /// Leads new connections to another server. Those that are there stay.
    pub fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }

    /// Everything works again. What stalled is delivered now.
    pub async fn heal(&self) {
        self.set(Traffic::Flows).await;
    }

    /// Resets every connection; new ones work.
    pub async fn reset(&self) {
        self.set(Traffic::Cut).await;
        self.heal().await;
    }

    /// Bytes that arrived at clients so far.
    pub fn carried(&self) -> u64 {
        self.carried.to_clients.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Link {
    server: watch::Receiver<SocketAddr>,
    traffic: watch::Sender<Traffic>,
    accepted: Arc<AtomicUsize>,
    carried: Arc<Carried>,
}

impl Link {
    async fn run(self, listener: TcpListener, mut commands: mpsc::Receiver<(Traffic, oneshot::Sender<()>)>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some((traffic, done)) = command else { return };
                    self.traffic.send_replace(traffic);
                    if traffic == Traffic::Cut {
                        while connections.join_next().await.is_some() {}
                    }
                    // Whoever asked may be gone.
                    done.send(()).ok();
                }
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("accepts");
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    let (traffic, carried) = (self.traffic.subscribe(), Arc::clone(&self.carried));
                    connections.spawn(carry(client, self.server.clone(), traffic, carried));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Carries one connection until either side ends it or the link is cut.
async fn carry(
    client: TcpStream,
    server: watch::Receiver<SocketAddr>,
    mut traffic: watch::Receiver<Traffic>,
    carried: Arc<Carried>,
) {
    let carried = carry_on(client, server, traffic.clone(), &carried);
    tokio::select! {
        // However it ended.
        _ = carried => {}
        _ = traffic.wait_for(|traffic| *traffic == Traffic::Cut) => {}
    }
}

async fn carry_on(
    mut client: TcpStream,
    server: watch::Receiver<SocketAddr>,
    mut traffic: watch::Receiver<Traffic>,
    carried: &Carried,
) -> io::Result<()> {
    // The end of the link is a reset at both ends, at once.
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    // An error means that the relay is gone, and this connection with it.
    drop(traffic.wait_for(|traffic| traffic.lets_pass(Way::ToServer, &Sent::default())).await);
    let server = *server.borrow();
    let mut server = TcpStream::connect(server).await?;
    server.set_zero_linger()?;
    server.set_nodelay(true)?;
    let sent = Sent::default();
    // Not owned halves, which say goodbye when they are dropped.
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let pump = |way| Pump { way, traffic: traffic.clone(), sent: &sent, carried };
    let (requests, answers) = (pump(Way::ToServer), pump(Way::ToClient));
    tokio::select! {
        end = requests.run(from_client, to_server) => end,
        end = answers.run(from_server, to_client) => end,
    }
}

/// Pieces that are under way, on each connection each way.
const UNDER_WAY: usize = 64;

/// Bytes that a thin line takes at once.
const PACKET: usize = 1400;

/// One way of one connection.
#[derive(Clone)]
struct Pump<'a> {
    way: Way,
    traffic: watch::Receiver<Traffic>,
    sent: &'a Sent,
    carried: &'a Carried,
}

impl Pump<'_> {
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let (put, taken) = mpsc::channel(UNDER_WAY);
        let (taking, giving) = (self.clone().take(from, put), self.give(taken, to));
        let ((), given) = tokio::try_join!(taking, giving)?;
        Ok(given)
    }

    /// Takes pieces from one side, until it ends, and says when each is to arrive.
    async fn take(mut self, mut from: ReadHalf<'_>, put: mpsc::Sender<(Instant, Vec<u8>)>) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.passes().await;
            let count = tokio::select! {
                count = from.read(&mut buffer) => count?,
                // It may be this way's turn to stall.
                _ = self.traffic.changed() => continue,
            };
            if count == 0 {
                return Ok(());
            }
            let (piece, traffic) = (buffer[..count].to_vec(), *self.traffic.borrow());
            if self.way == Way::ToServer {
                self.sent.note(&piece, traffic);
            }
            if put.send((Instant::now() + traffic.delay(), piece)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Gives them to the other side when it is time.
    async fn give(mut self, mut taken: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: WriteHalf<'_>) -> io::Result<()> {
        while let Some((arrives_at, piece)) = taken.recv().await {
            tokio::time::sleep_until(arrives_at).await;
            for packet in piece.chunks(PACKET) {
                self.passes().await;
                let traffic = *self.traffic.borrow();
                if let Traffic::Thin { bytes_per_second, .. } = traffic {
                    self.carried.carry(self.way, packet.len(), bytes_per_second).await;
                }
                to.write_all(packet).await?;
                if self.way == Way::ToClient {
                    self.carried.to_clients.fetch_add(packet.len() as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Waits until this way is open.
    async fn passes(&mut self) {
        let (way, sent) = (self.way, self.sent);
        let opened = self.traffic.wait_for(|traffic| traffic.lets_pass(way, sent));
        // An error means that the relay is gone, and this connection with it.
        if opened.await.is_err() {
            std::future::pending().await
        }
    }
}
