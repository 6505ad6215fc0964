//! One worker: a thread that accepts connections and serves them, and all that belongs to it alone.
//!
//! A request never leaves the worker that accepted its connection: the runtime, the upstream connections, the buffers
//! and the deadlines are its own, so none of them needs a lock. What workers share is read-only (the proxy's gate) or made
//! to be read by many at once (the replica).

pub(crate) mod alarm;
pub(crate) mod panic;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::hex;
use crate::http1::{Buffer, MAX_FIELDS, buffer};
use crate::random;
use alarm::{Alarms, Ease, WorkerTime};
use tokio::sync::Notify;

/// How often deadlines are looked at, at most: none is met more precisely.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// How often what is spare is looked through, while there is any; and the age of a `Date`.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// Spare maps retained by each worker.
const MAX_SPARE_FIELDS: usize = 256;

/// What a worker's connections share.
pub(crate) struct Worker {
    /// Deadlines, and what may be cut off.
    pub alarms: Alarms,
    /// Tasks that ended by a panic, over all workers.
    pub panics: Arc<AtomicU64>,
    buffers: buffer::Pool,
    spare_fields: RefCell<Vec<HeaderMap>>,
    request_ids: RequestIds,
    date: RefCell<(HeaderValue, WorkerTime)>,
    draining: Cell<bool>,
    closes_idle: Cell<bool>,
    connections: Cell<usize>,
    /// Over all workers.
    all_connections: Arc<AtomicUsize>,
    all_closed: Notify,
}

impl Worker {
    /// A worker with no connections yet, and read buffers of this size. It adds its connections and panics to those of the
    /// others.
    pub(crate) fn new(buffer_bytes: usize, all_connections: Arc<AtomicUsize>, panics: Arc<AtomicU64>) -> Rc<Self> {
        let alarms = Alarms::default();
        Rc::new(Self {
            date: RefCell::new((date_now(), alarms.now())),
            alarms,
            panics,
            buffers: buffer::Pool::new(buffer_bytes),
            spare_fields: RefCell::default(),
            request_ids: RequestIds::new(),
            draining: Cell::new(false),
            closes_idle: Cell::new(false),
            connections: Cell::new(0),
            all_connections,
            all_closed: Notify::new(),
        })
    }

    /// Runs the clock and the deadlines, and gives back what is spare and was not used for a while: so does
    /// `drop_idle`, which says how much is left. Rests while there is nothing to look after. Never ends.
    pub(crate) async fn sweep(&self, drop_idle: impl Fn(WorkerTime) -> usize) {
        let mut is_tidy = false;
        let mut tidied_at = self.alarms.now();
        loop {
            let now = self.alarms.sweep();
            if !is_tidy && now.since(tidied_at) >= TIDY_INTERVAL {
                is_tidy = self.buffers.trim() + drop_idle(now) == 0;
                tidied_at = now;
            }
            // However much begins meanwhile, the table is not looked through more often than this.
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let is_stirred = self.alarms.rest(if is_tidy { Duration::MAX } else { TIDY_INTERVAL }).await;
            is_tidy &= !is_stirred;
        }
    }

    /// Lets every reply be the last of its connection. What is idle stays: closed under a request that is on its way, it would
    /// lose it. Only who can be told so (HTTP/2) is told to leave.
    pub(crate) fn take_leave(&self) {
        self.draining.set(true);
        self.alarms.interrupt(Ease::Told);
    }

