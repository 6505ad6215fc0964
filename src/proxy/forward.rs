//! Forwarding: a permitted request to the upstream over a connection that hyper carries, and its reply to the client.

use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::body::{Cut, Progress, Relayed, Upload};
use super::exchange::Exchange;
use super::fields::strip_reply;
use super::refusal::Refusal;
use super::tally::Outcome;
use super::{Permit, sanitize, usage};
use crate::chain::chain;
use crate::clock::Instant;
use crate::upstream::{Asked, Balancer, Chosen, InFlightSlot, Lease, Priority, Step, Tried, UpstreamName};
use crate::worker::alarm::{Admitted, Interrupt};

/// Longest wait for an in-flight slot. An agent gives a heartbeat up after 5 s.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// After so long without a connection no node is tried that is known to be unhealthy: whoever asks gives up too.
const MAX_CONNECTING: Duration = Duration::from_secs(3);

/// Bytes of a reply that are read to see why it refuses.
const MAX_REASON: usize = 4 * 1024;

/// Sends a permitted request on and returns the reply's head, with its body still to come.
///
/// # Errors
/// [`Refusal`], when there is no reply.
pub(super) async fn forward(
    exchange: &Rc<Exchange>,
    permit: &Permit,
    request: &mut Request<Upload>,
) -> Result<Response<Relayed>, Refusal> {
    let balancer = exchange.proxy.upstream(permit.upstream());
    // From here on a revocation interrupts it, whatever it waits for.
    let admitted = permit.admission().map(|admission| exchange.alarm.admit(admission.terms));
    let is_fetch = permit.is_fetched() && matches!(*request.method(), Method::GET | Method::HEAD);
    let attempt = Attempt { exchange, permit, balancer, is_fetch };
    if !request.body().is_whole() {
        attempt.watched(request.body_mut().gather()).await??;
    }
    // Configuration fetches go first: an agent that gets none exits.
    let in_flight = attempt.in_flight_slot(if is_fetch { Priority::High } else { Priority::Normal }).await?;
    let mut node = balancer.choose();
    usage::note(exchange, permit, request);
    sanitize::request(request, permit, &balancer.upstream, node.host(), exchange);
    let to_head = *request.method() == Method::HEAD;
    let sent = attempt.send(request, &mut node).await?;
    if attempt.may_refuse_credential(&node, sent.0.status()) {
        // Boxed, as connecting is.
        return Box::pin(attempt.judge(sent, node, in_flight, admitted, to_head)).await;
    }
    attempt.deliver(sent, Bytes::new(), node, in_flight, admitted)
}

/// A request on its way to one upstream.
struct Attempt<'a> {
    exchange: &'a Rc<Exchange>,
    permit: &'a Permit,
    balancer: &'a Balancer<Upload>,
    /// It fetches a configuration.
    is_fetch: bool,
}

type Sent = (Response<Incoming>, Lease<Upload>, Option<Rc<Progress>>);

