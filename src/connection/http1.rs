//! HTTP/1.0 and 1.1 on a client connection (RFC 9112).

use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Duration;

use super::Summary;
use crate::config::UpstreamName;
use crate::http1::body::Piece;
use crate::http1::head::find_end;
use crate::http1::{BodyLength, Buffer, Decoder, MAX_FIELDS};
use crate::proxy::forward::{BodyError, Exchange, Failure, Gone, Reply, ReplyHead, RequestBody};
use crate::proxy::pace::Pace;
use crate::proxy::refusal::Refusal;
use crate::proxy::request::{Origin, Request};
use crate::proxy::sanitize::{write_decimal, write_head};
use crate::socket::Socket;
use crate::token::{Digest, Permission};
use crate::worker::alarm::Alarm;
use crate::worker::{PooledBuffer, PooledHead, RequestId, Worker};

/// What a connection does after its requests.
pub(super) enum Next {
    /// It has nothing more to read now.
    Idle,
    /// It is over.
    Close,
    /// It speaks HTTP/2 (RFC 9113 section 3.3, prior knowledge). What was received of it already.
    Http2 { received: Vec<u8> },
}

/// First bytes of HTTP/2, as far as they look like a request head.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// After a refusal, as much of an unread body is read and dropped so that the connection can go on; of a longer one the
/// connection closes.
const MAX_DRAINED_BYTES: u64 = 64 * 1024;

/// A piece of a reply up to this many bytes is copied behind the head: that costs less than handing two pieces to the
/// kernel.
const MAX_COPIED: usize = 8192;

/// How long that, or a client's answer to our closing, may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Serves requests until nothing more is there to read. `fresh`: nothing was received on the connection yet.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    alarm: &Alarm,
    socket: &Socket,
    origin: Origin,
    fresh: &mut bool,
) -> Next {
    let mut connection = Connection { worker, alarm, socket, origin, buffer: worker.buffer() };
    loop {
        let end = match connection.receive_head().await {
            Received::Head(end) => end,
            Received::Nothing => return Next::Idle,
            Received::Closed => return Next::Close,
            Received::Refused(refusal) => {
                connection.refuse_head(refusal).await;
                return Next::Close;
            }
        };
        if *fresh && !origin.secure && connection.buffer.filled().starts_with(HTTP2_PREFACE) {
            return Next::Http2 { received: connection.buffer.filled().to_vec() };
        }
        *fresh = false;
        if connection.serve_one(end).await == After::Close {
            return Next::Close;
        }
    }
}

struct Connection<'a> {
    worker: &'a Rc<Worker>,
    alarm: &'a Alarm,
    socket: &'a Socket,
    origin: Origin,
    buffer: PooledBuffer,
}

enum Received {
    /// A head that ends here in the buffer.
    Head(usize),
    Nothing,
    Closed,
    Refused(Refusal),
}

#[derive(PartialEq, Eq)]
enum After {
    KeepAlive,
    Close,
}

/// A request that was admitted, as far as it matters after its head.
struct Admitted {
    upstream: UpstreamName,
    credential: Option<(Digest, Permission)>,
}

/// What is known of a request once its head was read, however it was decided.
struct Prepared {
    summary: Summary,
    /// `None`: where the body ends cannot be told.
    body: Option<BodyLength>,
    minor_version: u8,
    to_head: bool,
    repeatable: bool,
    expects_continue: bool,
    close: bool,
    decision: Result<Admitted, Refusal>,
}

