//! Forwarding: a permitted request to the upstream, its reply to the client, both streamed.
//!
//! The request's body and the reply flow at the same time, since an upstream may answer before it has read everything.
//! Both halves run in one task: [`Exchange::run`] polls the body's pump beside the reply.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::refusal::Refusal;
use crate::config::UpstreamName;
use crate::http1::body::Piece;
use crate::http1::head::{Framing, find_end};
use crate::http1::{BodyLength, Buffer, Decoder, Field, MAX_FIELDS};
use crate::socket::Socket;
use crate::upstream::Pool;
use crate::worker::Worker;
use crate::worker::alarm::{Alarm, Interrupt};

/// A request's body, as its protocol delivers it.
#[expect(async_fn_in_trait, reason = "used within one thread only")]
pub trait RequestBody {
    /// Whether nothing is left to come.
    fn is_done(&self) -> bool;

    /// Takes what is there already, if that is all there is to come and its length is known. Saves a system call.
    fn take_whole(&mut self, out: &mut Vec<u8>) -> bool;

    /// The next piece; `None` at the end. The piece is consumed with the next call.
    async fn next(&mut self) -> Result<Option<&[u8]>, BodyError>;
}

/// Why a request's body does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client is gone.
    #[error("the client closed the connection within its request")]
    Gone,
    /// The client is too slow.
    #[error("the client's request body came too slowly")]
    Slow,
    /// It is over the limit.
    #[error("the request body is over the limit")]
    TooLarge,
    /// It is not what its framing said.
    #[error("the request body is malformed")]
    Broken,
}

/// Where a reply goes, as the client's protocol carries it.
#[expect(async_fn_in_trait, reason = "used within one thread only")]
pub trait Reply {
    /// Takes the head. Nothing needs to be sent before the first byte of the body or the end.
    fn begin(&mut self, head: &ReplyHead<'_>) -> Result<(), Gone>;

    /// A piece of the body.
    async fn data(&mut self, data: &[u8]) -> Result<(), Gone>;

    /// Sends what was held back, since the next piece may be long in coming.
    async fn flush(&mut self) -> Result<(), Gone>;

    /// The end of the body.
    async fn end(&mut self) -> Result<(), Gone>;
}

/// The reply cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// The client closed the connection.
    #[error("the client closed the connection within the reply")]
    Closed,
    /// The client does not take it fast enough, or may no longer have it.
    #[error("interrupted: {0}")]
    Interrupted(#[from] Interrupt),
}

/// A reply's head.
#[derive(Debug)]
pub struct ReplyHead<'a> {
    /// 200 to 999.
    pub status: u16,
    /// As the upstream said it.
    pub phrase: &'a str,
    fields: &'a [Field<'a>],
    /// A bit for each field that goes on as it is.
    keep: u128,
    to_head: bool,
    /// How the end of the body is known.
    pub body: BodyLength,
}

impl<'a> ReplyHead<'a> {
    /// Whether the reply has no body by its nature (to HEAD, 204, 304): then its `Content-Length`, if any, is among the
    /// fields that go on, since it says something else.
    #[must_use]
    pub fn is_bodiless(&self) -> bool {
        self.to_head || matches!(self.status, 204 | 304)
    }

    /// The fields that go on as they are.
    pub fn kept(&self) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().enumerate().filter(|(at, _)| self.keep >> at & 1 == 1).map(|(_, field)| field)
    }
}

/// One request's way to the upstream and back.
pub struct Exchange<'a> {
    /// Where it happens.
    pub worker: &'a Rc<Worker>,
    /// Interrupts it.
    pub alarm: &'a Alarm,
    /// Where it goes.
    pub upstream: UpstreamName,
    /// The head as the upstream gets it, the body's beginning perhaps behind it.
    pub head: &'a mut Vec<u8>,
    /// How the body is framed.
    pub body_length: BodyLength,
    /// GET or HEAD: may be sent twice.
    pub repeatable: bool,
    /// HEAD: the reply has no body.
    pub to_head: bool,
}

/// How an exchange ended otherwise than well.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// To be said to the client, if nothing was answered yet.
    #[error("{0}")]
    Refused(Refusal),
    /// Nobody is left to tell, or nothing more may be said: the connection or stream is cut off.
    #[error("{0}")]
    Cut(&'static str),
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::Cut(match gone {
            Gone::Closed => "the client closed the connection",
            Gone::Interrupted(Interrupt::Revoked) => "the token was revoked",
            Gone::Interrupted(_) => "the client takes the reply too slowly",
        })
    }
}