impl Attempt<'_> {
    /// Waits without a deadline of its own.
    async fn watched<F: Future>(&self, future: F) -> Result<F::Output, Refusal> {
        self.exchange.alarm.clear();
        self.exchange.alarm.race(future).await.map_err(|interrupt| self.interrupted(interrupt, Refusal::Timeout))
    }

    async fn in_flight_slot(&self, priority: Priority) -> Result<InFlightSlot, Refusal> {
        match self.balancer.upstream.in_flight.take(priority) {
            Ok(in_flight) => Ok(in_flight),
            Err(waiting) => {
                self.exchange.alarm.set(MAX_WAIT);
                let in_flight = self.exchange.alarm.race(waiting.slot()).await;
                in_flight.map_err(|interrupt| self.interrupted(interrupt, Refusal::Overloaded))
            }
        }
    }

    fn interrupted(&self, interrupt: Interrupt, late: Refusal) -> Refusal {
        interrupted(self.exchange, self.permit, interrupt, late)
    }

    /// Sends the request until a connection takes it.
    async fn send(&self, request: &mut Request<Upload>, node: &mut Chosen<Upload>) -> Result<Sent, Refusal> {
        let mut tried = Tried::default();
        loop {
            let mut lease = self.lease(request.headers_mut(), node, &mut tried).await?;
            let may_go_again = lease.reused || self.balancer.upstream.has_several_nodes();
            let spare = if may_go_again { copy(request) } else { None };
            let progress = self.start_clock(request.body_mut());
            self.exchange.record().inspect(|record| record.handed());
            let handed = self.exchange.hand_on();
            let sent = self.exchange.alarm.race(lease.send(std::mem::take(request))).await;
            let mut error = match sent {
                Ok(Ok(reply)) => {
                    self.exchange.record().inspect(|record| record.answered());
                    self.exchange.answered(self.permit.upstream(), handed);
                    node.answered();
                    return Ok((reply, lease, progress));
                }
                Ok(Err(error)) => error,
                Err(Interrupt::Deadline) => {
                    node.unanswered(&"no reply in time");
                    self.report(&lease, Step::FirstByte, &"no reply in time");
                    return Err(Refusal::UpstreamTimeout);
                }
                Err(interrupt) => return Err(self.interrupted(interrupt, Refusal::UpstreamTimeout)),
            };
            if let Some(error) = progress.and_then(|progress| progress.error.get()) {
                return Err(error.into());
            }
            // Nothing of it was written, or it may be repeated and nothing was answered: the connection had died unnoticed.
            let unwritten = error.take_message();
            let is_stale = lease.reused && unwritten.is_some();
            // A head that is too large is a reply, and says nothing of the node.
            if !is_stale && !error.error().is_parse_too_large() {
                node.unanswered(error.error());
            }
            let spare = spare.filter(|_| !lease.is_answered() && !is_late(error.error()));
            let again = unwritten.or(spare.map(|spare| *spare));
            // A new connection that fails is no stale one: it would fail again, there.
            let again = again.filter(|_| lease.reused || self.turn_elsewhere(node, &mut tried));
            *request = again.ok_or_else(|| self.broken(&lease, &error.into_error()))?;
            match lease.reused {
                true => node.pool.forget(),
                false => drop(request.headers_mut().insert(HOST, node.host().clone())),
            }
        }
    }

    /// Chooses a node that was not tried yet. `false`: there is none.
    fn turn_elsewhere(&self, node: &mut Chosen<Upload>, tried: &mut Tried) -> bool {
        self.balancer.other(node, tried).map(|other| *node = other).is_some()
    }

    /// A connection: one that was used before, else a new one; where none can be made, one to another node.
    async fn lease(
        &self,
        headers: &mut HeaderMap,
        node: &mut Chosen<Upload>,
        tried: &mut Tried,
    ) -> Result<Lease<Upload>, Refusal> {
        let alarms = &self.exchange.proxy.worker.alarms;
        let began = alarms.now();
        let mut now = began;
        loop {
            if let Some(lease) = node.pool.reuse(now) {
                return Ok(lease);
            }
            let slot = match self.balancer.free_slot() {
                Some(slot) => slot,
                None => {
                    // Another node's spares the closing of one and the making of another.
                    if let Some((other, lease)) = self.balancer.reuse_elsewhere(node, *tried, now) {
                        *node = other;
                        headers.insert(HOST, node.host().clone());
                        return Ok(lease);
                    }
                    self.exchange.alarm.set(MAX_WAIT);
                    let slot = self.exchange.alarm.race(self.balancer.slot()).await;
                    slot.map_err(|interrupt| self.interrupted(interrupt, Refusal::Overloaded))?
                }
            };
            // Without a deadline of ours, since `timeouts.connect` is the connector's to keep. Boxed, since it is rare and would make every exchange's state several times as large.
            let connect = Box::pin(node.pool.connect(&self.exchange.proxy.worker, slot));
            let error = match self.watched(connect).await? {
                Ok(lease) => return Ok(lease),
                Err(error) => error,
            };
            node.failed(&error);
            now = alarms.now();
            let is_late = now.since(began) >= MAX_CONNECTING;
            let other = self.balancer.other(node, tried).filter(|other| !is_late || !other.is_unhealthy());
            let Some(other) = other else {
                node.pool.report(error.address.as_ref(), error.step, self.exchange.id().as_str(), &chain(&error));
                return Err(if error.timed_out { Refusal::UpstreamTimeout } else { Refusal::Upstream });
            };
            *node = other;
            headers.insert(HOST, node.host().clone());
        }
    }

    /// The upstream has its time to answer from the end of the request on.
    fn start_clock(&self, body: &mut Upload) -> Option<Rc<Progress>> {
        let timeout = self.balancer.upstream.config.first_byte_timeout;
        let progress = body.forwarded(self.exchange, timeout);
        match &progress {
            None => self.exchange.alarm.set(timeout),
            Some(_) => self.exchange.alarm.clear(),
        }
        progress
    }

    /// There was no reply.
    fn broken(&self, lease: &Lease<Upload>, error: &hyper::Error) -> Refusal {
        if is_late(error) {
            self.report(lease, Step::Request, &"it stopped reading the request");
            return Refusal::UpstreamTimeout;
        }
        match io_cause(error) {
            Some(cause) => self.report(lease, Step::FirstByte, &format_args!("{error}: {cause}")),
            // hyper has one error for both.
            None if error.is_parse_too_large() => {
                self.report(lease, Step::FirstByte, &"its head has more than 100 fields or 32 KiB");
            }
            None => self.report(lease, Step::FirstByte, error),
        }
        Refusal::Upstream
    }

    /// Whether the reply may refuse what Tollgate gave in the place of the client's token. On an open route there was none
    /// to replace, and the Controller's word is the client's.
    fn may_refuse_credential(&self, node: &Chosen<Upload>, status: StatusCode) -> bool {
        let asked = self.asked();
        self.permit.admission().is_some()
            && self.balancer.upstream.may_refuse_credential(node.pool.node(), status, asked)
    }

    fn asked(&self) -> Asked {
        match self.is_fetch || self.permit.upstream() == UpstreamName::Heartbeat {
            true => Asked::ForAgents,
            false => Asked::Other(self.permit.admission().and_then(|admission| admission.terms.needed)),
        }
    }

    /// The upstream refuses Tollgate's own credential, which no client can mend; unless it speaks of its licence, or says 403 and
    /// cannot be understood (too slow, encoded): that is the client's.
    async fn judge(
        &self,
        (mut reply, lease, progress): Sent,
        node: Chosen<Upload>,
        in_flight: InFlightSlot,
        admitted: Option<Admitted>,
        to_head: bool,
    ) -> Result<Response<Relayed>, Refusal> {
        if let Some(progress) = &progress {
            progress.answered.set(true);
        }
        self.exchange.alarm.set(MAX_WAIT);
        let mut said = BytesMut::new();
        let is_whole = match self.exchange.alarm.race(beginning(reply.body_mut(), &mut said)).await {
            Ok(is_whole) => is_whole,
            Err(Interrupt::Deadline) => false,
            Err(interrupt) => return Err(self.interrupted(interrupt, Refusal::UpstreamTimeout)),
        };
        let is_forbidden = reply.status() == StatusCode::FORBIDDEN;
        if is_forbidden && !to_head {
            let is_unknown = said.len() < MAX_REASON && !is_whole || reply.headers().contains_key(CONTENT_ENCODING);
            if is_unknown || is_about_licence(&said) {
                return self.deliver((reply, lease, progress), said.freeze(), node, in_flight, admitted);
            }
        }
        // Without a body a 403 says nothing, and a watcher that hears nothing forgets nothing.
        if !(is_forbidden && to_head) {
            let (node, id) = (node.pool.node(), self.exchange.id());
            self.balancer.upstream.report_refused(node, lease.address(), reply.status(), self.asked(), id.as_str());
        }
        let is_uploaded = progress.is_none_or(|progress| progress.done.get());
        // Every agent is refused at once: without a new connection for each.
        if is_whole && is_uploaded && reply.version() != Version::HTTP_10 {
            lease.give_back(self.exchange.proxy.worker.alarms.now());
        }
        Err(Refusal::UpstreamCredential)
    }

    /// Checks the head of the reply and makes it the client's. `begun` was read of its body.
    fn deliver(
        &self,
        (reply, lease, progress): Sent,
        begun: Bytes,
        node: Chosen<Upload>,
        in_flight: InFlightSlot,
        admitted: Option<Admitted>,
    ) -> Result<Response<Relayed>, Refusal> {
        let (mut parts, body) = reply.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            self.report(&lease, Step::FirstByte, &"it switched protocols unasked");
            return Err(Refusal::Upstream);
        }
        if let Err(error) = strip_reply(&mut parts.headers) {
            self.report(&lease, Step::FirstByte, &error);
            return Err(Refusal::Upstream);
        }
        let worker = &self.exchange.proxy.worker;
        sanitize::reply(parts.status, parts.version, &mut parts.headers, || worker.date());
        // From here on the alarm is the reply's, whatever becomes of the rest of the request.
        if let Some(progress) = &progress {
            progress.answered.set(true);
        }
        self.exchange.alarm.clear();
        let passage = Passage {
            exchange: Rc::clone(self.exchange),
            node,
            lease: Some(lease),
            // hyper would send the next request in HTTP/1.0, and a body of unknown length not at all.
            reusable: parts.version != Version::HTTP_10,
            in_flight: Some(in_flight),
            progress,
            status: parts.status,
            complete: false,
            _admitted: admitted,
        };
        Ok(Response::from_parts(parts, Relayed::new(begun, body, passage, self.balancer.upstream.config.idle_timeout)))
    }

    fn report(&self, lease: &Lease<Upload>, step: Step, error: &dyn Display) {
        lease.report(step, self.exchange.id().as_str(), error);
    }
}