impl Connection<'_> {
    async fn receive_head(&mut self) -> Received {
        let max = self.worker.gate.limits.max_head_bytes.get();
        let mut scanned = 0;
        let mut begun = false;
        loop {
            // RFC 9112 section 2.2: an empty line before a request is ignored.
            while scanned == 0 && self.buffer.filled().starts_with(b"\r\n") {
                self.buffer.consume(2);
            }
            match find_end(self.buffer.filled(), &mut scanned) {
                Ok(Some(end)) if end <= max => return Received::Head(end),
                Ok(None) if self.buffer.filled().len() < max => {}
                Ok(_) => return Received::Refused(Refusal::HeadTooLarge),
                Err(error) => return Received::Refused(error.into()),
            }
            if !self.buffer.is_empty() && !begun {
                begun = true;
                self.alarm.set(self.worker.gate.timeouts.request_head);
            }
            let read = match begun {
                true => self.alarm.race(self.socket.read(&mut self.buffer)).await.map(|read| read.map(Some)),
                false => Ok(self.socket.read_now(&mut self.buffer).await),
            };
            match read {
                Ok(Ok(Some(0)) | Err(_)) => return Received::Closed,
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Received::Nothing,
                Err(_) => return Received::Refused(Refusal::Timeout),
            }
        }
    }

    async fn serve_one(&mut self, end: usize) -> After {
        let mut head = self.worker.head();
        let prepared =
            prepare(self.worker, self.origin, self.buffer.filled().get(..end).unwrap_or_default(), &mut head);
        self.buffer.consume(end);
        match prepared.decision {
            Ok(ref admitted) => self.forward(&prepared, admitted, &mut head).await,
            Err(ref refusal) => self.refuse(&prepared, refusal, prepared.body).await,
        }
    }

    async fn forward(&mut self, prepared: &Prepared, admitted: &Admitted, head: &mut Vec<u8>) -> After {
        let length = prepared.body.unwrap_or(BodyLength::Known(0));
        let admission = admitted.credential.map(|(digest, permission)| self.alarm.admit(digest, permission));
        let close = prepared.close || self.worker.is_draining();
        let mut reply = Http1Reply::new(self.worker, self.alarm, self.socket, close, prepared.minor_version == 0);
        if prepared.expects_continue && self.buffer.is_empty() && length != BodyLength::Known(0) {
            reply.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            if reply.write(b"").await.is_err() {
                return After::Close;
            }
        }
        let mut body = Http1Body::new(self.worker, self.socket, &mut self.buffer, length);
        let mut exchange = Exchange {
            worker: self.worker,
            alarm: self.alarm,
            upstream: admitted.upstream,
            head,
            body_length: length,
            repeatable: prepared.repeatable,
            to_head: prepared.to_head,
        };
        let outcome = exchange.run(&mut body, &mut reply).await;
        drop(admission); // what is said about it now must reach the client
        let rest = body.rest();
        let (begun, close) = (reply.begun, reply.close);
        match outcome {
            Ok(completed) => {
                prepared.summary.log(completed.status, "served");
                match completed.body_read {
                    true if !close => After::KeepAlive,
                    true => self.finish().await,
                    false => self.linger().await,
                }
            }
            Err(Failure::Refused(refusal)) if !begun => self.refuse(prepared, &refusal, rest).await,
            Err(failure) => {
                prepared.summary.log(0, "cut");
                tracing::debug!(request_id = prepared.summary.id.as_str(), %failure, "connection cut");
                self.socket.reset();
                After::Close
            }
        }
    }

    /// Answers with a refusal. `rest` is what is left of the request's body, if that can be told.
    async fn refuse(&mut self, prepared: &Prepared, refusal: &Refusal, rest: Option<BodyLength>) -> After {
        prepared.summary.log(refusal.status(), refusal.reason());
        let drainable = match rest {
            Some(BodyLength::Known(0)) => true,
            // A client that waits for 100 will send its body or not: nobody can tell what its next bytes are.
            _ if prepared.expects_continue => false,
            Some(BodyLength::Known(length)) => length <= MAX_DRAINED_BYTES,
            Some(BodyLength::Chunked) => true,
            Some(BodyLength::UntilClose) | None => false,
        };
        let close = prepared.close || !drainable || refusal.ends_connection() || self.worker.is_draining();
        let mut reply = Http1Reply::new(self.worker, self.alarm, self.socket, close, false);
        let (id, date) = (prepared.summary.id.as_bytes(), self.worker.date());
        refusal.write_http1(id, date.as_bytes(), close, prepared.to_head, &mut reply.out);
        if reply.write(b"").await.is_err() {
            return After::Close;
        }
        match rest {
            Some(BodyLength::Known(0)) if close => self.finish().await,
            Some(BodyLength::Known(0)) => After::KeepAlive,
            Some(length) if !close && self.drain(length).await => After::KeepAlive,
            _ => self.linger().await,
        }
    }

    /// Refuses what is not even a whole head.
    async fn refuse_head(&mut self, refusal: Refusal) {
        let summary = Summary::new(self.worker.request_id());
        let nothing = Prepared::undecided(summary, refusal.clone());
        self.refuse(&nothing, &refusal, None).await;
    }

    /// Reads and drops the rest of a body. Whether its end was found.
    async fn drain(&mut self, length: BodyLength) -> bool {
        let mut body = Http1Body::new(self.worker, self.socket, &mut self.buffer, length);
        body.limit = MAX_DRAINED_BYTES;
        body.pace = Pace::within(DRAIN_TIME);
        loop {
            match body.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Closes after a complete reply. TLS must say that it ends (RFC 8446 section 6.1): whoever cut the connection could
    /// not. Without TLS, closing says it.
    async fn finish(&self) -> After {
        if self.origin.secure {
            self.alarm.set(DRAIN_TIME);
            // It closes anyway; an error here says no more than that.
            drop(self.alarm.race(self.socket.shutdown()).await);
        }
        After::Close
    }

    /// Closes without destroying the reply: closing over unread bytes would reset the connection (RFC 9112 section 9.6).
    async fn linger(&mut self) -> After {
        self.alarm.set(DRAIN_TIME);
        drop(self.alarm.race(self.socket.shutdown()).await);
        let mut dropped = 0;
        while dropped < MAX_DRAINED_BYTES * 4 {
            let unread = self.buffer.filled().len();
            self.buffer.consume(unread);
            match self.alarm.race(self.socket.read(&mut self.buffer)).await {
                Ok(Ok(0) | Err(_)) | Err(_) => break,
                Ok(Ok(count)) => dropped += count as u64,
            }
        }
        After::Close
    }
}

impl Prepared {
    fn undecided(summary: Summary, refusal: Refusal) -> Self {
        Self {
            summary,
            body: None,
            minor_version: 1,
            to_head: false,
            repeatable: false,
            expects_continue: false,
            close: true,
            decision: Err(refusal),
        }
    }
}

/// Parses a head, decides over the request and, if it is admitted, writes the upstream's head to `out`.
fn prepare(worker: &Worker, origin: Origin, bytes: &[u8], out: &mut Vec<u8>) -> Prepared {
    let mut summary = Summary::new(worker.request_id());
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let most = worker.gate.limits.max_headers.get().min(MAX_FIELDS);
    let mut head = httparse::Request::new(&mut []);
    let parsed = head.parse_with_uninit_headers(bytes, fields.get_mut(..most).unwrap_or_default());
    if let Err(error) = parsed {
        return Prepared::undecided(summary, malformed(error, bytes));
    }
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version) else {
        return Prepared::undecided(summary, Refusal::Malformed("the request line is not complete"));
    };
    let request = match Request::http1(method, target, minor_version, head.headers, origin) {
        Ok(request) => request,
        Err(refusal) => return Prepared::undecided(summary, refusal),
    };
    if let Some(id) = request.found.request_id.value().filter(|_| origin.trusted).and_then(RequestId::from_proxy) {
        summary.id = id;
    }
    summary.name(method, request.path);
    let too_large =
        matches!(request.body, BodyLength::Known(length) if length > worker.gate.limits.max_body_bytes.get());
    let permit = if too_large { Err(Refusal::BodyTooLarge) } else { worker.gate.admit(&request) };
    let decision = permit.map(|permit| {
        summary.token = permit.holder.as_ref().map(|admission| admission.holder.token);
        write_head(out, &request, &permit, &worker.upstream(permit.upstream).upstream, &summary.id);
        let credential = permit.holder.as_ref().map(|admission| (admission.digest, admission.permission));
        Admitted { upstream: permit.upstream, credential }
    });
    Prepared {
        summary,
        body: Some(request.body),
        minor_version,
        to_head: method == "HEAD",
        repeatable: matches!(method, "GET" | "HEAD"),
        expects_continue: request.found.expects_continue && minor_version == 1,
        close: request.found.close || minor_version == 0,
        decision,
    }
}