    /// Finishes in-flight requests and closes what is idle.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.closes_idle.set(true);
        self.alarms.interrupt(Ease::Idle);
    }

    /// Whether every reply is the last of its connection.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether what is idle is closed.
    pub(crate) fn closes_idle(&self) -> bool {
        self.closes_idle.get()
    }

    /// Whether it interrupts what can be ended so easily.
    fn ends(&self, ease: Ease) -> bool {
        match ease {
            Ease::Busy => false,
            Ease::Idle => self.closes_idle(),
            Ease::Told => self.is_draining(),
        }
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connection(self: &Rc<Self>) -> OpenConnection {
        self.connections.set(self.connections.get() + 1);
        self.all_connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Rc::clone(self))
    }

    /// Waits until no connection is open.
    pub(crate) async fn idle(&self) {
        // A notice that comes between the look and the wait is stored.
        while self.connections.get() > 0 {
            self.all_closed.notified().await;
        }
    }

    /// From now on read buffers are of this size.
    pub(crate) fn set_buffer_bytes(&self, buffer_bytes: usize) {
        self.buffers.set_capacity(buffer_bytes);
    }

    /// An empty buffer, which goes back to the pool when dropped.
    pub(crate) fn buffer(self: &Rc<Self>) -> Pooled<Buffer> {
        Pooled { worker: Rc::clone(self), item: self.buffers.take() }
    }

    /// An empty vector to write a head into, which goes back to the pool when dropped.
    pub(crate) fn head(self: &Rc<Self>) -> Pooled<Vec<u8>> {
        Pooled { worker: Rc::clone(self), item: self.buffers.take_head() }
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.request_ids.next()
    }

    /// An empty map for the fields of a head. Maps travel with a request to its upstream connection and come back with the
    /// reply, so in steady state none is made.
    pub(crate) fn fields(&self) -> HeaderMap {
        self.spare_fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back.
    pub(crate) fn put_fields(&self, mut fields: HeaderMap) {
        let mut spare = self.spare_fields.borrow_mut();
        // A map never shrinks, so one that grew beyond that would stay large for good.
        if spare.len() < MAX_SPARE_FIELDS && fields.capacity() <= MAX_FIELDS {
            fields.clear();
            spare.push(fields);
        }
    }

    /// Now, as the `Date` field says it (RFC 9110 section 6.6.1), to the second.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = self.alarms.now();
        let (date, made_at) = &mut *self.date.borrow_mut();
        if now.since(*made_at) >= TIDY_INTERVAL {
            (*date, *made_at) = (date_now(), now);
        }
        date.clone()
    }
}

pub(crate) struct OpenConnection(Rc<Worker>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.all_connections.fetch_sub(1, Ordering::Relaxed);
        if self.0.connections.get() == 0 {
            self.0.all_closed.notify_one();
        }
    }
}

/// What a worker has spare ones of.
pub(crate) trait Spare: Default {
    /// Goes back to the pool.
    fn give_back(self, pool: &buffer::Pool);
}

impl Spare for Buffer {
    fn give_back(self, pool: &buffer::Pool) {
        pool.put(self);
    }
}

impl Spare for Vec<u8> {
    fn give_back(self, pool: &buffer::Pool) {
        pool.put_head(self);
    }
}

/// A buffer, or the bytes of a head, that goes back to its worker's pool.
pub(crate) struct Pooled<T: Spare> {
    worker: Rc<Worker>,
    item: T,
}

impl<T: Spare> std::ops::Deref for Pooled<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T: Spare> std::ops::DerefMut for Pooled<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: Spare> Drop for Pooled<T> {
    fn drop(&mut self) {
        // There is something to be looked through, so the sweep goes on.
        self.worker.alarms.stir();
        std::mem::take(&mut self.item).give_back(&self.worker.buffers);
    }
}

/// Names one request in replies, logs and the upstream's `X-Request-Id`: 32 hexadecimal digits, or what a trusted proxy
/// named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId {
    text: [u8; Self::LONGEST],
    length: u8,
}

impl RequestId {
    /// Longest id taken over from a trusted proxy.
    const LONGEST: usize = 64;

    /// The id that a trusted proxy gave, if it is one: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub(crate) fn from_proxy(value: &[u8]) -> Option<Self> {
        let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if value.is_empty() || !value.iter().all(harmless) {
            return None;
        }
        let mut text = [0; Self::LONGEST];
        text.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self { text, length: u8::try_from(value.len()).ok()? })
    }

    /// The id, as fields have it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The id, as text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// A random half for each worker, counted up: unique without asking for entropy at each request.
struct RequestIds {
    worker: u64,
    next: Cell<u64>,
}

impl RequestIds {
    fn new() -> Self {
        // Ids are names, not secrets: without entropy they may meet those of another sidecar, no more.
        Self { worker: random::number(), next: Cell::new(0) }
    }

    fn next(&self) -> RequestId {
        let count = self.next.get();
        self.next.set(count.wrapping_add(1));
        let mut text = [b'0'; RequestId::LONGEST];
        let bytes = self.worker.to_be_bytes().into_iter().chain(count.to_be_bytes());
        for (place, byte) in text.chunks_exact_mut(2).zip(bytes) {
            place.copy_from_slice(&hex::digits(byte));
        }
        RequestId { text, length: 32 }
    }
}

/// Now, as an IMF-fixdate such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date_now() -> HeaderValue {
    let text = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // All of it is visible characters and spaces.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        let ids = RequestIds::new();
        let (a, b) = (ids.next(), ids.next());
        assert_ne!(a, b);
        assert!(a.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn the_date_is_an_imf_fixdate() {
        assert_eq!(date_now().len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
    }
}
