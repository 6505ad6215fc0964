//! One request for a configuration, from the gate to its reply.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{
    AGE, CONTENT_ENCODING, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio::sync::oneshot;

use super::super::Permit;
use super::super::body::{Relayed, Upload};
use super::super::delivery::Delivery;
use super::super::exchange::Exchange;
use super::super::forward::{forward, interrupted};
use super::super::refusal::Refusal;
use super::super::tally;
use super::blocks::Blocks;
use super::breaker::Attempt;
use super::entry::Entry;
use super::first_look::Agent;
use super::flight::{Landing, Outcome, State, Waiting};
use super::key::Key;
use super::shared::SharedFetch;
use super::{AWAY, Cache, PATIENCE, SILENT, UNASKED, learn, replaced, unserved};
use crate::clock::Instant;
use crate::worker::alarm::{Admitted, Interrupt};
use crate::worker::panic::Guard;

static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a client asks under a condition, or a part only: a fetch that is shared is for the whole.
const CONDITIONS: [HeaderName; 6] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// The Controller was asked, and its answer is not the one that the agent booted from.
const FIRST_LOOK: &str = "tollgate; fwd=request; detail=first-look";

/// One request for a configuration.
pub(super) struct Fetch<'a> {
    pub(super) cache: &'a Arc<Cache>,
    pub(super) exchange: &'a Rc<Exchange>,
    pub(super) agent: Agent,
    pub(super) permit: Rc<Permit>,
    pub(super) key: Rc<Key>,
}

/// What the wait for a fetch comes to.
enum Waited {
    Done(Outcome),
    /// The Controller has said nothing for so long that this is given.
    Silent(Arc<Entry>),
    Late,
}

