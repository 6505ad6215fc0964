//! What a worker's new requests are served by: a reload puts another proxy in the place of this one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::tally::Tally;
use super::{Gate, Proxy};
use crate::clock::Instant;
use crate::usage::Uses;
use crate::worker::Worker;

/// Shortest time between two checks of the in-flight requests, however fast tokens are revoked.
const RECHECK_INTERVAL: Duration = Duration::from_millis(10);

/// A worker, and the proxy that its new requests get. Whoever waits for a request holds this, and no proxy: one that was replaced
/// shall go with its last request.
pub(crate) struct Current {
    /// Where it runs.
    pub worker: Rc<Worker>,
    /// What is counted of its requests.
    pub tally: Arc<Tally>,
    proxy: RefCell<Rc<Proxy>>,
    renewed: Notify,
}

impl Current {
    /// On a worker that has nothing to do yet.
    pub(crate) fn new(worker: Rc<Worker>, gate: Arc<Gate>, uses: Arc<Uses>, tally: Arc<Tally>) -> Rc<Self> {
        let proxy = Proxy::new(Rc::clone(&worker), gate, uses, Arc::clone(&tally));
        Rc::new(Self { worker, tally, proxy: RefCell::new(Rc::new(proxy)), renewed: Notify::new() })
    }

    /// For the next request.
    pub(crate) fn proxy(&self) -> Rc<Proxy> {
        Rc::clone(&self.proxy.borrow())
    }

    /// New requests get this from now on.
    pub(crate) fn renew(&self, gate: Arc<Gate>) {
        self.worker.set_buffer_bytes(gate.buffer_bytes());
        let renewed = self.proxy().with(gate);
        self.proxy.replace(Rc::new(renewed));
        self.renewed.notify_one();
    }

    /// Keeps the worker's clock, its deadlines and its upstream connections in order. Never ends.
    pub(crate) async fn sweep(self: Rc<Self>) {
        let drop_idle = |now| {
            let proxy = self.proxy();
            proxy.api.drop_idle(now) + proxy.heartbeat.drop_idle(now)
        };
        self.worker.sweep(drop_idle).await;
    }

    /// Closes unused connections to upstreams whenever another worker needs room. Never ends.
    pub(crate) async fn make_room(self: Rc<Self>) {
        loop {
            let proxy = self.proxy();
            tokio::select! {
                () = proxy.api.make_room() => {}
                () = proxy.heartbeat.make_room() => {}
                () = self.renewed.notified() => {}
            }
        }
    }

    /// Cuts off what was admitted with a token that no longer permits it, or for which the replica has become too stale. Never
    /// ends.
    pub(crate) async fn recheck(self: Rc<Self>) {
        // It is the same for as long as the process runs.
        let replica = Arc::clone(&self.proxy().gate.authorizer.replica);
        let recheck_now = || {
            let (gate, staleness) = (Arc::clone(&self.proxy().gate), replica.staleness(Instant::now()));
            self.worker.alarms.recheck(|terms| gate.holds(terms, staleness));
        };
        let mut narrowed = replica.narrowed();
        recheck_now(); // what an earlier run of this task left
        while narrowed.changed().await.is_ok() {
            recheck_now();
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
    }
}
