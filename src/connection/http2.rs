//! HTTP/2 on a client connection (RFC 9113), by TLS and by prior knowledge, on hyper's server. Each stream is a request of
//! its own: decided, forwarded and cut off by itself.

mod body;
mod watch;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::Service;
use hyper_util::rt::TokioIo;

use super::FAREWELL_TIME;
use crate::http1::BodyLength;
use crate::proxy::body::Upload;
use crate::proxy::exchange::Exchange;
use crate::proxy::refusal::Refusal;
use crate::proxy::request::{Head, Origin};
use crate::proxy::tally::Outcome;
use crate::proxy::{self, Current, Gate};
use crate::socket::Stream;
use crate::worker::alarm::{Alarm, Ease, Interrupt, WorkerTime};
use crate::worker::panic::Guard;
use body::{Received, Reply};
use watch::Watched;

/// Bytes of a reply that wait in the connection, beside what waits for the client's window.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Bytes of a request's body that may be under way on one stream (RFC 9113's own default).
const STREAM_WINDOW: u32 = 65_535;

/// Streams that a client may reset before they are over, beyond those that it lets end: each may cost a connection to the
/// upstream, which HTTP/1 has no other way to take a request back from.
const MAX_RESETS: usize = 100;

/// A reply from this many bytes on may be on its way for a while after its stream is over.
const LARGE_REPLY: usize = 16 * 1024;

/// A stream ends without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no reply")]
struct Silence;

/// The streams of a connection that run.
struct Streams {
    current: Rc<Current>,
    origin: Origin,
    count: Cell<usize>,
    /// The connection's; runs while there is none.
    idle: Alarm,
    /// No new ones are wanted.
    closing: Cell<bool>,
    /// Until when a large reply may still be on its way to the client.
    delivering: Cell<Option<WorkerTime>>,
    /// Streams that were reset early, less those that ended.
    resets: Cell<usize>,
    /// The stream whose request was handed over just now, on its way to the task that serves it.
    begun: RefCell<Option<Rc<StreamState>>>,
}

/// What the task of a stream shares with the reply that passes through it.
struct StreamState {
    exchange: Rc<Exchange>,
    /// Its reply has begun: from here on whatever interrupts it cuts it off.
    replying: Cell<bool>,
}

/// One stream's slot among them.
struct StreamSlot(Rc<Streams>);

impl StreamSlot {
    fn take(streams: &Rc<Streams>) -> Self {
        streams.count.set(streams.count.get() + 1);
        streams.watch_idleness();
        Self(Rc::clone(streams))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.watch_idleness();
    }
}

impl Streams {
    fn is_idle(&self) -> bool {
        self.count.get() == 0
    }

    fn is_abused(&self) -> bool {
        self.resets.get() > MAX_RESETS
    }

    /// Sets the time until something has to happen.
    fn watch_idleness(&self) {
        match () {
            () if self.is_abused() => self.idle.set(Duration::ZERO),
            () if !self.is_idle() => self.idle.clear(),
            () if self.closing.get() => {
                let now = self.current.worker.alarms.now();
                let delivery = self.delivering.get().map_or(Duration::ZERO, |until| until.since(now));
                self.idle.set(delivery.max(FAREWELL_TIME));
            }
            () => self.idle.set(self.current.proxy().gate.timeouts.keep_alive),
        }
    }

    /// A stream is over.
    fn ended(&self, exchange: &Exchange) {
        // Large replies lie in hyper's buffers and the kernel's when their stream is over, and closing would destroy them.
        if exchange.received.get() >= LARGE_REPLY {
            self.delivering
                .set(Some(self.current.worker.alarms.now().after(self.current.proxy().gate.timeouts.body_grace)));
        }
        let resets = self.resets.get();
        self.resets.set(if exchange.is_settled() { resets.saturating_sub(1) } else { resets + 1 });
    }
}