/// How an exchange ended well: the reply is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// The reply's status.
    pub status: u16,
    /// Whether the request's body was read to its end. If not, what follows on the connection is still body.
    pub body_read: bool,
}

/// What came back on one connection to the upstream.
enum Received {
    /// The whole reply; whether the connection can be used again.
    Reply { status: u16, reusable: bool },
    /// Nothing: the connection was dead, and the request may be sent on another.
    Dead,
}

impl Received {
    fn not_reusable(self) -> Self {
        match self {
            Self::Reply { status, .. } => Self::Reply { status, reusable: false },
            Self::Dead => Self::Dead,
        }
    }
}

impl Exchange<'_> {
    /// Sends the request and delivers the reply.
    ///
    /// # Errors
    /// [`Failure`]. Whether anything was answered before it, the reply knows.
    pub async fn run(&mut self, body: &mut impl RequestBody, reply: &mut impl Reply) -> Result<Completed, Failure> {
        let pool = self.worker.upstream(self.upstream);
        let streaming = !body.take_whole(self.head) && !body.is_done();
        loop {
            let (socket, reused) = match pool.reuse(self.worker.alarms.now()) {
                Some(socket) => (socket, true),
                None => (self.connect(pool).await?, false),
            };
            let received = match self.send_head(pool, &socket, reused, streaming).await? {
                Sent::Dead => Received::Dead,
                Sent::Head if streaming => Box::pin(self.stream(pool, &socket, body, reply)).await?,
                Sent::Head => {
                    self.alarm.set(pool.upstream.config.first_byte_timeout);
                    self.receive(pool, &socket, reused && self.repeatable, &Cell::new(false), reply).await?
                }
                Sent::Part => {
                    self.alarm.set(pool.upstream.config.first_byte_timeout);
                    let received = self.receive(pool, &socket, false, &Cell::new(false), reply).await?;
                    received.not_reusable()
                }
            };
            match received {
                Received::Dead => pool.forget(),
                Received::Reply { status, reusable } => {
                    let body_read = body.is_done();
                    if reusable && body_read {
                        pool.keep(socket, self.worker.alarms.now());
                    }
                    return Ok(Completed { status, body_read });
                }
            }
        }
    }

    async fn connect(&self, pool: &Pool) -> Result<Socket, Failure> {
        self.alarm.set(pool.upstream.config.connect_timeout);
        // Boxed, as streaming is: both are rare, and would make every exchange's state several times as large.
        match self.alarm.race(Box::pin(pool.connect())).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => {
                tracing::warn!(upstream = %pool.upstream.config.authority, %error, "cannot connect to the upstream");
                Err(Failure::Refused(Refusal::Upstream))
            }
            Err(interrupt) => Err(waiting_for_upstream(interrupt)),
        }
    }

    async fn send_head(&self, pool: &Pool, socket: &Socket, reused: bool, streaming: bool) -> Result<Sent, Failure> {
        let mut rest = self.head.as_slice();
        self.alarm.set(pool.upstream.config.idle_timeout);
        match self.alarm.race(write_all(socket, &mut rest)).await {
            Ok(Ok(())) => Ok(Sent::Head),
            Ok(Err(_)) if reused && (rest.len() == self.head.len() || (self.repeatable && !streaming)) => {
                Ok(Sent::Dead)
            }
            // The upstream may have answered and closed before it read everything.
            Ok(Err(_)) => Ok(Sent::Part),
            Err(interrupt) => Err(waiting_for_upstream(interrupt)),
        }
    }

    /// The body is still coming: it is pumped to the upstream beside the reply.
    async fn stream(
        &self,
        pool: &Pool,
        socket: &Socket,
        body: &mut impl RequestBody,
        reply: &mut impl Reply,
    ) -> Result<Received, Failure> {
        let timeout = pool.upstream.config.first_byte_timeout;
        self.alarm.clear(); // the upstream owes nothing before it has the whole body
        let answered = Cell::new(false);
        let mut pump = pin!(self.pump(pool, socket, body));
        let mut receive = pin!(self.receive(pool, socket, false, &answered, reply));
        let (mut pumping, mut whole) = (true, false);
        let received = poll_fn(|context| {
            if pumping && let Poll::Ready(pumped) = pump.as_mut().poll(context) {
                pumping = false;
                whole = pumped.is_ok();
                match pumped {
                    Err(PumpError::Body(error)) => return Poll::Ready(Err(error.into())),
                    // If the upstream stopped listening, what it said about that is worth reading.
                    Ok(()) | Err(PumpError::Upstream) if !answered.get() => self.alarm.set(timeout),
                    Ok(()) | Err(PumpError::Upstream) => {}
                }
            }
            receive.as_mut().poll(context)
        })
        .await?;
        // Where the upstream still waits for the rest of this request, the next one would be taken for it, and whatever
        // that carries for requests that nobody checked.
        Ok(if whole { received } else { received.not_reusable() })
    }

    async fn pump(&self, pool: &Pool, socket: &Socket, body: &mut impl RequestBody) -> Result<(), PumpError> {
        let alarm = Alarm::new(self.worker);
        let chunked = self.body_length == BodyLength::Chunked;
        let mut framing = Vec::new();
        let mut line = b"".as_slice(); // ends the chunk before
        loop {
            let piece = body.next().await.map_err(PumpError::Body)?;
            if piece.is_some_and(<[u8]>::is_empty) {
                continue; // a chunk without data would end the body, and what follows would be read as a request
            }
            framing.clear();
            if chunked {
                use std::io::Write as _;
                framing.extend_from_slice(line);
                line = b"\r\n";
                // Writing to a Vec cannot fail.
                match piece {
                    Some(data) => drop(write!(framing, "{:x}\r\n", data.len())),
                    None => framing.extend_from_slice(b"0\r\n\r\n"),
                }
            }
            let (mut head, mut data) = (framing.as_slice(), piece.unwrap_or_default());
            while !head.is_empty() || !data.is_empty() {
                alarm.set(pool.upstream.config.idle_timeout);
                match alarm.race(socket.write_some(&mut head, &mut data)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return Err(PumpError::Upstream),
                }
            }
            if piece.is_none() {
                return socket.flush().await.map_err(|_| PumpError::Upstream);
            }
        }
    }

    /// Receives the reply and delivers it.
    async fn receive(
        &self,
        pool: &Pool,
        socket: &Socket,
        repeatable: bool,
        answered: &Cell<bool>,
        reply: &mut impl Reply,
    ) -> Result<Received, Failure> {
        let mut buffer = self.worker.buffer();
        let mut scanned = 0;
        let head = loop {
            if let Some(end) = find_end(buffer.filled(), &mut scanned).map_err(|_| broken(pool, "a bare line feed"))? {
                let head = self.read_head(pool, buffer.filled().get(..end).unwrap_or_default(), reply)?;
                buffer.consume(end);
                scanned = 0;
                match head {
                    Head::Interim => continue,
                    Head::Final(head) => break head,
                }
            }
            let first = buffer.is_empty();
            match self.alarm.race(socket.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) if first && repeatable => return Ok(Received::Dead),
                Ok(Ok(0)) => return Err(broken(pool, "the connection closed before a reply")),
                Ok(Err(error)) => return Err(broken(pool, &error.to_string())),
                Ok(Ok(_)) => self.alarm.set(pool.upstream.config.idle_timeout),
                Err(interrupt) => return Err(waiting_for_upstream(interrupt)),
            }
        };
        answered.set(true);
        let whole = self.relay(pool, socket, &mut buffer, head.body, reply).await?;
        Ok(Received::Reply { status: head.status, reusable: head.keeps && whole && buffer.is_empty() })
    }

    /// Hands the body on. Returns whether its end was told by its framing, not by the end of the connection.
    async fn relay(
        &self,
        pool: &Pool,
        socket: &Socket,
        buffer: &mut Buffer,
        length: BodyLength,
        reply: &mut impl Reply,
    ) -> Result<bool, Failure> {
        let mut decoder = Decoder::new(length);
        loop {
            match decoder.next(buffer.filled()) {
                Ok(Piece::Framing(count)) => buffer.consume(count),
                Ok(Piece::Data(count)) => {
                    reply.data(buffer.filled().get(..count).unwrap_or_default()).await?;
                    buffer.consume(count);
                }
                Ok(Piece::End) => {
                    reply.end().await?;
                    return Ok(true);
                }
                Ok(Piece::More) => {
                    reply.flush().await?;
                    self.alarm.set(pool.upstream.config.idle_timeout);
                    match self.alarm.race(socket.read(buffer)).await {
                        Ok(Ok(0)) if decoder.ends_with_connection() => {
                            reply.end().await?;
                            return Ok(false);
                        }
                        Ok(Ok(0) | Err(_)) => return Err(Failure::Cut("the upstream closed within the reply")),
                        Ok(Ok(_)) => {}
                        Err(Interrupt::Revoked) => return Err(Gone::Interrupted(Interrupt::Revoked).into()),
                        Err(_) => return Err(Failure::Cut("the upstream paused too long within the reply")),
                    }
                }
                Err(_) => return Err(Failure::Cut("the upstream's chunked coding is broken")),
            }
        }
    }

    /// Reads one head and, unless it is an interim one, hands it on.
    fn read_head(&self, pool: &Pool, bytes: &[u8], reply: &mut impl Reply) -> Result<Head, Failure> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
        let (Ok(httparse::Status::Complete(_)), Some(status)) = (parsed, head.code) else {
            return Err(broken(pool, "its reply is not HTTP/1.1"));
        };
        match status {
            101 => return Err(broken(pool, "it switched protocols unasked")),
            100..200 => return Ok(Head::Interim),
            0..100 => return Err(broken(pool, "its status has no meaning")), // RFC 9110 section 15
            _ => {}
        }
        let (mut framing, mut keep, mut keeps) = (Framing::default(), 0u128, head.version == Some(1));
        let mut options = false;
        for (at, field) in head.headers.iter().enumerate() {
            match ReplyField::of(field.name) {
                ReplyField::Other => keep |= 1 << at,
                ReplyField::ContentLength => {
                    framing.content_length(field.value).map_err(|_| broken(pool, "its Content-Length is broken"))?;
                    // Says how long a body would be, where there is none.
                    if self.to_head || status == 304 {
                        keep |= 1 << at;
                    }
                }
                ReplyField::TransferEncoding => {
                    framing.transfer_encoding(field.value).map_err(|_| broken(pool, "its framing is broken"))?;
                }
                ReplyField::Connection if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
                ReplyField::Connection => {
                    keeps &= !has_option(field.value, "close");
                    options = true;
                }
                ReplyField::HopByHop => {}
            }
        }
        let connections = head.headers.iter().filter(|field| options && field.name.eq_ignore_ascii_case("connection"));
        for connection in connections {
            for (at, field) in head.headers.iter().enumerate() {
                if keep >> at & 1 == 1 && has_option(connection.value, field.name) {
                    keep &= !(1 << at);
                }
            }
        }
        let body = framing.of_reply(status, self.to_head).map_err(|_| broken(pool, "its framing is broken"))?;
        let (phrase, to_head) = (head.reason.unwrap_or(""), self.to_head);
        reply.begin(&ReplyHead { status, phrase, fields: head.headers, keep, to_head, body })?;
        Ok(Head::Final(FinalHead { status, body, keeps }))
    }
}

