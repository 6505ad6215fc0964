//! An upstream that is told how to misbehave with one request, and answers all others with what they asked for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::PLAYED;
use super::fuzz::wire::{Body, Head, Inbox, Pieces, WireError};
use crate::harness::Token;

/// What is done with the request that is played with.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// So much of the body is read first.
    pub(super) reads: usize,
    pub(super) says: Vec<u8>,
    pub(super) then: Then,
}

#[derive(Debug, Clone)]
pub(super) enum Then {
    /// Answers after a moment, reads the rest a little later, and goes on.
    ReadLate,
    Close,
    /// By a reset, whatever of the request was not read.
    Reset,
    /// Says this, too, once the client may have its reply.
    Say(Vec<u8>),
}

/// Stops when its runtime does.
pub(super) struct Opponent {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ways: Mutex<VecDeque<Way>>,
    problems: Mutex<Vec<String>>,
    requests: watch::Sender<usize>,
    /// Of these so many are held back.
    held: watch::Sender<usize>,
    /// How often it was said that what is held back goes on.
    go: watch::Sender<usize>,
}

impl Opponent {
    /// By TLS with a configuration, else plain.
    pub(super) fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // So that the kernel, on both sides, holds no more than some 70 KB.
        socket.set_recv_buffer_size(4096).expect("sets");
        SockRef::from(&socket).set_tcp_mss(1400).expect("sets");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let listener = socket.listen(256).expect("listens");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let (kept, acceptor) = (Arc::clone(&shared), tls.map(TlsAcceptor::from));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let (shared, acceptor) = (Arc::clone(&kept), acceptor.clone());
                tokio::spawn(async move {
                    let resets = SockRef::from(&stream).try_clone().expect("descriptors");
                    match acceptor {
                        None => Connection::new(stream, resets, shared).serve().await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            Connection::new(stream, resets, shared).serve().await;
                        }
                    }
                });
            }
        });
        Self { address, shared }
    }
}

impl Opponent {
    /// What to do with the next request that is played with.
    pub(super) fn next(&self, way: Way) {
        self.shared.ways.lock().expect("no panic").push_back(way);
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> usize {
        *self.shared.requests.borrow()
    }

    /// What came that should not have.
    pub(super) fn problems(&self) -> Vec<String> {
        self.shared.problems.lock().expect("no panic").clone()
    }

    /// What is held back goes on.
    pub(super) fn read_on(&self) {
        self.shared.go.send_modify(|go| *go += 1);
    }

    /// Waits until nothing is held back.
    pub(super) async fn settled(&self) {
        drop(self.shared.held.subscribe().wait_for(|held| *held == 0).await.expect("runs"));
    }
}

/// A body full of requests that would be served if they were taken for some.
pub(super) fn body(length: usize, owner: &Token) -> Vec<u8> {
    let request = format!("DELETE /api/users/1 HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {}\r\n\r\n", owner.raw);
    request.bytes().cycle().take(length).collect()
}

/// Counts while it lives.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(held: &'a watch::Sender<usize>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

struct Connection<S> {
    inbox: Inbox<ReadHalf<S>>,
    writer: WriteHalf<S>,
    /// The socket, to reset it by.
    socket: socket2::Socket,
    shared: Arc<Shared>,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    fn new(stream: S, socket: socket2::Socket, shared: Arc<Shared>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { inbox: Inbox::new(reader), writer, socket, shared }
    }

    async fn serve(mut self) {
        loop {
            match self.exchange().await {
                Ok(true) => {}
                Ok(false) | Err(WireError::End(_)) => return,
                Err(WireError::Bad(problem)) => return self.problem(problem),
            }
        }
    }

    fn problem(&self, problem: String) {
        self.shared.problems.lock().expect("no panic").push(problem);
    }

    /// Whether there may be another.
    async fn exchange(&mut self) -> Result<bool, WireError> {
        let head = self.inbox.head().await?;
        self.shared.requests.send_modify(|requests| *requests += 1);
        let words: Vec<_> = head.line.split(' ').collect();
        let (method, path) = match words.as_slice() {
            [method @ ("GET" | "POST"), path, "HTTP/1.1"] if path.starts_with("/api/configs/") => (*method, *path),
            _ => return Err(WireError::Bad(format!("{head:?}"))),
        };
        let framing = match head.body().map_err(WireError::Bad)? {
            Body::Unsaid => Body::Length(0),
            framing => framing,
        };
        let (mut pieces, mut received) = (Pieces::new(framing), 0);
        let way = if path == PLAYED { self.shared.ways.lock().expect("no panic").pop_front() } else { None };
        let Some(way) = way else {
            self.read(&head, &mut pieces, &mut received, usize::MAX).await?;
            // What is sent again was answered already, by a way to fail.
            let text = format!("reply to {method} {path} {received}");
            self.say(crate::harness::ok(&text).as_bytes()).await?;
            return Ok(true);
        };
        self.read(&head, &mut pieces, &mut received, way.reads).await?;
        if matches!(way.then, Then::ReadLate) {
            // As Node does, which works first: the sockets are full by then.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.say(&way.says).await?;
        match way.then {
            Then::Close => {
                self.writer.shutdown().await.ok();
                Ok(false)
            }
            Then::Reset => {
                self.socket.set_linger(Some(Duration::ZERO)).expect("sets");
                Ok(false)
            }
            Then::ReadLate => {
                // What was handed on whole may be followed by the next request, which waits for this.
                tokio::time::timeout(Duration::from_millis(200), self.hold()).await.ok();
                self.read(&head, &mut pieces, &mut received, usize::MAX).await?;
                Ok(true)
            }
            Then::Say(more) => {
                self.read(&head, &mut pieces, &mut received, usize::MAX).await?;
                self.hold().await;
                self.say(&more).await?;
                // Nobody could tell whose the next answer is.
                self.inbox.end().await;
                Ok(false)
            }
        }
    }

    /// Waits until it is told to go on.
    async fn hold(&self) {
        let mut go = self.shared.go.subscribe();
        let before = *go.borrow();
        let _held = Held::new(&self.shared.held);
        go.wait_for(|go| *go > before).await.ok();
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let said = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        said.await.map_err(|_| WireError::End(super::fuzz::wire::End::Reset))
    }

    /// Reads the body up to here; it must be what was sent.
    async fn read(
        &mut self,
        head: &Head,
        pieces: &mut Pieces,
        received: &mut usize,
        until: usize,
    ) -> Result<(), WireError> {
        let token = head.one("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let request = format!("DELETE /api/users/1 HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {token}\r\n\r\n");
        while *received < until {
            let Some(data) = pieces.next(&mut self.inbox).await? else { return Ok(()) };
            let expected = request.bytes().cycle().skip(*received % request.len());
            if !expected.zip(&data).all(|(expected, got)| expected == *got) {
                return Err(WireError::Bad(format!("other bytes than the client's: {}", data.escape_ascii())));
            }
            *received += data.len();
        }
        Ok(())
    }
}
