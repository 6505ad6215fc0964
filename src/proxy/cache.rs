//! The configuration cache: agents boot while the Controller is away.
//!
//! ```text
//! permitted fetch ─► join the flight ──► whole 200 ────────► stored, and given to all of the flight
//!                    (one at a time)  ├► the Controller is away, or says nothing for 3 s ─► the stored answer, if there is one
//!                                     └► any other reply ──► to who asked first; the others ask by themselves
//! ```
//!
//! Nobody is given an answer that the token's permissions do not cover at that moment: what is here begins behind the gate, and
//! each request that waits or reads is interrupted by a revocation, as one that is forwarded. It is not a browser's cache
//! (RFC 9111): an answer is stored to be given *in place of none*, so `Cache-Control` of the request means nothing, and
//! `no-store` and `private` of the reply were overruled by who turned it on.

mod entry;
mod flight;
mod key;
mod memory;
mod settings;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::{oneshot, watch};

use super::Permit;
use super::body::{Delivery, Relayed, Upload};
use super::exchange::Exchange;
use super::forward::{forward, interrupted};
use super::refusal::Refusal;
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::worker::alarm::{Admitted, Interrupt};
use crate::worker::panic::Guard;
use entry::{Entry, MAX_BODY};
use flight::{Flights, Landing, Outcome, State};
use key::Key;
use memory::Memory;

pub use settings::CacheConfig;

/// How long a Controller may say nothing before the stored answer is given; and the longest wait for somebody else's fetch.
const PATIENCE: Duration = Duration::from_secs(3);

static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a client asks under a condition, or a part only: a fetch that is shared is for the whole.
const CONDITIONS: [HeaderName; 6] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE];

/// The stored answers, and the fetches under way. Shared by all workers; only fetches of configurations come here.
#[derive(Debug)]
pub(crate) struct Cache {
    config: CacheConfig,
    memory: Mutex<Memory>,
    flights: Arc<Flights>,
    served: AtomicU64,
    shared: AtomicU64,
}

impl Cache {
    /// An empty one.
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self {
            config,
            memory: Mutex::default(),
            flights: Arc::default(),
            served: AtomicU64::new(0),
            shared: AtomicU64::new(0),
        }
    }

    fn find(&self, key: &Key, asked: &HeaderMap) -> Option<Arc<Entry>> {
        self.memory.lock().find(key, asked, &self.config)
    }

    fn store(&self, key: &Key, entry: &Arc<Entry>) {
        self.memory.lock().insert(key, Arc::clone(entry), &self.config);
    }

    /// Takes note of what the Controller says: what is gone there is gone here.
    fn heard(&self, key: &Key, status: StatusCode) {
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            let path = key.place(b"").path;
            self.flights.forget(path);
            self.memory.lock().forget(path);
        }
    }
}

/// Serves a permitted `GET` or `HEAD` for a configuration.
///
/// # Errors
/// [`Refusal`], when there is no reply.
pub(super) async fn serve(
    cache: &Arc<Cache>,
    exchange: &Rc<Exchange>,
    permit: Permit,
    request: &mut Request<Upload>,
) -> Result<Response<Relayed>, Refusal> {
    let credential = &exchange.proxy.gate.api.config.credential;
    let Some(key) = Key::of(request, &permit, credential) else { return forward(exchange, &permit, request).await };
    let fetch = Fetch { cache, exchange, permit: Rc::new(permit), key: Rc::new(key) };
    match *request.method() == Method::HEAD {
        true => fetch.head(request).await,
        false => fetch.get(request).await,
    }
}

/// One request for a configuration.
struct Fetch<'a> {
    cache: &'a Arc<Cache>,
    exchange: &'a Rc<Exchange>,
    permit: Rc<Permit>,
    key: Rc<Key>,
}

