//! An upstream that records what it gets and answers by a script.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::within;

/// A server on a free port. It stops when dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    /// Dropped, it kills it.
    alive: Option<oneshot::Sender<()>>,
}

struct Shared {
    seen: watch::Sender<Seen>,
    scripts: Mutex<VecDeque<Script>>,
    /// For requests without a script of their own.
    otherwise: Mutex<fn() -> Script>,
    /// For health checks.
    health: Mutex<fn() -> Script>,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// In the order in which their heads were whole.
    pub(crate) requests: Vec<Recorded>,
    /// Connections accepted.
    pub(crate) connections: usize,
    /// Connections that are over, whoever ended them.
    pub(crate) closed: usize,
    /// Bytes sent.
    pub(crate) sent: usize,
    /// The paths of health checks, which are no requests.
    pub(crate) checks: Vec<String>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// On which connection, counted from 0.
    pub(crate) connection: usize,
    /// The request line and fields, up to and with the empty line.
    pub(crate) head: String,
    /// The body, without the framing, as far as it came.
    pub(crate) body: Vec<u8>,
    /// Whether the body's end came.
    pub(crate) complete: bool,
}

impl Recorded {
    pub(crate) fn request_line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// Every field, in order, as it was written.
    pub(crate) fn fields(&self) -> Vec<(&str, &str)> {
        let lines = self.head.trim_end_matches("\r\n").split("\r\n").skip(1);
        lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"))).collect()
    }

    /// The value of a field that is there at most once.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields();
        let mut found = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| *value);
        assert!(found.next().is_none(), "{name} is there more than once: {:?}", self.head);
        value
    }
}

/// What is done with one request, after its head came.
pub(crate) struct Script(Vec<Step>);

enum Step {
    /// Reads the body to its end.
    ReadBody,
    Send(Vec<u8>),
    /// Sends the same bytes so many times.
    Flood(Vec<u8>, usize),
    /// Sends what the test hands in, until the test drops its end.
    Relay(mpsc::Receiver<Vec<u8>>),
    /// Closes cleanly.
    Close,
    /// Closes by a reset.
    Reset,
    /// Says nothing more, until the sidecar closes.
    Hang,
    /// Not even reads.
    Sleep,
}

impl Script {
    /// Reads the request and answers so.
    pub(crate) fn reply(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::ReadBody, Step::Send(bytes.into())])
    }

    /// Answers a request that has no body.
    pub(crate) fn answer(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into())])
    }

    /// Answers before it has read the body, which it reads afterwards.
    pub(crate) fn early_reply(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into()), Step::ReadBody])
    }

    /// Answers, and never reads the body.
    pub(crate) fn reply_only(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into()), Step::Sleep])
    }

    /// Answers when and what the test says, and reads the body only once the test drops its end.
    pub(crate) fn late_reader() -> (Self, mpsc::Sender<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(vec![Step::Relay(receiver), Step::ReadBody]), sender)
    }

    /// Answers, and closes with the body unread.
    pub(crate) fn answer_and_close(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::Send(bytes.into()), Step::Close])
    }

    /// Answers when and what the test says.
    pub(crate) fn piecewise() -> (Self, mpsc::Sender<Vec<u8>>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(vec![Step::ReadBody, Step::Relay(receiver)]), sender)
    }

    /// Answers with this, and says nothing more until the sidecar closes.
    pub(crate) fn part(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Step::ReadBody, Step::Send(bytes.into()), Step::Hang])
    }

    /// Answers with this and then the same bytes so many times.
    pub(crate) fn flood(head: impl Into<Vec<u8>>, bytes: Vec<u8>, times: usize) -> Self {
        Self(vec![Step::ReadBody, Step::Send(head.into()), Step::Flood(bytes, times)])
    }

    /// Reads the request and never answers.
    pub(crate) fn silent() -> Self {
        Self(vec![Step::ReadBody, Step::Hang])
    }

    /// Reads not even the body.
    pub(crate) fn deaf() -> Self {
        Self(vec![Step::Sleep])
    }

    /// Goes on to say this.
    pub(crate) fn then_reply(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.push(Step::Send(bytes.into()));
        self
    }

    /// Closes when it is done.
    pub(crate) fn then_close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }

    /// Resets the connection when it is done.
    pub(crate) fn then_reset(mut self) -> Self {
        self.0.push(Step::Reset);
        self
    }
}

