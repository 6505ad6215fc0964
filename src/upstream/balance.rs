//! Which node gets a request: of those in the best condition the one with the fewest requests in flight, over all workers;
//! of several with as few, each in turn.
//!
//! All are tried before a request is refused, the unhealthy ones last: what is known of a node can be wrong, and a check
//! must not make an outage.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use hyper::body::Body;

use super::connect::ConnectError;
use super::pool::Pool;
use super::{MAX_NODES, Upstream};
use crate::worker::alarm::WorkerTime;

/// One upstream as one worker has it: connections to each of its nodes.
pub(crate) struct Balancer<B> {
    /// Where they lead.
    pub(crate) upstream: Arc<Upstream>,
    pools: Box<[Rc<Pool<B>>]>,
    /// Where the next search begins.
    turn: Cell<usize>,
}

/// The nodes that a request was not sent to since they could not be connected to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried(u32);

const _: () = assert!(MAX_NODES <= u32::BITS as usize);

/// The node of a request, which counts as in flight there until the reply is over or this is dropped.
pub(crate) struct Chosen<B> {
    /// The worker's connections to it.
    pub(crate) pool: Rc<Pool<B>>,
    /// Where there is only one, nobody asks how many are in flight.
    counts: bool,
}

impl<B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + 'static> Balancer<B> {
    /// No connections yet.
    pub(crate) fn new(upstream: Arc<Upstream>) -> Self {
        let pools = (0..upstream.nodes.len()).map(|node| Rc::new(Pool::new(Arc::clone(&upstream), node))).collect();
        Self { upstream, pools, turn: Cell::new(0) }
    }

    /// The node for a new request.
    pub(crate) fn choose(&self) -> Chosen<B> {
        match &*self.pools {
            [only] => Chosen { pool: Rc::clone(only), counts: false },
            pools => {
                let best = self.best(Tried::default()).unwrap_or(0);
                Chosen::counted(&pools[best])
            }
        }
    }

    /// The node for a request that `failed` could not be connected to for. `None`: all were tried.
    pub(crate) fn other(&self, failed: &Chosen<B>, tried: &mut Tried) -> Option<Chosen<B>> {
        tried.0 |= 1 << failed.pool.node;
        self.best(*tried).map(|best| Chosen::counted(&self.pools[best]))
    }

    fn best(&self, tried: Tried) -> Option<usize> {
        let nodes = &self.upstream.nodes;
        let begin = self.turn.get();
        self.turn.set((begin + 1) % nodes.len());
        let in_turn = (begin..nodes.len()).chain(0..begin).filter(|at| tried.0 & (1 << at) == 0);
        in_turn.min_by_key(|at| (nodes[*at].condition(), nodes[*at].in_flight()))
    }

    /// Closes unused connections whenever another worker needs room. Never ends.
    pub(crate) async fn make_room(&self) {
        loop {
            self.upstream.room.wanted().await;
            self.pools.iter().for_each(|pool| pool.forget());
        }
    }

    /// Closes connections that were idle for too long. How many are left.
    pub(crate) fn drop_idle(&self, now: WorkerTime) -> usize {
        self.pools.iter().map(|pool| pool.drop_idle(now)).sum()
    }
}

impl<B> Chosen<B> {
    fn counted(pool: &Rc<Pool<B>>) -> Self {
        pool.node().begin();
        Self { pool: Rc::clone(pool), counts: true }
    }

    /// What the `Host` field says there.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.pool.node().host
    }

    /// No connection to it could be made.
    pub(crate) fn failed(&self, error: &ConnectError) {
        if self.counts {
            self.pool.upstream.connect_failed(self.pool.node(), error);
        }
    }

    /// The reply is over.
    pub(crate) fn finish(&mut self) {
        if std::mem::take(&mut self.counts) {
            self.pool.node().end();
        }
    }
}

impl<B> Drop for Chosen<B> {
    fn drop(&mut self) {
        self.finish();
    }
}