fn malformed(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::Version if names_a_version(bytes) => Refusal::Version,
        httparse::Error::HeaderName => Refusal::Malformed("a field name is not a token"),
        httparse::Error::HeaderValue => Refusal::Malformed("a field value has a control character"),
        _ => Refusal::Malformed("the request line is not valid"),
    }
}

/// Whether a request line has three words and the last is a version. If not, a space is where none may be: another
/// version of HTTP is not what is wrong.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    words.next().is_some_and(|version| version.starts_with(b"HTTP/")) && words.next().is_none()
}

/// A request's body on the connection.
struct Http1Body<'a> {
    worker: &'a Rc<Worker>,
    socket: &'a Socket,
    buffer: &'a mut Buffer,
    decoder: Decoder,
    /// Bytes of data that may still come.
    limit: u64,
    pace: Pace,
    /// Its waits are its own: the reply may be flowing already. Made when it first waits.
    alarm: Option<Alarm>,
    /// Length of the piece that was handed out.
    lent: usize,
}

impl<'a> Http1Body<'a> {
    fn new(worker: &'a Rc<Worker>, socket: &'a Socket, buffer: &'a mut Buffer, length: BodyLength) -> Self {
        let limit = worker.gate.limits.max_body_bytes.get();
        Self {
            worker,
            socket,
            buffer,
            decoder: Decoder::new(length),
            limit,
            pace: Pace::new(worker),
            alarm: None,
            lent: 0,
        }
    }