/// A reply of the upstream: status line, `fields` (whole lines), body with its length.
pub(crate) fn scripted(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nServer: scripted\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// `200 OK` with this body.
pub(crate) fn ok(body: &str) -> String {
    scripted("200 OK", "", body)
}

impl Upstream {
    /// Answers `200 OK` and `ok` to everything, unless told otherwise.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// As [`Upstream::start`], at this address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let otherwise: fn() -> Script = || Script::reply(ok("ok"));
        let shared = Arc::new(Shared {
            seen: watch::Sender::default(),
            scripts: Mutex::default(),
            otherwise: Mutex::new(otherwise),
            health: Mutex::new(|| Script::answer(ok("ready"))),
        });
        let (alive, killed) = oneshot::channel();
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), killed));
        Self { address, shared, task, alive: Some(alive) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to do with the next request that has no script yet.
    pub(crate) fn next(&self, script: Script) {
        self.shared.scripts.lock().expect("no panic").push_back(script);
    }

    /// Answers the next request that has no script yet when and what the test says.
    pub(crate) fn next_in_pieces(&self) -> mpsc::Sender<Vec<u8>> {
        let (script, pieces) = Script::piecewise();
        self.next(script);
        pieces
    }

    /// What to do with every request that has no script of its own.
    pub(crate) fn otherwise(&self, script: fn() -> Script) {
        *self.shared.otherwise.lock().expect("no panic") = script;
    }

    /// What to do with health checks, which are answered `200 OK` unless told otherwise.
    pub(crate) fn health(&self, script: fn() -> Script) {
        *self.shared.health.lock().expect("no panic") = script;
    }

    /// The paths of the health checks so far.
    pub(crate) fn checks(&self) -> Vec<String> {
        self.shared.seen.borrow().checks.clone()
    }

    /// Kills it: its connections break, and new ones are refused when this returns. What it got until then.
    pub(crate) async fn kill(mut self) -> Vec<Recorded> {
        self.alive = None;
        within("its end", &mut self.task).await.expect("ends");
        self.requests()
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.seen.borrow().requests.clone()
    }

    /// The only request so far.
    pub(crate) fn request(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().expect("one")
    }

    /// Waits until this holds.
    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&Seen) -> bool) {
        let mut seen = self.shared.seen.subscribe();
        drop(within(what, seen.wait_for(holds)).await.expect("runs"));
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.seen.borrow().connections
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.shared.seen.borrow().sent
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where connections are refused for as long as this lives: bound, and not listened on.
pub(crate) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut killed: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.expect("accepts"),
            _ = &mut killed => break,
        };
        shared.seen.send_modify(|seen| seen.connections += 1);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let mut connection = Connection { stream, received: Vec::new(), shared: Arc::clone(&shared), number };
            // However it ends: the test looks at what was seen.
            drop(connection.serve().await);
            drop(connection);
            shared.seen.send_modify(|seen| seen.closed += 1);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    shared: Arc<Shared>,
    number: usize,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            let head = self.head().await?;
            let (request, script) = match head.strip_prefix("GET /health") {
                Some(_) => (0, self.check(&head)),
                None => self.request(head),
            };
            for step in script.0 {
                match step {
                    Step::ReadBody => self.body(request).await?,
                    Step::Send(bytes) => self.send(&bytes).await?,
                    Step::Flood(bytes, times) => {
                        for _ in 0..times {
                            self.send(&bytes).await?;
                        }
                    }
                    Step::Relay(mut pieces) => {
                        while let Some(piece) = pieces.recv().await {
                            self.send(&piece).await?;
                        }
                    }
                    Step::Close => return self.stream.shutdown().await,
                    Step::Reset => return self.stream.set_zero_linger(),
                    Step::Hang => loop {
                        self.receive().await?;
                    },
                    Step::Sleep => std::future::pending::<()>().await,
                }
            }
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.stream.write(bytes).await?;
            bytes = &bytes[count..];
            self.shared.seen.send_modify(|seen| seen.sent += count);
        }
        Ok(())
    }

    async fn head(&mut self) -> io::Result<String> {
        let end = loop {
            match self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.receive().await?,
            }
        };
        Ok(String::from_utf8(self.received.drain(..end).collect()).expect("the sidecar's heads are text"))
    }

    /// Records a health check.
    fn check(&self, head: &str) -> Script {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.shared.seen.send_modify(|seen| seen.checks.push(path));
        let script = *self.shared.health.lock().expect("no panic");
        script()
    }

    /// Records a request. Its place, and what to do with it.
    fn request(&self, head: String) -> (usize, Script) {
        let recorded = Recorded { connection: self.number, head, body: Vec::new(), complete: false };
        let mut place = 0;
        self.shared.seen.send_modify(|seen| {
            place = seen.requests.len();
            seen.requests.push(recorded);
        });
        let script = self.shared.scripts.lock().expect("no panic").pop_front();
        let otherwise = *self.shared.otherwise.lock().expect("no panic");
        (place, script.unwrap_or_else(otherwise))
    }

    async fn body(&mut self, request: usize) -> io::Result<()> {
        let recorded = self.shared.seen.borrow().requests[request].clone();
        match (recorded.field("Content-Length"), recorded.field("Transfer-Encoding")) {
            (None, None) => {}
            (Some(length), None) => {
                self.data(request, length.parse().expect("a length")).await?;
            }
            (None, Some("chunked")) => self.chunks(request).await?,
            other => panic!("framing that nobody can trust: {other:?}"),
        }
        self.shared.seen.send_modify(|seen| seen.requests[request].complete = true);
        Ok(())
    }

    async fn data(&mut self, request: usize, mut length: usize) -> io::Result<()> {
        while length > 0 {
            if self.received.is_empty() {
                self.receive().await?;
            }
            let count = length.min(self.received.len());
            length -= count;
            let piece = self.received.drain(..count);
            self.shared.seen.send_modify(|seen| seen.requests[request].body.extend(piece));
        }
        Ok(())
    }

    async fn chunks(&mut self, request: usize) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a chunk size: {line:?}"));
            self.data(request, size).await?;
            assert_eq!(self.line().await?, "", "the end of a chunk");
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            match self.received.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(end) => {
                    let line: Vec<u8> = self.received.drain(..end + 2).take(end).collect();
                    return Ok(String::from_utf8(line).expect("text"));
                }
                None => self.receive().await?,
            }
        }
    }
}
