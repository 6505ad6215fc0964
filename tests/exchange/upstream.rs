//! An upstream that does everything that upstreams do, and what they should not: at random, but the same for the same seed
//! and request. What it gets it reads strictly, and tells the judge.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::{Answer, Then};
use super::case::Case;
use super::judge::Judge;
use super::wire::{Body, End, Inbox, Outbox, Pieces, WireError};
use tollgate_harness::random::Random;

/// So small that a body does not fit into what the kernel holds, where an upstream does not read it. Both matter: how much the
/// sidecar's side holds follows from the size of a segment. Together they are some 70 KB.
const RECEIVE_BUFFER: u32 = 4096;
const SEGMENT: u32 = 1400;

/// From one outage to the next, in milliseconds: half of it.
const OUTAGES: u128 = 2000;

/// Stops when dropped.
pub(crate) struct Upstream {
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts it; `judge` is there once the sidecar is.
    pub(crate) fn listen() -> io::Result<(tokio::net::TcpListener, SocketAddr)> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(256)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    pub(crate) fn start(listener: tokio::net::TcpListener, judge: Arc<Judge>, seed: u64) -> Self {
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0_u64.. {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else { continue };
                let name = format!("upstream-{number}");
                let judge = Arc::clone(&judge);
                connections.spawn(async move { Connection::new(stream, name, judge, seed).serve().await });
            }
        });
        Self { task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection from the sidecar.
struct Connection {
    inbox: Inbox<OwnedReadHalf>,
    outbox: Outbox,
    name: String,
    judge: Arc<Judge>,
    seed: u64,
    /// The answers so far.
    answers: u64,
}

/// A request that is being read.
struct Arriving {
    case: Arc<Case>,
    /// The whole body as it should be.
    body: Vec<u8>,
    received: usize,
    pieces: Pieces,
    complete: bool,
}

impl Connection {
    fn new(stream: TcpStream, name: String, judge: Arc<Judge>, seed: u64) -> Self {
        // Without it, answers come later, no more.
        stream.set_nodelay(true).unwrap_or_default();
        let (reader, writer) = stream.into_split();
        Self { inbox: Inbox::new(reader), outbox: Outbox::new(writer), name, judge, seed, answers: 0 }
    }

    async fn serve(mut self) {
        self.judge.note(&self.name, None, "accepted");
        let ended = loop {
            match self.exchange().await {
                Ok(true) => {}
                Ok(false) => break "closed by the upstream".to_owned(),
                Err(WireError::End(End::Clean)) => break "closed by the sidecar".to_owned(),
                Err(WireError::End(End::Reset)) => break "reset".to_owned(),
                Err(WireError::Bad(problem)) => {
                    self.judge.find(&self.name, &[], format!("the upstream got what is no HTTP: {problem}"));
                    break problem;
                }
            }
        };
        self.judge.note(&self.name, None, ended);
    }

    /// One request and what is done about it. Whether there may be another.
    async fn exchange(&mut self) -> Result<bool, WireError> {
        let Some(mut arriving) = self.head().await? else { return Ok(false) };
        self.answers += 1;
        let number = arriving.case.number;
        let mut random = Random::new(self.seed ^ number.wrapping_mul(0x9E37_79B9) ^ (self.answers << 48));
        match random.below(6) {
            0..3 => self.body(&mut arriving, usize::MAX).await?,
            3 => {
                let part = random.below(arriving.body.len() + 1);
                self.body(&mut arriving, part).await?;
            }
            _ => {} // answers before it reads
        }
        // Node answers after it has worked, and reads what it did not need later: meanwhile the sidecar is left with the end of
        // a body that the sockets do not take.
        let thinks = if arriving.complete { 10 } else { 50 };
        // While it does, others may ask for the same.
        if random.percent(if arriving.case.is_shared { 50 } else { thinks }) {
            sleep(random.time(0, 200)).await;
        } else if random.percent(1) {
            sleep(random.time(900, 1500)).await;
        }
        let key = format!("{number}.{}.{}", self.name, self.answers);
        // What several ask for cannot be had for a part of each time.
        let is_away = arriving.case.is_shared && self.judge.time().as_millis() % OUTAGES > OUTAGES / 2;
        let answer = Answer::random(&key, &arriving.case, is_away, &mut random);
        self.judge.count(&format!("answer: {}", answer.kind));
        self.judge.note(&self.name, Some(number), format!("read {} of the body; {}", arriving.received, answer.kind));
        if let Some(expected) = answer.expected.clone() {
            self.judge.expects(&self.name, expected);
        }
        if let Some(stray) = answer.stray.clone() {
            self.judge.expects(&self.name, stray);
        }
        self.write(&answer.bytes, answer.joint.as_ref(), &mut random).await?;
        match answer.then {
            Then::Close => {
                self.outbox.finish().await;
                // Reads what comes, or resets over it.
                if random.percent(50) {
                    timeout(random.time(1, 300), self.inbox.end()).await.unwrap_or(End::Clean);
                }
                return Ok(false);
            }
            Then::Reset => {
                self.inbox.resets();
                return Ok(false);
            }
            Then::Hang => {
                timeout(Duration::from_secs(4), self.inbox.end()).await.unwrap_or(End::Clean);
                return Ok(false);
            }
            Then::Late(stray) => {
                self.rest(&mut arriving, &mut random).await?;
                sleep(random.time(0, 60)).await;
                // While it is idle, as far as can be told from here.
                let idle = timeout(Duration::ZERO, self.inbox.fill()).await.is_err();
                if idle && arriving.complete && self.inbox.unread().is_empty() {
                    self.judge.expects(&self.name, stray.expected.clone());
                    self.write(&stray.bytes, None, &mut random).await?;
                    self.judge.answered(&stray.expected.key);
                }
                return self.poisoned(arriving).await;
            }
            Then::Poisoned => {
                self.rest(&mut arriving, &mut random).await?;
                return self.poisoned(arriving).await;
            }
            Then::GoOn => self.rest(&mut arriving, &mut random).await?,
        }
        Ok(arriving.complete)
    }

    /// What comes is looked at, and not answered: nobody could tell whose answer it is.
    async fn poisoned(&mut self, mut arriving: Arriving) -> Result<bool, WireError> {
        let read = timeout(Duration::from_secs(2), async {
            self.body(&mut arriving, usize::MAX).await?;
            while let Some(mut arriving) = self.head().await? {
                self.body(&mut arriving, usize::MAX).await?;
            }
            Ok(false)
        });
        read.await.unwrap_or(Ok(false))
    }

    async fn head(&mut self) -> Result<Option<Arriving>, WireError> {
        let head = self.inbox.head().await?;
        let Some(case) = self.judge.arrives(&self.name, &head) else { return Ok(None) };
        let framing = match head.body().map_err(WireError::Bad)? {
            // A request without a word about its body has none (RFC 9112 section 6.3).
            Body::Unsaid => Body::Length(0),
            framing => framing,
        };
        let body = case.body(&self.judge.tokens);
        let mut arriving = Arriving { case, body, received: 0, pieces: Pieces::new(framing), complete: false };
        if framing == Body::Length(0) {
            self.body(&mut arriving, usize::MAX).await?;
        }
        Ok(Some(arriving))
    }

    /// Reads the body until there are so many bytes of it, and compares each.
    async fn body(&mut self, arriving: &mut Arriving, until: usize) -> Result<(), WireError> {
        while !arriving.complete && arriving.received < until {
            let Some(data) = arriving.pieces.next(&mut self.inbox).await? else {
                arriving.complete = true;
                self.check_end(arriving);
                break;
            };
            let expected = arriving.body.get(arriving.received..arriving.received + data.len());
            if expected != Some(&data) {
                let at = arriving.received;
                let seen = data[..data.len().min(300)].escape_ascii();
                let number = arriving.case.number;
                let text = format!(
                    "other bytes than the client's in a body, at about {at} of {}: {seen}",
                    arriving.body.len()
                );
                self.judge.find(&self.name, &[number], text);
                return Err(WireError::End(End::Clean));
            }
            arriving.received += data.len();
        }
        Ok(())
    }

    fn check_end(&self, arriving: &Arriving) {
        let Arriving { case, body, received, .. } = arriving;
        self.judge.note(&self.name, Some(case.number), format!("the body has ended after {received}"));
        self.judge.count("requests complete at the upstream");
        if *received != body.len() || !case.is_whole() {
            let text = format!("a body that was not sent whole looks whole, with {received} bytes: {case:?}");
            self.judge.find(&self.name, &[case.number], text);
        }
    }

    /// What of the request was not read before the answer: at once, late, or not at all.
    async fn rest(&mut self, arriving: &mut Arriving, random: &mut Random) -> Result<(), WireError> {
        if arriving.complete {
            return Ok(());
        }
        match random.below(4) {
            0 => {}
            1 | 2 => sleep(random.time(5, 400)).await,
            _ => {
                sleep(random.time(100, 2000)).await;
                return Ok(());
            }
        }
        self.body(arriving, usize::MAX).await
    }

    /// In pieces that end at random places, but `joint` is one.
    async fn write(
        &mut self,
        bytes: &[u8],
        joint: Option<&Range<usize>>,
        random: &mut Random,
    ) -> Result<(), WireError> {
        let mut at = 0;
        let whole = random.percent(50);
        while at < bytes.len() {
            let mut end = if whole { bytes.len() } else { at + 1 + random.below(bytes.len() - at) };
            if let Some(joint) = joint {
                if at < joint.start && end > joint.start {
                    end = joint.start;
                } else if at >= joint.start {
                    end = end.max(joint.end);
                }
            }
            self.outbox.write(&bytes[at..end]).await.map_err(|_| WireError::End(End::Reset))?;
            at = end;
            if at < bytes.len() && random.percent(40) {
                sleep(random.time(0, 10)).await;
            }
        }
        Ok(())
    }
}
