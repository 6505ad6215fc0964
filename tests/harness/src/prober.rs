//! Requests all the time, through every sidecar, with every token that somebody is interested in; what they are answered
//! goes into the history.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::history::{Judge, Observed, Part, Subject};

/// The judge, shared by all that happens at once.
#[derive(Debug, Clone)]
pub struct History(Arc<Mutex<Judge>>);

impl History {
    pub fn new(bound: Duration, recovery: Duration) -> Self {
        Self(Arc::new(Mutex::new(Judge::new(bound, recovery, Instant::now()))))
    }

    /// Speaks to the judge.
    pub fn with<T>(&self, speak: impl FnOnce(&mut Judge) -> T) -> T {
        speak(&mut self.0.lock().expect("no panic"))
    }
}

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub struct Probe {
    pub subject: Subject,
    pub request: Arc<[u8]>,
    /// The same, with a reply that goes on and on: see [`Responder`].
    pub flow: Option<Arc<[u8]>>,
}

/// What is asked. Changes while it is asked.
#[derive(Debug, Clone, Default)]
pub struct Probes(Arc<RwLock<Vec<Probe>>>);

impl Probes {
    pub fn add(&self, probe: Probe) {
        self.0.write().expect("no panic").push(probe);
    }

    pub fn remove(&self, subject: Subject) {
        self.0.write().expect("no panic").retain(|probe| probe.subject != subject);
    }

    /// All of them, now.
    pub fn all(&self) -> Vec<Probe> {
        self.0.read().expect("no panic").clone()
    }

    fn nth(&self, number: usize) -> Option<Probe> {
        let probes = self.0.read().expect("no panic");
        probes.get(number % probes.len().max(1)).cloned()
    }
}

/// Where a sidecar listens. Changes when it is started again.
#[derive(Debug, Clone)]
pub struct Place(Arc<RwLock<SocketAddr>>);

impl Place {
    pub fn of(address: SocketAddr) -> Self {
        Self(Arc::new(RwLock::new(address)))
    }

    pub fn now(&self) -> SocketAddr {
        *self.0.read().expect("no panic")
    }

    pub fn moves_to(&self, address: SocketAddr) {
        *self.0.write().expect("no panic") = address;
    }
}

/// The tasks that ask. They end when it is dropped.
pub struct Prober(JoinSet<()>);

impl Prober {
    /// Asks every one of `sidecars` over `connections` connections, each with this pause between two requests.
    pub fn start(
        sidecars: &[(usize, Place)],
        connections: usize,
        pause: Duration,
        probes: &Probes,
        history: &History,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for (sidecar, place) in sidecars.iter().cloned() {
            for first in 0..connections {
                let (probes, history) = (probes.clone(), history.clone());
                let mut asker = Asker::new(place.clone());
                tasks.spawn(async move {
                    for number in (first..).step_by(connections) {
                        if let Some(probe) = probes.nth(number) {
                            let observed = asker.ask(sidecar, &probe).await;
                            history.with(|judge| judge.observe(observed));
                        }
                        tokio::time::sleep(pause).await;
                    }
                });
            }
        }
        Self(tasks)
    }

    /// Whether one of the tasks ended, which is by a panic.
    pub fn is_broken(&mut self) -> bool {
        self.0.try_join_next().is_some()
    }
}

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// One client, on a connection that is kept while it lasts.
pub struct Asker {
    place: Place,
    kept: Option<TcpStream>,
}

impl Asker {
    pub fn new(place: Place) -> Self {
        Self { place, kept: None }
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(&mut self, sidecar: usize, probe: &Probe) -> Observed {
        let sent_at = Instant::now();
        let status = match tokio::time::timeout(PATIENCE, self.status(&probe.request)).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(_)) | Err(_) => {
                self.kept = None;
                None
            }
        };
        Observed { sidecar, subject: probe.subject, sent_at, answered_at: Instant::now(), status, part: Part::Whole }
    }

    async fn status(&mut self, request: &[u8]) -> io::Result<u16> {
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.place.now()).await?,
        };
        stream.set_nodelay(true)?;
        stream.write_all(request).await?;
        let mut received = Vec::with_capacity(1024);
        let end = head(&mut stream, &mut received).await?;
        let text = std::str::from_utf8(&received[..end]).map_err(io::Error::other)?.to_ascii_lowercase();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = text.get(9..12).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let length = field("content-length:").and_then(|length| length.parse::<usize>().ok());
        let mut rest = vec![0; (end + length.ok_or(io::ErrorKind::InvalidData)?).saturating_sub(received.len())];
        stream.read_exact(&mut rest).await?;
        self.kept = (field("connection:") != Some("close")).then_some(stream);
        Ok(status)
    }
}

/// Reads on until there is a whole head; returns where it ends.
async fn head(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(end + 4);
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// An upstream that answers every request with 200, and remembers none. Requests have no body. Where `flow` is in the path,
/// the reply goes on until somebody ends it.
pub struct Responder {
    pub address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Responder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                // However it ends.
                connections.spawn(async move { drop(respond(stream).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, _connections: connections }
    }
}

async fn respond(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    loop {
        let end = head(&mut stream, &mut received).await?;
        let flows = received[..end].windows(6).any(|part| part == b"/flow/");
        received.drain(..end);
        if flows {
            return flow(&mut stream).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    }
}

/// Between two pieces of a reply that goes on.
const PIECE_INTERVAL: Duration = Duration::from_millis(25);

async fn flow(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
    loop {
        stream.write_all(&[b'x'; 512]).await?;
        tokio::time::sleep(PIECE_INTERVAL).await;
    }
}
