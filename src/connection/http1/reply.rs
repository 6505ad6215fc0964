//! Writing a reply on a connection of HTTP/1.

use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::proxy::Proxy;
use crate::proxy::body::Relayed;
use crate::proxy::exchange::Exchange;
use crate::proxy::pace::Pace;
use crate::proxy::refusal::Refusal;
use crate::socket::Socket;
use crate::worker::alarm::Interrupt;
use crate::worker::{Pooled, Worker};

/// A piece of a reply up to this many bytes is copied behind the head: that costs less than handing two pieces to the
/// kernel.
const MAX_COPIED: usize = 8192;

/// Why a reply did not reach the client whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsent {
    #[error("the client closed the connection during the reply")]
    Closed,
    #[error("the client reads too slowly, or is no longer permitted to: {0}")]
    Interrupted(#[from] Interrupt),
    #[error("the upstream's reply broke off")]
    Broken,
    #[error(
        "a reply of unknown length in HTTP/1.0 ends with the connection, and on a Unix socket one that broke off would look whole: speak HTTP/1.1"
    )]
    NoEnd,
}

/// Writes one reply.
pub(super) struct ReplyWriter<'a> {
    worker: &'a Worker,
    socket: &'a Rc<Socket>,
    exchange: &'a Exchange,
    /// What was not sent yet.
    out: Pooled<Vec<u8>>,
    pace: Pace,
    /// The connection ends with the reply.
    pub(super) close: bool,
    chunked: bool,
}

/// Until it is disarmed, a reply is not whole: if its connection ends now, that must not look like the reply's end.
struct Unfinished<'a>(Option<&'a Socket>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            socket.reset();
        }
    }
}

impl<'a> ReplyWriter<'a> {
    pub(super) fn new(socket: &'a Rc<Socket>, exchange: &'a Exchange, close: bool) -> Self {
        let Proxy { worker, gate, .. } = &*exchange.proxy;
        Self { worker, socket, exchange, out: worker.head(), pace: Pace::new(gate), close, chunked: false }
    }

    pub(super) async fn refuse(&mut self, refusal: &Refusal, to_head: bool) -> Result<(), Unsent> {
        let id = self.exchange.id();
        let date = self.worker.date();
        refusal.write_http1(id.as_bytes(), date.as_bytes(), self.close, to_head, &mut self.out);
        self.flush(b"").await
    }

    /// Writes the upstream's reply as it comes.
    pub(super) async fn relay(
        &mut self,
        reply: Response<Relayed>,
        to_head: bool,
        is_http10: bool,
    ) -> Result<(), Unsent> {
        let socket = Rc::clone(self.socket);
        let mut unfinished = Unfinished(Some(&socket));
        let (parts, mut body) = reply.into_parts();
        let ends_with_connection = is_http10 && !body.is_end_stream() && body.size_hint().exact().is_none();
        if ends_with_connection && !self.socket.can_reset() {
            return Err(Unsent::NoEnd);
        }
        self.head(&parts, body.size_hint().exact(), to_head, is_http10);
        self.worker.put_fields(parts.headers);
        if ends_with_connection {
            // However this process ends, what was cut must not look whole.
            self.socket.reset();
        }
        while !body.is_end_stream() {
            let Some(data) = self.next(&mut body).await? else { break };
            self.data(&data).await?;
        }
        if self.chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.flush(b"").await?;
        unfinished.0 = None;
        if ends_with_connection {
            self.socket.end_cleanly();
        }
        Ok(())
    }

    fn head(&mut self, parts: &http::response::Parts, length: Option<u64>, to_head: bool, is_http10: bool) {
        let out = &mut *self.out;
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        let phrase = match parts.extensions.get::<ReasonPhrase>() {
            Some(phrase) => phrase.as_bytes(),
            None => parts.status.canonical_reason().unwrap_or_default().as_bytes(),
        };
        put(&[b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" ", phrase, b"\r\n"]);
        // Where there is no body, it says how long one would be.
        let bodiless = to_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let keeps_length = to_head || parts.status == StatusCode::NOT_MODIFIED;
        for (name, value) in &parts.headers {
            if name != header::CONTENT_LENGTH || keeps_length {
                put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        match length {
            _ if bodiless => {}
            Some(length) => {
                put(&[b"content-length: "]);
                write_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            // HTTP/1.0 does not know chunks; its replies end with the connection.
            None if is_http10 => self.close = true,
            None => {
                self.chunked = true;
                put(&[b"transfer-encoding: chunked\r\n"]);
            }
        }
        self.out.extend_from_slice(if self.close { b"connection: close\r\n\r\n".as_slice() } else { b"\r\n" });
    }

    /// The next piece. While it does not come, what was held back is sent.
    async fn next(&mut self, body: &mut Relayed) -> Result<Option<Bytes>, Unsent> {
        loop {
            let held = !self.out.is_empty();
            let frame = poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending if held => Poll::Ready(None),
                frame => frame.map(Some),
            });
            match frame.await {
                // Trailers end here.
                Some(Some(Ok(frame))) => return Ok(frame.into_data().ok()),
                Some(Some(Err(_))) => return Err(Unsent::Broken),
                Some(None) => return Ok(None),
                None => self.flush(b"").await?,
            }
        }
    }

    async fn data(&mut self, data: &[u8]) -> Result<(), Unsent> {
        if self.chunked {
            // Writing to a Vec cannot fail.
            drop(write!(self.out, "{:x}\r\n", data.len()));
        }
        if data.len() > MAX_COPIED {
            self.flush(data).await?;
        } else {
            self.out.extend_from_slice(data);
        }
        if self.chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        // Small pieces in quick succession go out together, but not without end.
        if self.out.len() > MAX_COPIED * 2 { self.flush(b"").await } else { Ok(()) }
    }

    /// Sends what was held back, and this after it.
    async fn flush(&mut self, mut data: &[u8]) -> Result<(), Unsent> {
        let Self { socket, exchange, out, pace, .. } = self;
        let mut held = out.as_slice();
        loop {
            // With nothing left, a write flushes; TLS may still hold some of it.
            let flushed = held.is_empty() && data.is_empty();
            let write = poll_fn(|context| {
                let written = socket.poll_write(context, &mut held, &mut data);
                pace.poll(&exchange.alarm, context, written)
            });
            write.await?.map_err(|_| Unsent::Closed)?;
            if flushed {
                break;
            }
        }
        self.out.clear();
        Ok(())
    }
}

/// A number in decimal digits, without the machinery of formatting.
fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}