/// Serves a connection until it closes. `received` is what was read of it already.
pub(super) async fn serve(current: Rc<Current>, alarm: Alarm, stream: Stream, received: Vec<u8>, origin: Origin) {
    let heads = Rc::new(Alarm::new(&current.worker));
    let gate = Arc::clone(&current.proxy().gate);
    let watched = Watched::new(stream, received, Rc::clone(&heads), gate.timeouts.request_head);
    alarm.set(gate.timeouts.request_head);
    // The first request is awaited no longer than in HTTP/1.
    alarm.ease(Ease::Told);
    let streams = Rc::new(Streams {
        current: Rc::clone(&current),
        origin,
        count: Cell::new(0),
        idle: alarm,
        closing: Cell::new(false),
        delivering: Cell::new(None),
        resets: Cell::new(0),
        begun: RefCell::new(None),
    });
    let connection =
        builder(&gate, &streams).serve_connection(TokioIo::new(watched), StreamService(Rc::clone(&streams)));
    drop(gate);
    let mut connection = pin!(connection);
    loop {
        match streams.idle.race(heads.race(connection.as_mut())).await {
            Ok(Ok(_)) => return,
            // A head drips.
            Ok(Err(_)) => break,
            Err(_) if streams.is_abused() => break,
            // The farewell was not answered.
            Err(Interrupt::Deadline) if streams.closing.get() && streams.is_idle() => return,
            Err(_) => {
                streams.closing.set(true);
                streams.idle.ease(Ease::Busy);
                streams.watch_idleness();
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    // It says that it ends, for as long as that takes at most; whatever runs ends with it.
    connection.as_mut().graceful_shutdown();
    streams.idle.ease(Ease::Busy);
    let farewell = Alarm::new(&current.worker);
    farewell.set(FAREWELL_TIME);
    drop(farewell.race(connection).await);
}

fn builder(gate: &Gate, streams: &Rc<Streams>) -> Builder<Tasks> {
    let limits = &gate.limits;
    let max_streams = u32::try_from(limits.max_streams.get()).unwrap_or(u32::MAX);
    let mut builder = Builder::new(Tasks(Rc::clone(streams)));
    builder
        .max_concurrent_streams(max_streams)
        // The codec refuses without a word what is over its limit, and counts 32 bytes more for each field than HTTP/1.1
        // needs (RFC 9113 section 6.5.2). So heads up to twice our limit get through it, to be refused with one.
        .max_header_list_size(u32::try_from(limits.max_head_bytes.get().saturating_mul(2)).unwrap_or(u32::MAX))
        // Nothing that a client sends is retained for its next request: it could be a token.
        .header_table_size(0)
        .initial_stream_window_size(STREAM_WINDOW)
        // Room for all: an upload that stalls holds up no other.
        .initial_connection_window_size(
            STREAM_WINDOW.saturating_mul(max_streams.saturating_add(1)).min(i32::MAX as u32),
        )
        .max_send_buf_size(MAX_SEND_BUFFER)
        .auto_date_header(false);
    builder
}

/// Hands each request on.
struct StreamService(Rc<Streams>);

impl Service<Request<Incoming>> for StreamService {
    type Response = Response<Reply>;
    type Error = Silence;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reply>, Silence>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if self.0.is_abused() {
            return Box::pin(std::future::ready(Err(Silence)));
        }
        let exchange = Exchange::new(&self.0.current.proxy(), self.0.origin.clone());
        let stream = Rc::new(StreamState { exchange, replying: Cell::new(false) });
        self.0.begun.replace(Some(Rc::clone(&stream)));
        Box::pin(serve_stream(stream, request))
    }
}

async fn serve_stream(stream: Rc<StreamState>, request: Request<Incoming>) -> Result<Response<Reply>, Silence> {
    let exchange = &stream.exchange;
    let to_head = *request.method() == Method::HEAD;
    let outcome = match read(exchange, request) {
        Ok(mut request) => {
            turn().await;
            proxy::call(exchange, &mut request).await
        }
        Err(refusal) => Err(refusal),
    };
    stream.replying.set(true);
    exchange.alarm.clear();
    match outcome {
        Ok(mut reply) => {
            mark_never_indexed(reply.headers_mut());
            Ok(reply.map(|body| Reply::relayed(body, exchange)))
        }
        Err(refusal) => {
            // Small as it is, a client may have no window for it, and never open one.
            exchange.alarm.set(exchange.proxy.gate.timeouts.body_grace);
            exchange.settle();
            exchange.end(refusal.status(), Outcome::Refused(refusal.reason()));
            if refusal.is_silent() { Err(Silence) } else { Ok(refused(exchange, &refusal, to_head)) }
        }
    }
}

/// Of a reply's fields that the codec retains for the next one (RFC 7541 section 2.3.2), each holds the buffer that it was read
/// into from the upstream: 8 KiB and more for an idle connection. It retains none that are marked like this.
fn mark_never_indexed(fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        value.set_sensitive(true);
    }
}

/// Lets hyper look at the stream: a client may have taken its request back at once, and then nothing is taken for it. (Not
/// tokio's `yield_now`: that turns the order of the streams round.)
async fn turn() {
    let mut turned = false;
    poll_fn(|context| {
        if std::mem::replace(&mut turned, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Checks a request's form.
fn read(exchange: &Rc<Exchange>, request: Request<Incoming>) -> Result<Request<Upload>, Refusal> {
    let limits = &exchange.proxy.gate.limits;
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let field_bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + 4;
    let bytes = target.len() + parts.headers.iter().map(field_bytes).sum::<usize>();
    if parts.headers.len() > limits.max_headers.get() || bytes > limits.max_head_bytes.get() {
        return Err(Refusal::HeadTooLarge);
    }
    let ended = hyper::body::Body::is_end_stream(&body);
    let head = Head::http2(parts, ended)?;
    if head.body == BodyLength::Known(0) {
        return Ok(Request::from_parts(head.parts, Upload::default()));
    }
    let source = Box::new(Received::new(exchange, body, head.expects_continue));
    Ok(Request::from_parts(head.parts, Upload::streamed(source, head.body.exact(), limits.max_body_bytes.get())))
}

fn refused(exchange: &Exchange, refusal: &Refusal, to_head: bool) -> Response<Reply> {
    let mut body = Vec::with_capacity(128);
    refusal.write_body(exchange.id().as_bytes(), &mut body);
    let mut reply = Response::builder().status(refusal.status());
    for (name, value) in refusal.fields() {
        reply = reply.header(name, value);
    }
    reply = reply.header("date", exchange.proxy.worker.date()).header("content-length", body.len());
    let reply = reply.body(Reply::Own(if to_head { bytes::Bytes::new() } else { body.into() }));
    // Every part of it is ours.
    reply.unwrap_or_else(|_| Response::new(Reply::Own(bytes::Bytes::new())))
}

/// Runs each stream as a task of its own, and ends it when it is interrupted within its reply: while the client takes
/// nothing, hyper does not ask for more of the reply, and so would not learn of it.
#[derive(Clone)]
struct Tasks(Rc<Streams>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let Some(stream) = self.0.begun.take() else { return };
        let slot = StreamSlot::take(&self.0);
        let guard = Guard::new(&self.0.current.worker.panics);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            let mut future = pin!(future);
            let cut = poll_fn(|context| {
                if future.as_mut().poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                match stream.replying.get() {
                    true => stream.exchange.alarm.poll(context).map(Some),
                    false => Poll::Pending,
                }
            });
            if let Some(interrupt) = cut.await {
                tracing::debug!(request_id = stream.exchange.id().as_str(), %interrupt, "stream cut");
            }
            slot.0.ended(&stream.exchange);
            drop(slot);
        });
    }
}
