//! HTTP/2 on a client connection (RFC 9113), by TLS and by prior knowledge. Each stream is a request of its own: admitted,
//! forwarded and cut off by itself.

mod watch;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use super::Summary;
use crate::http1::{BodyLength, Field};
use crate::proxy::forward::{BodyError, Exchange, Failure, Gone, Reply, ReplyHead, RequestBody};
use crate::proxy::pace::Pace;
use crate::proxy::refusal::Refusal;
use crate::proxy::request::{Origin, Request};
use crate::proxy::sanitize::write_head;
use crate::proxy::{Admission, Permit};
use crate::socket::Stream;
use crate::worker::alarm::{Alarm, Interrupt};
use crate::worker::{RequestId, Worker};
use watch::Watched;

/// Bytes of a reply that wait in the connection, beside what waits for the client's window.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// The streams of a connection that run.
struct Streams {
    count: Cell<usize>,
    /// The connection's; runs while there is none.
    idle: Alarm,
}

/// One stream's place among them.
struct Place(Rc<Streams>);

impl Place {
    fn take(streams: &Rc<Streams>) -> Self {
        streams.count.set(streams.count.get() + 1);
        streams.idle.clear();
        Self(Rc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Streams { count, idle } = &*self.0;
        count.set(count.get() - 1);
        if count.get() == 0 {
            idle.set(idle.worker().gate.timeouts.keep_alive);
        }
    }
}

/// Serves a connection until it closes. `received` is what was read of it already.
pub(super) async fn serve(worker: Rc<Worker>, alarm: Alarm, stream: Stream, received: Vec<u8>, origin: Origin) {
    let heads = Rc::new(Alarm::new(&worker));
    let watched = Watched::new(stream, received, Rc::clone(&heads), worker.gate.timeouts.request_head);
    let limits = &worker.gate.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(u32::try_from(limits.max_streams.get()).unwrap_or(u32::MAX))
        // The codec refuses without a word what is over its limit, and counts 32 bytes more for each field than HTTP/1.1
        // needs (RFC 9113 section 6.5.2). So heads up to twice our limit get through it, to be refused with one.
        .max_header_list_size(u32::try_from(limits.max_head_bytes.get().saturating_mul(2)).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_SEND_BUFFER);
    alarm.set(worker.gate.timeouts.request_head);
    let Ok(Ok(mut connection)) = alarm.race(builder.handshake::<_, Bytes>(watched)).await else { return };
    // The deadline goes on: the first request is awaited no longer than in HTTP/1.
    alarm.idle(true);
    let streams = Rc::new(Streams { count: Cell::new(0), idle: alarm });
    let mut closing = false;
    loop {
        match streams.idle.race(heads.race(connection.accept())).await {
            Ok(Ok(Some(Ok((request, respond))))) => {
                let place = Place::take(&streams);
                tokio::task::spawn_local(serve_stream(Rc::clone(&worker), origin, request, respond, place));
            }
            Ok(Ok(None | Some(Err(_)))) => return,
            Ok(Err(_)) => return connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            // Nothing runs, and the farewell was not answered.
            Err(_) if closing && streams.count.get() == 0 => return,
            Err(interrupt) => {
                closing |= interrupt == Interrupt::Drain || streams.count.get() == 0;
                if closing {
                    connection.graceful_shutdown();
                    streams.idle.idle(false);
                    if streams.count.get() == 0 {
                        streams.idle.set(worker.gate.timeouts.request_head);
                    }
                }
            }
        }
    }
}

async fn serve_stream(
    worker: Rc<Worker>,
    origin: Origin,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    _place: Place,
) {
    let alarm = Alarm::new(&worker);
    let (parts, body) = request.into_parts();
    let mut head = worker.head();
    let mut summary = Summary::new(worker.request_id());
    let to_head = parts.method == http::Method::HEAD;
    let decision = prepare(&worker, origin, &parts, body.is_end_stream(), &mut summary, &mut head);
    let sending = RefCell::new(Sending::Head(respond));
    let mut reply = Http2Reply::new(&worker, &alarm, &sending);
    let (permit, length) = match decision {
        Ok(decision) => decision,
        Err(refusal) => return reply.refuse(&refusal, &summary, to_head).await,
    };
    let admission = permit.holder.as_ref();
    let _admission = admission.map(|Admission { digest, permission, .. }| alarm.admit(*digest, *permission));
    let mut body = Http2Body::new(&worker, body);
    let mut exchange = Exchange {
        worker: &worker,
        alarm: &alarm,
        upstream: permit.upstream,
        head: &mut head,
        body_length: length,
        repeatable: matches!(parts.method, http::Method::GET | http::Method::HEAD),
        to_head,
    };
    let outcome = {
        let mut run = pin!(exchange.run(&mut body, &mut reply));
        let run_or_reset = poll_fn(|context| match run.as_mut().poll(context) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            // A client that gave up shall not leave work behind: it may open the next stream at once.
            Poll::Pending => sending.borrow_mut().poll_reset(context).map(|()| Err(Failure::from(Gone::Closed))),
        });
        run_or_reset.await
    };
    match outcome {
        Ok(completed) => summary.log(completed.status, "served"),
        Err(Failure::Refused(refusal)) if !reply.begun => reply.refuse(&refusal, &summary, to_head).await,
        Err(failure) => {
            summary.log(0, "cut");
            tracing::debug!(request_id = summary.id.as_str(), %failure, "stream cut");
            reply.reset();
        }
    }
}

