//! A link that can be broken: a TCP relay in this process, between whoever connects to it and one server.
//!
//! While traffic stalls, bytes wait in the sockets' buffers and are delivered late, as after lost packets: nothing is ever
//! dropped from within a connection that lives on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// They are forwarded.
    Flows,
    /// New connections are refused, and those that were there are reset.
    Cut,
    /// Nothing arrives any more, either way, and nobody is told. New connections are accepted, and silent.
    Stalls,
    /// Requests still arrive, answers do not.
    AnswersStall,
    /// Answers still arrive, requests do not.
    RequestsStall,
    /// Connections that ever subscribed to a channel stay open and say nothing; the others work.
    SubscriptionsStall,
    /// Every piece is late by this much, either way.
    Slow(Duration),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Traffic {
    fn lets_pass(self, way: Way, subscribed: bool) -> bool {
        match self {
            Self::Flows | Self::Slow(_) => true,
            Self::Cut | Self::Stalls => false,
            Self::AnswersStall => way == Way::ToServer,
            Self::RequestsStall => way == Way::ToClient,
            Self::SubscriptionsStall => !(subscribed && way == Way::ToClient),
        }
    }
}

/// A relay on a free port, and its connections. They end when it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    commands: mpsc::Sender<(Traffic, oneshot::Sender<()>)>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Forwards whatever connects to it to `server`.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        // Holds the port while nobody listens on it.
        let place = socket("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let address = place.local_addr().expect("an address");
        let (commands, received) = mpsc::channel(1);
        let accepted = Arc::default();
        let link =
            Link { address, server, traffic: watch::Sender::new(Traffic::Flows), accepted: Arc::clone(&accepted) };
        let listener = link.listen();
        let task = tokio::spawn(async move {
            link.run(listener, received).await;
            drop(place);
        });
        Self { address, commands, accepted, task }
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to bytes. It holds when this returns.
    pub(crate) async fn set(&self, traffic: Traffic) {
        let (done, is_done) = oneshot::channel();
        self.commands.send((traffic, done)).await.expect("the relay runs");
        is_done.await.expect("the relay runs");
    }

    /// Everything works again. What stalled is delivered now.
    pub(crate) async fn heal(&self) {
        self.set(Traffic::Flows).await;
    }

    /// Resets every connection; new ones work.
    pub(crate) async fn reset(&self) {
        self.set(Traffic::Cut).await;
        self.heal().await;
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Link {
    address: SocketAddr,
    server: SocketAddr,
    traffic: watch::Sender<Traffic>,
    accepted: Arc<AtomicUsize>,
}

impl Link {
    fn listen(&self) -> TcpListener {
        socket(self.address).and_then(|socket| socket.listen(1024)).expect("the port is held")
    }

    async fn run(self, listener: TcpListener, mut commands: mpsc::Receiver<(Traffic, oneshot::Sender<()>)>) {
        let (mut listener, mut connections) = (Some(listener), JoinSet::new());
        loop {
            tokio::select! {
                command = commands.recv() => {
                    let Some((traffic, done)) = command else { return };
                    self.traffic.send_replace(traffic);
                    if traffic == Traffic::Cut {
                        listener = None;
                        while connections.join_next().await.is_some() {}
                    } else {
                        listener.get_or_insert_with(|| self.listen());
                    }
                    // Whoever asked may be gone.
                    done.send(()).ok();
                }
                client = accept(listener.as_ref()) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(carry(client, self.server, self.traffic.subscribe()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // So that the port can be held by one socket and listened on by another.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.expect("accepts").0,
        None => std::future::pending().await,
    }
}

/// Carries one connection until either side ends it or the link is cut.
async fn carry(client: TcpStream, server: SocketAddr, mut traffic: watch::Receiver<Traffic>) {
    let carried = carry_on(client, server, traffic.clone());
    tokio::select! {
        // However it ended.
        _ = carried => {}
        _ = traffic.wait_for(|traffic| *traffic == Traffic::Cut) => {}
    }
}

async fn carry_on(mut client: TcpStream, server: SocketAddr, mut traffic: watch::Receiver<Traffic>) -> io::Result<()> {
    // The end of the link is a reset at both ends, at once.
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    // An error means that the relay is gone, and this connection with it.
    drop(traffic.wait_for(|traffic| traffic.lets_pass(Way::ToServer, false)).await);
    let mut server = TcpStream::connect(server).await?;
    server.set_zero_linger()?;
    server.set_nodelay(true)?;
    let subscribed = AtomicBool::new(false);
    // Not owned halves, which say goodbye when they are dropped.
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let pump = |way| Pump { way, traffic: traffic.clone(), subscribed: &subscribed };
    let (requests, answers) = (pump(Way::ToServer), pump(Way::ToClient));
    tokio::select! {
        end = requests.run(from_client, to_server) => end,
        end = answers.run(from_server, to_client) => end,
    }
}

/// One way of one connection.
struct Pump<'a> {
    way: Way,
    traffic: watch::Receiver<Traffic>,
    subscribed: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
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
            let piece = &buffer[..count];
            if self.way == Way::ToServer && piece.windows(9).any(|word| word.eq_ignore_ascii_case(b"SUBSCRIBE")) {
                self.subscribed.store(true, Ordering::Relaxed);
            }
            self.passes().await;
            let traffic = *self.traffic.borrow();
            if let Traffic::Slow(delay) = traffic {
                tokio::time::sleep(delay).await;
            }
            to.write_all(piece).await?;
        }
    }

    /// Waits until this way is open.
    async fn passes(&mut self) {
        let (way, subscribed) = (self.way, self.subscribed);
        let opened = self.traffic.wait_for(|traffic| traffic.lets_pass(way, subscribed.load(Ordering::Relaxed)));
        // An error means that the relay is gone, and this connection with it.
        if opened.await.is_err() {
            std::future::pending().await
        }
    }
}

/// A link is worth something only if it breaks as it says.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::within;

    /// Answers each line with itself.
    async fn echo() -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        (address, task)
    }

    async fn says(stream: &mut TcpStream, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        within("bytes", stream.read_exact(&mut got)).await.expect("reads");
        assert_eq!(got, expected);
    }

    async fn is_silent(stream: &mut TcpStream) {
        let waited = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn what_stalls_is_silent_and_comes_late() {
        let (server, _task) = echo().await;
        let relay = Relay::start(server).await;
        for stall in [Traffic::Stalls, Traffic::AnswersStall, Traffic::RequestsStall] {
            let mut old = TcpStream::connect(relay.address()).await.expect("connects");
            old.write_all(b"one").await.expect("writes");
            says(&mut old, b"one").await;
            relay.set(stall).await;
            old.write_all(b"two").await.expect("writes");
            let mut new = TcpStream::connect(relay.address()).await.expect("connects");
            new.write_all(b"three").await.expect("writes");
            is_silent(&mut old).await;
            is_silent(&mut new).await;
            relay.heal().await;
            says(&mut old, b"two").await;
            says(&mut new, b"three").await;
        }
    }

    #[tokio::test]
    async fn what_is_cut_is_reset_and_refused() {
        let (server, _task) = echo().await;
        let relay = Relay::start(server).await;
        let mut client = TcpStream::connect(relay.address()).await.expect("connects");
        client.write_all(b"one").await.expect("writes");
        says(&mut client, b"one").await;
        relay.set(Traffic::Cut).await;
        let error = within("the end", client.read_u8()).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = TcpStream::connect(relay.address()).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        relay.heal().await;
        let mut client = TcpStream::connect(relay.address()).await.expect("connects");
        client.write_all(b"two").await.expect("writes");
        says(&mut client, b"two").await;
        assert_eq!(relay.accepted(), 2);
    }

    #[tokio::test]
    async fn a_subscription_can_fall_silent_alone() {
        let (server, _task) = echo().await;
        let relay = Relay::start(server).await;
        let mut subscriber = TcpStream::connect(relay.address()).await.expect("connects");
        let mut other = TcpStream::connect(relay.address()).await.expect("connects");
        subscriber.write_all(b"subscribe a").await.expect("writes");
        says(&mut subscriber, b"subscribe a").await;
        relay.set(Traffic::SubscriptionsStall).await;
        for stream in [&mut subscriber, &mut other] {
            stream.write_all(b"more").await.expect("writes");
        }
        says(&mut other, b"more").await;
        is_silent(&mut subscriber).await;
        relay.heal().await;
        says(&mut subscriber, b"more").await;
    }
}