impl Fetch<'_> {
    async fn get(&self, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
        // From here on a revocation interrupts it, whatever it waits for.
        let admitted = self.permit.admission().map(|admission| self.exchange.alarm.admit(admission.terms));
        self.exchange.alarm.set(PATIENCE);
        loop {
            let (mut state, landing) = self.cache.flights.join(self.key.place(b""));
            let is_first = landing.is_some();
            let mut own = landing.map(|landing| self.begin(request, landing));
            let outcome = match self.outcome(&mut state).await? {
                Some(outcome) => outcome,
                None => {
                    let is_silent = matches!(*state.borrow(), State::Asking);
                    if is_silent && let Some(entry) = self.cache.find(&self.key, request.headers()) {
                        return Ok(self.deliver(&entry, Some("fwd=stale; detail=timeout"), admitted));
                    }
                    self.exchange.alarm.clear();
                    match is_first {
                        true => self.outcome(&mut state).await?.unwrap_or(Outcome::Again),
                        // Nobody waits longer for somebody else's.
                        false => return self.ask(request, admitted).await,
                    }
                }
            };
            let is_away = matches!(outcome, Outcome::Away(_) | Outcome::SaysAway);
            if is_away && let Some(entry) = self.cache.find(&self.key, request.headers()) {
                return Ok(self.deliver(&entry, Some("fwd=stale; detail=away"), admitted));
            }
            match outcome {
                Outcome::Shared(entry) if is_first || entry.varies_as(request.headers()) => {
                    if !is_first {
                        self.cache.shared.fetch_add(1, Ordering::Relaxed);
                    }
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
                Outcome::Again => {}
            }
        }
    }

    /// What comes of a fetch; `None` if it takes too long.
    async fn outcome(&self, state: &mut watch::Receiver<State>) -> Result<Option<Outcome>, Refusal> {
        let done = self.exchange.alarm.race(state.wait_for(|state| matches!(state, State::Done(_)))).await;
        match done {
            Ok(Ok(state)) => match &*state {
                State::Done(outcome) => Ok(Some(outcome.clone())),
                State::Asking | State::Answered => Ok(None),
            },
            // It is said before it goes.
            Ok(Err(_)) => Ok(Some(Outcome::Again)),
            Err(Interrupt::Deadline) => Ok(None),
            Err(interrupt) => Err(interrupted(self.exchange, &self.permit, interrupt, Refusal::UpstreamTimeout)),
        }
    }

    /// Begins a fetch that does not depend on this client: others may wait for it. A reply that is for nobody else comes out of the
    /// channel, before the flight says so.
    fn begin(&self, request: &Request<Upload>, landing: Landing) -> oneshot::Receiver<Response<Relayed>> {
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
            let (outcome, reply) = shared.run(whole, &landing).await;
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
        let asked = request.headers().clone();
        self.let_again(admitted)?;
        let reply = forward(self.exchange, &self.permit, request).await;
        if is_away(&reply)
            && let Some(entry) = self.cache.find(&self.key, &asked)
        {
            let admitted = self.permit.admission().map(|admission| self.exchange.alarm.admit(admission.terms));
            return Ok(self.deliver(&entry, Some("fwd=stale; detail=away"), admitted));
        }
        if let Ok(reply) = &reply {
            self.cache.heard(&self.key, reply.status());
        }
        reply
    }

    /// A revocation that was not noticed yet is forgotten with what it would have interrupted.
    fn let_again(&self, admitted: Option<Admitted>) -> Result<(), Refusal> {
        drop(admitted);
        let admission = self.permit.admission();
        admission.map_or(Ok(()), |admission| {
            self.exchange.proxy.gate.authorizer.authorize(&admission.terms, Instant::now()).map(drop)
        })
    }

    /// A watcher compares `Last-Modified`, and does not say which form of it its agent fetched.
    async fn head(&self, request: &mut Request<Upload>) -> Result<Response<Relayed>, Refusal> {
        let has_stored = self.cache.memory.lock().last_modified(&self.key, &self.cache.config).is_some();
        let asking = forward(self.exchange, &self.permit, request);
        let reply = match has_stored {
            true => tokio::time::timeout(PATIENCE, asking).await.unwrap_or(Err(Refusal::UpstreamTimeout)),
            false => asking.await,
        };
        if let Ok(reply) = &reply {
            self.cache.heard(&self.key, reply.status());
        }
        if !is_away(&reply) {
            return reply;
        }
        let stored = self.cache.memory.lock().last_modified(&self.key, &self.cache.config);
        let Some((modified, entry)) = stored else { return reply };
        self.let_again(None)?;
        let mut fields = self.fields(&entry);
        // What is said of the body is that of one form of it.
        for name in [CONTENT_ENCODING, ETAG] {
            fields.remove(name);
        }
        fields.insert(LAST_MODIFIED, modified);
        self.mark(&mut fields, &entry, "fwd=stale; detail=away");
        let mut reply = Response::new(Relayed::stored(Bytes::new(), self.delivery(None, "stored")));
        *reply.headers_mut() = fields;
        Ok(reply)
    }

    /// Gives an answer to this client; `stale`: in place of the Controller's, and why.
    fn deliver(&self, entry: &Entry, stale: Option<&str>, admitted: Option<Admitted>) -> Response<Relayed> {
        self.exchange.alarm.clear();
        let mut fields = self.fields(entry);
        match stale {
            Some(why) => self.mark(&mut fields, entry, why),
            None if entry.aged > Duration::ZERO => drop(fields.insert(AGE, entry.aged.as_secs().into())),
            None => {}
        }
        let outcome = if stale.is_some() { "stored" } else { "served" };
        let mut reply = Response::new(Relayed::stored(entry.body(), self.delivery(admitted, outcome)));
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

    fn delivery(&self, admitted: Option<Admitted>, outcome: &'static str) -> Delivery {
        Delivery { exchange: Rc::clone(self.exchange), _admitted: admitted, outcome }
    }

    /// RFC 9111 section 5.1, RFC 9211.
    fn mark(&self, fields: &mut HeaderMap, entry: &Entry, why: &str) {
        self.cache.served.fetch_add(1, Ordering::Relaxed);
        fields.insert(AGE, entry.age().as_secs().into());
        let status = HeaderValue::try_from(format!("tollgate; {why}"));
        drop(status.map(|status| fields.append(&CACHE_STATUS, status)));
    }
}

/// A fetch that several may wait for.
struct SharedFetch {
    cache: Arc<Cache>,
    exchange: Rc<Exchange>,
    permit: Rc<Permit>,
    key: Rc<Key>,
}

impl SharedFetch {
    /// Fetches it. What comes of it for all, and the reply that is for who asked first alone.
    async fn run(&self, mut request: Request<Upload>, landing: &Landing) -> (Outcome, Option<Response<Relayed>>) {
        let asked = request.headers().clone();
        let mut reply = match forward(&self.exchange, &self.permit, &mut request).await {
            Ok(reply) => reply,
            Err(refusal) if is_outage(&refusal) => return (Outcome::Away(refusal), None),
            Err(refusal @ Refusal::UpstreamCredential) => return (Outcome::Refused(refusal), None),
            Err(_) => return (Outcome::Again, None),
        };
        if says_away(reply.status()) {
            return (Outcome::SaysAway, Some(reply));
        }
        landing.answered();
        self.cache.heard(&self.key, reply.status());
        // Without its body: whether it can be stored does not depend on that, but for its size.
        let head = (reply.status(), reply.headers().clone());
        let length = head.1.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let is_shared = Entry::new(&self.key, &asked, (head.0, &head.1), b"").is_some();
        if !is_shared || length.is_some_and(|length| length > MAX_BODY) {
            return (Outcome::Apart, Some(reply));
        }
        match reply.body_mut().collect(MAX_BODY).await {
            Ok(Some(body)) => match Entry::new(&self.key, &asked, (head.0, &head.1), &body) {
                Some(entry) => {
                    let entry = Arc::new(entry);
                    if !landing.is_outdated() {
                        self.cache.store(&self.key, &entry);
                    }
                    (Outcome::Shared(entry), None)
                }
                None => (Outcome::Again, None),
            },
            Ok(None) => (Outcome::Apart, Some(reply)),
            // It broke off; or whose fetch it was may fetch no longer.
            Err(_) => {
                match self
                    .permit
                    .admission()
                    .map(|admission| self.exchange.proxy.gate.authorizer.authorize(&admission.terms, Instant::now()))
                {
                    Some(Err(_)) => (Outcome::Again, None),
                    _ => (Outcome::Away(Refusal::Upstream), None),
                }
            }
        }
    }
}

/// Whether the Controller is away: as it says itself, or since it cannot be asked.
fn is_away(reply: &Result<Response<Relayed>, Refusal>) -> bool {
    match reply {
        Ok(reply) => says_away(reply.status()),
        Err(refusal) => is_outage(refusal),
    }
}

fn says_away(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Not where it refuses the sidecar's credential: that is an answer.
fn is_outage(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Upstream | Refusal::UpstreamTimeout | Refusal::Overloaded)
}
