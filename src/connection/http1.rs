//! HTTP/1.0 and 1.1 on a client connection (RFC 9112): the gate. It reads one head at a time, strictly, hands the request
//! on, writes the reply, and holds nothing while it waits for the next.

mod body;
mod reply;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};

use crate::http1::head::find_end;
use crate::http1::{BodyLength, Buffer};
use crate::proxy::body::{Relayed, Source as _, Upload};
use crate::proxy::exchange::Exchange;
use crate::proxy::refusal::Refusal;
use crate::proxy::request::{Head, Origin};
use crate::proxy::tally::Outcome;
use crate::proxy::{self, Current, Proxy};
use crate::socket::{Hangup, Socket};
use crate::worker::Pooled;
use crate::worker::alarm::Alarm;
use body::Body;
use reply::{ReplyWriter, Unsent};

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

/// How long that, or a client's answer to our closing, may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A body that came with its head, up to this size, is copied together with it.
const COPIED_AHEAD: usize = 2048;

/// How long a client that sends no more may still wait for its reply. It has probably left (an agent that gives up closes),
/// and every reply that nobody waits for costs the Controller one that somebody does.
const HALF_CLOSED_TIME: Duration = Duration::from_secs(1);

/// How often a client is looked after while nothing can be read from it.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Serves requests until nothing more is there to read. `fresh`: nothing was received on the connection yet.
pub(super) async fn serve(
    current: &Current,
    alarm: &Alarm,
    socket: &Rc<Socket>,
    origin: &Origin,
    fresh: &mut bool,
) -> Next {
    let buffer = RefCell::new(current.worker.buffer());
    let inbound = Rc::new(Inbound { socket: Rc::clone(socket), buffer });
    let mut connection = Connection { proxy: current.proxy(), alarm, inbound, origin };
    loop {
        let end = match connection.receive_head().await {
            Received::Head(end) => end,
            Received::Nothing => return Next::Idle,
            Received::Closed => return Next::Close,
            Received::Refused(refusal) => {
                // What is not even a whole head.
                let exchange = Exchange::new(&connection.proxy, origin.clone());
                connection.refuse(&exchange, &refusal, &Asked::nothing()).await;
                return Next::Close;
            }
        };
        // With TLS it would have been agreed on in the handshake (RFC 9113 section 3.2).
        if *fresh && !origin.secure {
            let buffer = connection.inbound.buffer.borrow();
            if buffer.filled().starts_with(HTTP2_PREFACE) {
                return Next::Http2 { received: buffer.filled().to_vec() };
            }
        }
        *fresh = false;
        if connection.serve_one(end).await == After::Close {
            return Next::Close;
        }
        connection.proxy = current.proxy();
    }
}

/// The receiving side of a connection: what was read of it, and where more comes from. Shared with the body that is read.
struct Inbound {
    socket: Rc<Socket>,
    buffer: RefCell<Pooled<Buffer>>,
}

impl Inbound {
    fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_read(context, &mut self.buffer.borrow_mut())
    }

    async fn fill(&self) -> io::Result<usize> {
        poll_fn(|context| self.poll_fill(context)).await
    }

    /// Like [`Inbound::fill`], without waiting: `None` when there is nothing yet.
    async fn fill_now(&self) -> io::Result<Option<usize>> {
        poll_fn(|context| match self.poll_fill(context) {
            Poll::Ready(result) => Poll::Ready(result.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        })
        .await
    }
}

struct Connection<'a> {
    /// That of the next request, or of the one that is served.
    proxy: Rc<Proxy>,
    alarm: &'a Alarm,
    inbound: Rc<Inbound>,
    origin: &'a Origin,
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

/// What matters of a request once it was handed on.
struct Asked {
    minor_version: u8,
    to_head: bool,
    expects_continue: bool,
    close: bool,
    /// The body, where it was not there whole.
    body: Option<Body>,
    /// Where the request ends is not known.
    endless: bool,
}