/// Decides over a request and, if it is admitted, writes the upstream's head to `out`.
fn prepare(
    worker: &Worker,
    origin: Origin,
    parts: &http::request::Parts,
    ended: bool,
    summary: &mut Summary,
    out: &mut Vec<u8>,
) -> Result<(Permit, BodyLength), Refusal> {
    let limits = &worker.gate.limits;
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let field_bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + 4;
    let bytes = target.len() + parts.headers.iter().map(field_bytes).sum::<usize>();
    if parts.headers.len() > limits.max_headers.get() || bytes > limits.max_head_bytes.get() {
        return Err(Refusal::HeadTooLarge);
    }
    let fields: Vec<Field<'_>> =
        parts.headers.iter().map(|(name, value)| Field { name: name.as_str(), value: value.as_bytes() }).collect();
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let request = Request::http2(parts.method.as_str(), target, authority, &fields, ended, origin)?;
    if let Some(id) = request.found.request_id.value().filter(|_| origin.trusted).and_then(RequestId::from_proxy) {
        summary.id = id;
    }
    summary.name(request.method, request.path);
    if matches!(request.body, BodyLength::Known(length) if length > limits.max_body_bytes.get()) {
        return Err(Refusal::BodyTooLarge);
    }
    let permit = worker.gate.admit(&request)?;
    summary.token = permit.holder.as_ref().map(|admission| admission.holder.token);
    write_head(out, &request, &permit, &worker.upstream(permit.upstream).upstream, &summary.id);
    Ok((permit, request.body))
}

/// A request's body on its stream.
struct Http2Body {
    worker: Rc<Worker>,
    stream: RecvStream,
    /// The piece that was handed out.
    lent: Bytes,
    /// Bytes that may still come.
    limit: u64,
    pace: Pace,
    alarm: Alarm,
    done: bool,
}

impl Http2Body {
    fn new(worker: &Rc<Worker>, stream: RecvStream) -> Self {
        Self {
            worker: Rc::clone(worker),
            done: stream.is_end_stream(),
            stream,
            lent: Bytes::new(),
            limit: worker.gate.limits.max_body_bytes.get(),
            pace: Pace::new(worker),
            alarm: Alarm::new(worker),
        }
    }
}

impl RequestBody for Http2Body {
    fn is_done(&self) -> bool {
        self.done
    }

    fn take_whole(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }

    async fn next(&mut self) -> Result<Option<&[u8]>, BodyError> {
        let consumed = std::mem::take(&mut self.lent).len();
        // An error means that the stream is gone, which the next read says too.
        drop(self.stream.flow_control().release_capacity(consumed));
        let (stream, lent, done) = (&mut self.stream, &mut self.lent, &mut self.done);
        let read = async {
            match stream.data().await {
                Some(Ok(data)) => *lent = data,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => *done = true,
            }
            Ok(lent.len())
        };
        match self.pace.wait(&self.worker, &self.alarm, read).await {
            Ok(Ok(_)) if self.done => Ok(None),
            Ok(Ok(count)) => {
                self.limit = self.limit.checked_sub(count as u64).ok_or(BodyError::TooLarge)?;
                Ok(Some(&self.lent))
            }
            Ok(Err(_)) => Err(BodyError::Gone),
            Err(_) => Err(BodyError::Slow),
        }
    }
}

/// Where a reply goes on its stream.
enum Sending {
    /// Its head was not sent yet.
    Head(SendResponse<Bytes>),
    /// Its body is on its way.
    Body(SendStream<Bytes>),
    /// It is complete.
    Done,
}