impl Fetch<'_> {
    /// The reply to a `GET`.
    ///
    /// # Errors
    /// [`Refusal`], when there is none.
    pub(super) async fn get(&self, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
        // From here on a revocation interrupts it, whatever it waits for.
        let admitted = self.admit();
        // One for all fetches that it may wait for: who began one may leave, or be revoked.
        let (due, mut is_again) = (Instant::now() + PATIENCE, false);
        loop {
            let could_do_without =
                self.cache.breaker.open_for().is_some() && self.cache.has(&self.key, request.headers()).await;
            let probe = if could_do_without { self.cache.breaker.ask() } else { Some(self.cache.breaker.must_ask()) };
            let attempt = match probe {
                Some(attempt) => attempt,
                None => match self.cache.find(&self.key, request.headers()).await {
                    Some(entry) => return Ok(self.deliver(&entry, Some(UNASKED), admitted)),
                    None => self.cache.breaker.must_ask(),
                },
            };
            let (mut waiting, landing) = self.cache.flights.join(self.key.place);
            let mut own = landing.map(|landing| self.begin(request, landing, attempt));
            match own {
                // It says itself when the Controller was silent for so long.
                Some(_) if !is_again => self.exchange.alarm.clear(),
                _ => self.exchange.alarm.set(due.duration_since(Instant::now())),
            }
            self.exchange.waits_for_another();
            let outcome = self.wait(&mut waiting, request.headers(), own.is_some()).await?;
            self.exchange.record().inspect(|record| record.answered());
            let outcome = match outcome {
                Waited::Done(outcome) => outcome,
                Waited::Silent(entry) => return Ok(self.deliver(&entry, Some(SILENT), admitted)),
                Waited::Late => return self.ask(request, admitted).await,
            };
            let why = match &outcome {
                Outcome::Away(refusal) => unserved(refusal),
                Outcome::SaysAway => Some(AWAY),
                _ => None,
            };
            if why.is_some()
                && let Some(entry) = self.cache.find(&self.key, request.headers()).await
            {
                return Ok(self.deliver(&entry, why, admitted));
            }
            match outcome {
                Outcome::Shared(entry) if own.is_some() => return Ok(self.deliver(&entry, None, admitted)),
                Outcome::Shared(entry) if entry.varies_as(request.headers()) => {
                    self.cache.counts.shared.fetch_add(1, Ordering::Relaxed);
                    return Ok(self.deliver(&entry, None, admitted));
                }
                Outcome::Away(refusal) | Outcome::Refused(refusal) => return Err(refusal),
                Outcome::Shared(_) | Outcome::SaysAway | Outcome::Apart => {
                    let Some(mut reply) = own.as_mut().and_then(|own| own.try_recv().ok()) else {
                        return self.ask(request, admitted).await;
                    };
                    self.exchange.alarm.clear();
                    reply.body_mut().hand_over(self.exchange, admitted);
                    return Ok(reply);
                }
                Outcome::Again => is_again = true,
            }
        }
    }

    fn admit(&self) -> Option<Admitted> {
        self.permit.admission().map(|admission| self.exchange.alarm.admit(admission.terms))
    }

    /// Waits for what comes of a fetch. Its own it goes on to wait for as without the cache, if nothing is stored.
    async fn wait(&self, waiting: &mut Waiting, asked: &HeaderMap, is_own: bool) -> Result<Waited, Refusal> {
        let mut was_silent = false;
        loop {
            let is_late = match self.exchange.alarm.race(waiting.news(was_silent)).await {
                Ok(State::Done(outcome)) => return Ok(Waited::Done(outcome)),
                Ok(_) => false,
                Err(Interrupt::Deadline) => true,
                Err(interrupt) => {
                    return Err(interrupted(self.exchange, &self.permit, interrupt, Refusal::UpstreamTimeout));
                }
            };
            match self.cache.find(&self.key, asked).await {
                Some(entry) => {
                    waiting.make_do();
                    return Ok(Waited::Silent(entry));
                }
                None if is_late && !is_own => return Ok(Waited::Late),
                None if is_late => self.exchange.alarm.clear(),
                None => was_silent = true,
            }
        }
    }

    /// Begins a fetch that does not depend on this client: others may wait for it. A reply that is for nobody else comes out of the
    /// channel, before the flight says so.
    fn begin(
        &self,
        request: &Request<Upload>,
        landing: Landing,
        attempt: Attempt,
    ) -> oneshot::Receiver<Response<Relayed>> {
        let mut whole = Request::new(Upload::default());
        whole.uri_mut().clone_from(request.uri());
        *whole.version_mut() = request.version();
        whole.headers_mut().clone_from(request.headers());
        for name in &CONDITIONS {
            whole.headers_mut().remove(name);
        }
        let (give, own) = oneshot::channel();
        let (cache, exchange) = (Arc::clone(self.cache), self.exchange.part());
        let (permit, key) = (Rc::clone(&self.permit), Rc::clone(&self.key));
        let guard = Guard::new(&exchange.proxy.worker.panics);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            let shared = SharedFetch { cache, exchange, permit, key };
            let (outcome, reply) = tokio::select! {
                outcome = shared.run(whole, &landing, attempt) => outcome,
                // As without the cache: who leaves takes up no place at the Controller.
                () = landing.is_unwanted() => (Outcome::Again, None),
            };
            if let Some(reply) = reply {
                // Who asked first may be gone, or have been given the stored answer.
                drop(give.send(reply));
            }
            landing.end(outcome);
        });
        own
    }

    /// Asks the Controller for this client alone.
    async fn ask(
        &self,
        request: &mut Request<Upload>,
        admitted: Option<Admitted>,
    ) -> Result<Response<Relayed>, Refusal> {
        let (asked_at, asked) = (Instant::now(), request.headers().clone());
        self.let_again(admitted)?;
        let mut attempt = self.cache.breaker.must_ask();
        let reply = self.patiently(request, &mut attempt, async || self.cache.has(&self.key, &asked).await).await;
        if let why @ Some(_) = replaced(&reply)
            && let Some(entry) = self.cache.find(&self.key, &asked).await
        {
            self.disregard(reply);
            self.let_again(None)?;
            return Ok(self.deliver(&entry, why, self.admit()));
        }
        if let Ok(reply) = &reply {
            self.cache.heard(self.key.place.path, reply.status());
            if reply.status() == StatusCode::OK {
                self.cache.outdate(&self.key, asked_at, reply.headers().get(LAST_MODIFIED)).await;
            }
        }
        reply
    }

    /// Asks the Controller; one that says nothing for a while is away, if there is something stored.
    async fn patiently(
        &self,
        request: &mut Request<Upload>,
        attempt: &mut Attempt,
        is_stored: impl AsyncFnOnce() -> bool,
    ) -> Result<Response<Relayed>, Refusal> {
        let reply = {
            let mut asking = pin!(forward(self.exchange, &self.permit, request));
            match tokio::time::timeout(PATIENCE, asking.as_mut()).await {
                Ok(reply) => reply,
                Err(_) => {
                    attempt.failed();
                    match is_stored().await {
                        true => Err(Refusal::UpstreamTimeout),
                        false => asking.await,
                    }
                }
            }
        };
        learn(attempt, &reply);
        reply
    }

    /// What the Controller said is given to nobody: it is not what this exchange ends with.
    fn disregard(&self, reply: Result<Response<Relayed>, Refusal>) {
        if let Ok(mut reply) = reply {
            reply.body_mut().hand_over(&self.exchange.part(), None);
        }
        self.exchange.unsettle();
    }

    /// A revocation that was not noticed yet is forgotten with what it would have interrupted.
    fn let_again(&self, admitted: Option<Admitted>) -> Result<(), Refusal> {
        drop(admitted);
        let admission = self.permit.admission();
        admission.map_or(Ok(()), |admission| {
            self.exchange.proxy.gate.authorizer.authorize(&admission.terms, Instant::now()).map(drop)
        })
    }

    /// The reply to a `HEAD`.
    ///
    /// # Errors
    /// [`Refusal`], when there is none.
    pub(super) async fn head(&self, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
        let stored = self.cache.last_modified(&self.key).await;
        let mut attempt = match stored {
            None => self.cache.breaker.must_ask(),
            Some((modified, entry)) => match self.cache.breaker.ask() {
                Some(attempt) => attempt,
                None => return Ok(self.tell(modified, &entry, UNASKED)),
            },
        };
        let is_stored = async || self.cache.last_modified(&self.key).await.is_some();
        let reply = self.patiently(request, &mut attempt, is_stored).await;
        if let Ok(reply) = &reply {
            self.cache.heard(self.key.place.path, reply.status());
        }
        let Some(why) = replaced(&reply) else { return reply.map(|reply| self.at_first_look(reply)) };
        match self.cache.last_modified(&self.key).await {
            Some((modified, entry)) => {
                self.disregard(reply);
                self.let_again(None)?;
                Ok(self.tell(modified, &entry, why))
            }
            None => reply,
        }
    }

    /// The agent that was given a stored answer is told of that first, see [`super::first_look`].
    fn at_first_look(&self, mut reply: Response<Relayed>) -> Response<Relayed> {
        if reply.status() == StatusCode::OK
            && reply.headers().contains_key(LAST_MODIFIED)
            && let Some(modified) = self.cache.first_looks.pay(&self.agent)
        {
            let fields = reply.headers_mut();
            // That of what is not spoken of.
            fields.remove(ETAG);
            fields.insert(LAST_MODIFIED, modified);
            fields.append(&CACHE_STATUS, HeaderValue::from_static(FIRST_LOOK));
        }
        reply
    }

    /// Gives a stored `Last-Modified`.
    fn tell(&self, modified: HeaderValue, entry: &Entry, why: &str) -> Response<Relayed> {
        let modified = self.cache.first_looks.pay(&self.agent).unwrap_or(modified);
        let mut fields = self.fields(entry);
        // What is said of the body is that of one form of it.
        for name in [CONTENT_ENCODING, ETAG] {
            fields.remove(name);
        }
        fields.insert(LAST_MODIFIED, modified);
        self.mark(&mut fields, entry, why);
        let mut reply = Response::new(Relayed::stored(self.delivery(Blocks::empty(), None, tally::Outcome::Stored)));
        *reply.headers_mut() = fields;
        reply
    }

    /// Gives an answer to this client; `stale`: in place of the Controller's, and why.
    fn deliver(&self, entry: &Entry, stale: Option<&str>, admitted: Option<Admitted>) -> Response<Relayed> {
        self.exchange.alarm.clear();
        let mut fields = self.fields(entry);
        match stale {
            Some(why) => {
                self.mark(&mut fields, entry, why);
                if let Some(modified) = entry.last_modified() {
                    self.cache.first_looks.owe(self.agent, modified);
                }
            }
            None if entry.aged > Duration::ZERO => drop(fields.insert(AGE, entry.aged.as_secs().into())),
            None => {}
        }
        let outcome = if stale.is_some() { tally::Outcome::Stored } else { tally::Outcome::Served };
        let mut reply = Response::new(Relayed::stored(self.delivery(entry.body(), admitted, outcome)));
        *reply.headers_mut() = fields;
        reply
    }

    /// The fields of an answer, for this client.
    fn fields(&self, entry: &Entry) -> HeaderMap {
        let mut fields = self.exchange.proxy.worker.fields();
        entry.fields(&mut fields);
        if fields.contains_key(&X_REQUEST_ID) {
            // It named the request that fetched it.
            let id = HeaderValue::from_str(self.exchange.id().as_str());
            drop(id.map(|id| fields.insert(&X_REQUEST_ID, id)));
        }
        fields
    }

    fn delivery(&self, body: Blocks, admitted: Option<Admitted>, outcome: tally::Outcome) -> Delivery {
        Delivery { exchange: Rc::clone(self.exchange), _admitted: admitted, outcome, body }
    }

    /// RFC 9111 section 5.1, RFC 9211.
    fn mark(&self, fields: &mut HeaderMap, entry: &Entry, why: &str) {
        self.cache.counts.served.fetch_add(1, Ordering::Relaxed);
        fields.insert(AGE, entry.age().as_secs().into());
        let status = HeaderValue::try_from(format!("tollgate; {why}"));
        drop(status.map(|status| fields.append(&CACHE_STATUS, status)));
    }
}