impl Connection<'_> {
    async fn receive_head(&self) -> Received {
        let max = self.proxy.gate.limits.max_head_bytes.get().min(self.inbound.buffer.borrow().size());
        let mut scanned = 0;
        let mut begun = false;
        loop {
            {
                let mut buffer = self.inbound.buffer.borrow_mut();
                // RFC 9112 section 2.2: an empty line before a request is ignored.
                while scanned == 0 && buffer.filled().starts_with(b"\r\n") {
                    buffer.consume(2);
                }
                match find_end(buffer.filled(), &mut scanned) {
                    Ok(Some(end)) if end <= max => return Received::Head(end),
                    Ok(None) if buffer.filled().len() < max => {}
                    Ok(_) => return Received::Refused(Refusal::HeadTooLarge),
                    Err(error) => return Received::Refused(error.into()),
                }
                if buffer.is_empty() && begun {
                    return Received::Nothing; // an empty line that came in two pieces
                }
                if !buffer.is_empty() && !begun {
                    begun = true;
                    self.alarm.set(self.proxy.gate.timeouts.request_head);
                }
            }
            let read = match begun {
                true => self.alarm.race(self.inbound.fill()).await.map(|read| read.map(Some)),
                false => Ok(self.inbound.fill_now().await),
            };
            match read {
                Ok(Ok(Some(0)) | Err(_)) => return Received::Closed,
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Received::Nothing,
                Err(_) => return Received::Refused(Refusal::Timeout),
            }
        }
    }

    async fn serve_one(&self, end: usize) -> After {
        let exchange = Exchange::new(&self.proxy, self.origin.clone());
        let (mut request, asked) = match self.read(end) {
            Ok(read) => read,
            Err(refusal) => return self.refuse(&exchange, &refusal, &Asked::nothing()).await,
        };
        let outcome = {
            let call = pin!(proxy::call(&exchange, &mut request));
            self.while_client_stays(call, &asked, None).await
        };
        let Some(outcome) = outcome else { return After::Close };
        match outcome {
            Ok(reply) => self.deliver(&exchange, reply, &asked).await,
            Err(refusal) if refusal.is_silent() => {
                exchange.end(0, Outcome::Refused(refusal.reason()));
                After::Close
            }
            Err(refusal) => self.refuse(&exchange, &refusal, &asked).await,
        }
    }

    /// Takes the head that ends here, and its body as far as it is there, out of the buffer.
    fn read(&self, end: usize) -> Result<(Request<Upload>, Asked), Refusal> {
        let limits = &self.proxy.gate.limits;
        let mut buffer = self.inbound.buffer.borrow_mut();
        // One copy, which all field values share.
        let taken = buffer.filled().get(..buffer.filled().len().min(end + COPIED_AHEAD)).unwrap_or_default();
        let taken = Bytes::copy_from_slice(taken);
        buffer.consume(end);
        let head = Head::http1(&taken.slice(..end), limits.max_headers.get(), self.proxy.worker.fields())?;
        let within_limit = head.body.exact().filter(|length| *length <= limits.max_body_bytes.get());
        let whole = within_limit.and_then(|length| buffer.filled().get(..usize::try_from(length).ok()?));
        let mut asked = Asked {
            minor_version: u8::from(head.parts.version != http::Version::HTTP_10),
            to_head: head.parts.method == Method::HEAD,
            expects_continue: head.expects_continue,
            close: head.close,
            body: None,
            endless: false,
        };
        let upload = match whole {
            Some(whole) => {
                let length = whole.len();
                let copied = taken.slice(end..);
                let data = if length <= copied.len() { copied.slice(..length) } else { Bytes::copy_from_slice(whole) };
                buffer.consume(length);
                Upload::whole(data)
            }
            None => {
                drop(buffer); // the body looks into it
                let body = asked.body.insert(Body::new(&self.proxy, &self.inbound, head.body, head.expects_continue));
                Upload::streamed(Box::new(body.clone()), head.body.exact(), limits.max_body_bytes.get())
            }
        };
        Ok((Request::from_parts(head.parts, upload), asked))
    }

    /// Waits for the reply, or for its end (that of `replying`), while the client is there. `None`: it left.
    async fn while_client_stays<F: Future>(
        &self,
        mut call: Pin<&mut F>,
        asked: &Asked,
        replying: Option<&Exchange>,
    ) -> Option<F::Output> {
        self.alarm.clear();
        let mut client = Client { connection: self, asked, half_closed: false, replying, received: 0 };
        poll_fn(|context| match call.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => client.poll_left(context).map(|()| None),
        })
        .await
    }

    async fn deliver(&self, exchange: &Exchange, reply: Response<Relayed>, asked: &Asked) -> After {
        // Where the body was not read to its end, what follows on the connection is no request.
        let leaves_upload = reply.body().leaves_upload();
        let close = asked.close || leaves_upload || self.proxy.worker.is_draining();
        let mut writer = ReplyWriter::new(&self.inbound.socket, exchange, close);
        let relayed = {
            let relay = pin!(writer.relay(reply, asked.to_head, asked.minor_version == 0));
            self.while_client_stays(relay, asked, Some(exchange)).await.unwrap_or(Err(Unsent::Closed))
        };
        match relayed {
            Ok(()) if leaves_upload => self.linger().await,
            Ok(()) if writer.close => self.finish().await,
            Ok(()) => After::KeepAlive,
            Err(reason) => {
                tracing::debug!(request_id = exchange.id().as_str(), %reason, "connection cut");
                self.inbound.socket.reset();
                After::Close
            }
        }
    }

    async fn refuse(&self, exchange: &Exchange, refusal: &Refusal, asked: &Asked) -> After {
        exchange.end(refusal.status(), Outcome::Refused(refusal.reason()));
        let rest = asked.rest();
        let drainable = match rest {
            Some(BodyLength::Known(0)) => true,
            // A client that waits for 100 will send its body or not: nobody can know what its next bytes are.
            _ if asked.expects_continue => false,
            Some(BodyLength::Known(length)) => length <= MAX_DRAINED_BYTES,
            Some(BodyLength::Chunked) => true,
            None => false,
        };
        let close = asked.close || !drainable || refusal.ends_connection() || self.proxy.worker.is_draining();
        let mut writer = ReplyWriter::new(&self.inbound.socket, exchange, close);
        if writer.refuse(refusal, asked.to_head).await.is_err() {
            return After::Close;
        }
        match (rest, &asked.body) {
            (Some(BodyLength::Known(0)), _) if close => self.finish().await,
            (Some(BodyLength::Known(0)), _) => After::KeepAlive,
            (Some(_), Some(body)) if !close && self.drain(body.clone()).await => After::KeepAlive,
            _ => self.linger().await,
        }
    }

    /// Reads and drops the rest of a body. Whether its end was found.
    async fn drain(&self, mut body: Body) -> bool {
        let mut left = MAX_DRAINED_BYTES;
        self.alarm.set(DRAIN_TIME);
        let drained = self.alarm.race(async {
            loop {
                match poll_fn(|context| body.poll_data(context)).await {
                    Some(Ok(data)) if data.len() as u64 <= left => left -= data.len() as u64,
                    Some(_) => return false,
                    None => return true,
                }
            }
        });
        drained.await.unwrap_or(false)
    }

    /// Closes after a complete reply. TLS must say that it ends (RFC 8446 section 6.1): whoever cut the connection could
    /// not. Without TLS, closing says it, unless something is there that nobody read: then closing would reset the connection.
    async fn finish(&self) -> After {
        let unread = !self.inbound.buffer.borrow().is_empty();
        if unread || matches!(self.inbound.fill_now().await, Ok(Some(1..))) {
            return self.linger().await;
        }
        if self.origin.secure {
            self.alarm.set(DRAIN_TIME);
            // It closes anyway; an error here says no more than that.
            drop(self.alarm.race(self.inbound.socket.shutdown()).await);
        }
        After::Close
    }

    /// Closes without destroying the reply: closing over unread bytes would reset the connection (RFC 9112 section 9.6).
    async fn linger(&self) -> After {
        self.alarm.set(DRAIN_TIME);
        if self.alarm.race(self.inbound.socket.shutdown()).await.is_err() {
            return After::Close; // its time is up
        }
        let mut dropped = 0;
        // Nobody waits for this, so it may be more than what keeps a connection.
        while dropped < MAX_DRAINED_BYTES * 4 {
            {
                let mut buffer = self.inbound.buffer.borrow_mut();
                let unread = buffer.filled().len();
                buffer.consume(unread);
            }
            match self.alarm.race(self.inbound.fill()).await {
                Ok(Ok(0) | Err(_)) | Err(_) => break,
                Ok(Ok(count)) => dropped += count as u64,
            }
        }
        After::Close
    }
}