/// What an interruption means to who waits for a reply; `late` if it is the deadline's.
pub(super) fn interrupted(exchange: &Exchange, permit: &Permit, interrupt: Interrupt, late: Refusal) -> Refusal {
    match (interrupt, permit.admission()) {
        (Interrupt::Revoked, Some(admission)) => {
            let again = exchange.proxy.gate.authorizer.authorize(&admission.terms, Instant::now());
            again.err().unwrap_or(Refusal::UnknownToken)
        }
        (Interrupt::Drain, _) => Refusal::Gone,
        _ => late,
    }
}

/// Reads a reply's body up to [`MAX_REASON`], and says whether that is all.
async fn beginning(body: &mut Incoming, read: &mut BytesMut) -> bool {
    while read.len() < MAX_REASON {
        match body.frame().await {
            Some(Ok(frame)) => frame.into_data().map(|data| read.extend_from_slice(&data)).unwrap_or_default(),
            Some(Err(_)) => return false,
            None => return true,
        }
    }
    body.is_end_stream()
}

/// Whether this is, or begins, the Controller's word on what its licence does not include.
fn is_about_licence(said: &[u8]) -> bool {
    memchr::memmem::find(said, br#""feature_not_licensed""#).is_some()
}

fn io_cause(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the upstream stopped taking the request.
fn is_late(error: &hyper::Error) -> bool {
    io_cause(error).is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// A second copy of a request that may be sent twice: a connection that was used before may be dead.
fn copy(request: &Request<Upload>) -> Option<Box<Request<Upload>>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let mut copy = Request::new(request.body().try_clone()?);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(Box::new(copy))
}

/// What a reply holds while it passes: the connection it comes by, and the request's slot.
pub(super) struct Passage {
    pub(super) exchange: Rc<Exchange>,
    node: Chosen<Upload>,
    lease: Option<Lease<Upload>>,
    reusable: bool,
    in_flight: Option<InFlightSlot>,
    progress: Option<Rc<Progress>>,
    status: StatusCode,
    complete: bool,
    _admitted: Option<Admitted>,
}

impl Passage {
    /// The reply was read to its end: the connection is the next request's, unless this one's body still goes into it.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.exchange.settle();
        // Not only when this is dropped: a slow client reads for long what the upstream has sent.
        self.in_flight = None;
        self.node.finish();
        let lease = self.lease.take();
        if let Some(lease) = lease.filter(|_| self.reusable && !self.leaves_upload()) {
            lease.give_back(self.exchange.proxy.worker.alarms.now());
        }
    }

    /// It is this exchange's from here on.
    pub(super) fn hand_over(&mut self, exchange: &Rc<Exchange>, admitted: Option<Admitted>) {
        exchange.received.set(self.exchange.received.get());
        if self.complete {
            exchange.settle();
        }
        self.exchange = Rc::clone(exchange);
        self._admitted = admitted;
    }

    pub(super) fn leaves_upload(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| !progress.done.get())
    }

    /// The reply may not go on, or the upstream paused for too long.
    pub(super) fn interrupted(&mut self, interrupt: Interrupt) -> Cut {
        if interrupt == Interrupt::Deadline {
            return self.fail(Step::Reply, &"it paused for too long");
        }
        // No failure of the upstream's, so nothing is reported.
        self.lease = None;
        Cut
    }

    /// The reply broke off.
    pub(super) fn fail(&mut self, step: Step, error: &dyn Display) -> Cut {
        self.node.pool.report(self.lease.as_ref().map(Lease::address), step, self.exchange.id().as_str(), error);
        self.lease = None;
        Cut
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        match self.complete {
            true => self.exchange.end(self.status.as_u16(), Outcome::Served),
            false => self.exchange.end(0, Outcome::Cut),
        }
    }
}