/// Whether the head was taken.
enum Sent {
    Head,
    /// Not all of it: the connection broke meanwhile, and what was answered may still be there.
    Part,
    Dead,
}

enum Head {
    Interim,
    Final(FinalHead),
}

/// What is left to know of a head once it was handed on.
struct FinalHead {
    status: u16,
    body: BodyLength,
    keeps: bool,
}

/// What a reply's field means to a proxy.
enum ReplyField {
    Other,
    ContentLength,
    TransferEncoding,
    Connection,
    HopByHop,
}

impl ReplyField {
    fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Self::HopByHop,
            7 if is("trailer") || is("upgrade") => Self::HopByHop,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::HopByHop,
            14 if is("content-length") => Self::ContentLength,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            18 if is("proxy-authenticate") => Self::HopByHop,
            _ => Self::Other,
        }
    }
}

/// Whether a comma-separated list has this option, in any case.
fn has_option(list: &[u8], option: &str) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// Why the body does not reach the upstream.
enum PumpError {
    Body(BodyError),
    Upstream,
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Slow => Self::Refused(Refusal::Timeout),
            BodyError::TooLarge => Self::Refused(Refusal::BodyTooLarge),
            BodyError::Broken => Self::Refused(Refusal::BrokenBody),
            BodyError::Gone => Self::Cut("the client closed the connection within its request"),
        }
    }
}

fn waiting_for_upstream(interrupt: Interrupt) -> Failure {
    match interrupt {
        Interrupt::Deadline => Failure::Refused(Refusal::UpstreamTimeout),
        Interrupt::Revoked => Failure::Refused(Refusal::UnknownToken),
        Interrupt::Drain => Failure::Cut("the sidecar stops"),
    }
}

fn broken(pool: &Pool, problem: &str) -> Failure {
    tracing::warn!(upstream = %pool.upstream.config.authority, problem, "the upstream's reply cannot be used");
    Failure::Refused(Refusal::Upstream)
}

async fn write_all(socket: &Socket, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        socket.write_some(rest, &mut b"".as_slice()).await?;
    }
    socket.flush().await
}