impl Asked {
    /// Of a request that could not be read: what follows cannot be separated from it.
    fn nothing() -> Self {
        Self { minor_version: 1, to_head: false, expects_continue: false, close: true, body: None, endless: true }
    }

    /// What is left of the body; `None`: that is not known.
    fn rest(&self) -> Option<BodyLength> {
        match &self.body {
            _ if self.endless => None,
            None => Some(BodyLength::Known(0)),
            Some(body) => body.rest(),
        }
    }
}

/// The client, while its request waits for a reply.
struct Client<'a> {
    connection: &'a Connection<'a>,
    asked: &'a Asked,
    /// It sends no more, and is given a moment.
    half_closed: bool,
    /// Its reply has begun: then it may take it to the end, for as long as the upstream goes on with it.
    replying: Option<&'a Exchange>,
    /// As much of it had come when the client was looked after last.
    received: usize,
}

impl Client<'_> {
    /// Ready once nobody waits for the reply any more.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Connection { alarm, inbound, .. } = self.connection;
        // While the body is read, that is where the connection's end shows; but nobody may be reading.
        let reading = self.asked.body.as_ref().is_some_and(|body| body.poll_done(context).is_pending());
        loop {
            if alarm.poll(context).is_ready() {
                match inbound.socket.hangup() {
                    Hangup::Gone => return Poll::Ready(()),
                    _ if self.half_closed && !self.goes_on() => return Poll::Ready(()),
                    _ if self.half_closed => alarm.set(HALF_CLOSED_TIME),
                    Hangup::Sending if !reading => self.end_soon(),
                    Hangup::Sending | Hangup::None => alarm.set(LOOK_INTERVAL),
                }
                continue;
            }
            let full = inbound.buffer.borrow_mut().room().is_empty();
            if reading || full || self.half_closed {
                if !alarm.is_set() {
                    alarm.set(LOOK_INTERVAL);
                    continue;
                }
                return Poll::Pending;
            }
            match inbound.poll_fill(context) {
                Poll::Ready(Ok(0)) => self.end_soon(),
                Poll::Ready(Ok(_)) => {} // the next request, ahead of its time
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the reply has moved since the last look, or waits for the client and not for the upstream.
    fn goes_on(&mut self) -> bool {
        let Some(exchange) = self.replying else { return false };
        let before = std::mem::replace(&mut self.received, exchange.received.get());
        !exchange.waiting.get() || self.received > before
    }

    fn end_soon(&mut self) {
        self.half_closed = true;
        self.connection.alarm.set(HALF_CLOSED_TIME);
    }
}