impl Sending {
    /// Waits until the client resets the stream or is gone.
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Head(respond) => respond.poll_reset(context).map(drop),
            Self::Body(stream) => stream.poll_reset(context).map(drop),
            Self::Done => Poll::Pending,
        }
    }

    /// Sends the head, unless one was sent.
    fn send_head(&mut self, response: http::Response<()>, ended: bool) -> Result<(), Gone> {
        let Self::Head(respond) = self else { return Err(Gone::Closed) };
        let stream = respond.send_response(response, ended).map_err(|_| Gone::Closed)?;
        *self = if ended { Self::Done } else { Self::Body(stream) };
        Ok(())
    }

    /// Sends a piece of the body that the window has room for.
    fn send_data(&mut self, data: Bytes, ended: bool) -> Result<(), Gone> {
        let Self::Body(stream) = self else { return Ok(()) };
        stream.send_data(data, ended).map_err(|_| Gone::Closed)?;
        if ended {
            *self = Self::Done;
        }
        Ok(())
    }
}

/// A reply on a stream.
struct Http2Reply<'a> {
    worker: &'a Rc<Worker>,
    alarm: &'a Alarm,
    sending: &'a RefCell<Sending>,
    pace: Pace,
    begun: bool,
}

impl<'a> Http2Reply<'a> {
    fn new(worker: &'a Rc<Worker>, alarm: &'a Alarm, sending: &'a RefCell<Sending>) -> Self {
        Self { worker, alarm, sending, pace: Pace::new(worker), begun: false }
    }

    async fn refuse(&mut self, refusal: &Refusal, summary: &Summary, to_head: bool) {
        summary.log(refusal.status(), refusal.reason());
        let mut body = Vec::with_capacity(128);
        refusal.write_body(summary.id.as_bytes(), &mut body);
        let mut response = http::Response::builder().status(refusal.status());
        for (name, value) in refusal.fields() {
            response = response.header(name, value);
        }
        response = response.header("date", self.worker.date().as_str()).header("content-length", body.len());
        let Ok(response) = response.body(()) else { return self.reset() };
        let mut sending = self.sending.borrow_mut();
        if sending.send_head(response, to_head).is_ok() {
            // It is small, so it may wait in the connection's buffer; if the stream is gone, nobody asks for it.
            sending.send_data(body.into(), true).ok();
        }
    }

    fn reset(&mut self) {
        match &mut *self.sending.borrow_mut() {
            Sending::Head(respond) => respond.send_reset(Reason::CANCEL),
            Sending::Body(stream) => stream.send_reset(Reason::CANCEL),
            Sending::Done => {}
        }
    }

    /// Waits for room in the window, for some of so many bytes. None is left once the stream is gone.
    async fn room(&mut self, wanted: usize) -> Result<usize, Gone> {
        let capacity = poll_fn(|context| match &mut *self.sending.borrow_mut() {
            Sending::Body(stream) => {
                stream.reserve_capacity(wanted);
                stream.poll_capacity(context).map(|capacity| capacity.transpose().map(Option::unwrap_or_default))
            }
            Sending::Head(_) | Sending::Done => Poll::Ready(Ok(0)),
        });
        let capacity = async { capacity.await.map_err(io::Error::other) };
        match self.pace.wait(self.worker, self.alarm, capacity).await? {
            Ok(0) | Err(_) => Err(Gone::Closed),
            Ok(count) => Ok(count.min(wanted)),
        }
    }
}

impl Reply for Http2Reply<'_> {
    fn begin(&mut self, head: &ReplyHead<'_>) -> Result<(), Gone> {
        self.begun = true;
        let mut response = http::Response::builder().status(head.status);
        for field in head.kept() {
            response = response.header(field.name, field.value);
        }
        if let BodyLength::Known(length) = head.body
            && !head.is_bodiless()
        {
            response = response.header("content-length", length);
        }
        let response = response.body(()).map_err(|_| Gone::Closed)?;
        self.sending.borrow_mut().send_head(response, head.body == BodyLength::Known(0))
    }

    async fn data(&mut self, mut data: &[u8]) -> Result<(), Gone> {
        while !data.is_empty() {
            let (now, later) = data.split_at(self.room(data.len()).await?);
            self.sending.borrow_mut().send_data(Bytes::copy_from_slice(now), false)?;
            data = later;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Gone> {
        self.sending.borrow_mut().send_data(Bytes::new(), true)
    }
}