    /// What is left of the body; `None` when only the chunked coding could tell, from the middle of it.
    fn rest(self) -> Option<BodyLength> {
        self.buffer.consume(self.lent);
        match self.decoder.remaining() {
            _ if self.decoder.is_done() => Some(BodyLength::Known(0)),
            Some(remaining) => Some(BodyLength::Known(remaining)),
            None if self.decoder.is_untouched() => Some(BodyLength::Chunked),
            None => None,
        }
    }

    async fn receive(&mut self) -> Result<(), BodyError> {
        let alarm = self.alarm.get_or_insert_with(|| Alarm::new(self.worker));
        match self.pace.wait(self.worker, alarm, self.socket.read(self.buffer)).await {
            Ok(Ok(0) | Err(_)) => Err(BodyError::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(BodyError::Slow),
        }
    }
}

impl RequestBody for Http1Body<'_> {
    fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    fn take_whole(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(data) = self.decoder.take_remaining(self.buffer.filled()) else { return false };
        out.extend_from_slice(data);
        let count = data.len();
        self.buffer.consume(count);
        true
    }

    async fn next(&mut self) -> Result<Option<&[u8]>, BodyError> {
        self.buffer.consume(std::mem::take(&mut self.lent));
        loop {
            match self.decoder.next(self.buffer.filled()).map_err(|_| BodyError::Broken)? {
                Piece::Framing(count) => self.buffer.consume(count),
                Piece::Data(count) => {
                    self.limit = self.limit.checked_sub(count as u64).ok_or(BodyError::TooLarge)?;
                    self.lent = count;
                    return Ok(self.buffer.filled().get(..count));
                }
                Piece::End => return Ok(None),
                Piece::More => self.receive().await?,
            }
        }
    }
}

/// A reply on the connection.
struct Http1Reply<'a> {
    worker: &'a Rc<Worker>,
    alarm: &'a Alarm,
    socket: &'a Socket,
    /// What was not sent yet.
    out: PooledHead,
    pace: Pace,
    begun: bool,
    chunked: bool,
    close: bool,
    is_http10: bool,
}

impl<'a> Http1Reply<'a> {
    fn new(worker: &'a Rc<Worker>, alarm: &'a Alarm, socket: &'a Socket, close: bool, is_http10: bool) -> Self {
        let pace = Pace::new(worker);
        Self { worker, alarm, socket, out: worker.head(), pace, begun: false, chunked: false, close, is_http10 }
    }

    /// Sends what was held back, and this after it.
    async fn write(&mut self, mut data: &[u8]) -> Result<(), Gone> {
        let mut held = self.out.as_slice();
        while !held.is_empty() || !data.is_empty() {
            let write = self.socket.write_some(&mut held, &mut data);
            self.pace.wait(self.worker, self.alarm, write).await?.map_err(|_| Gone::Closed)?;
        }
        self.out.clear();
        let flush = async { self.socket.flush().await.map(|()| 0) };
        self.pace.wait(self.worker, self.alarm, flush).await?.map_err(|_| Gone::Closed)?;
        Ok(())
    }
}

impl Reply for Http1Reply<'_> {
    fn begin(&mut self, head: &ReplyHead<'_>) -> Result<(), Gone> {
        self.begun = true;
        let out = &mut *self.out;
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, head.status.into());
        for part in [b" ", head.phrase.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
        for field in head.kept() {
            for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        match head.body {
            BodyLength::Known(0) if head.is_bodiless() => {}
            BodyLength::Known(length) => {
                out.extend_from_slice(b"Content-Length: ");
                write_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            // HTTP/1.0 does not know chunks; its replies end with the connection.
            BodyLength::Chunked | BodyLength::UntilClose if self.is_http10 => self.close = true,
            BodyLength::Chunked | BodyLength::UntilClose => {
                self.chunked = true;
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
        }
        out.extend_from_slice(if self.close { b"Connection: close\r\n\r\n".as_slice() } else { b"\r\n" });
        Ok(())
    }

    async fn data(&mut self, data: &[u8]) -> Result<(), Gone> {
        use std::io::Write as _;
        if !self.chunked && data.len() > MAX_COPIED {
            return self.write(data).await;
        }
        if !self.chunked {
            self.out.extend_from_slice(data);
            return Ok(());
        }
        // Writing to a Vec cannot fail.
        drop(write!(self.out, "{:x}\r\n", data.len()));
        self.out.extend_from_slice(data);
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.out.is_empty() { Ok(()) } else { self.write(b"").await }
    }

    async fn end(&mut self) -> Result<(), Gone> {
        if self.chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.flush().await
    }
}
