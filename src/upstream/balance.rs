//! Which node gets a request: of those in the best standing the one with the fewest requests in flight, over all workers;
//! of several with as few, each in turn.
//!
//! All are tried before a request is refused, the unhealthy ones last: what is known of a node can be wrong, and a check
//! must not make an outage.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Display;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;

use super::connect::ConnectError;
use super::node::Condition;
use super::pool::{Lease, Pool};
use super::{MAX_NODES, Node, Upstream};
use crate::worker::alarm::WorkerTime;

/// One upstream as one worker has it: connections to each of its nodes.
pub(crate) struct Balancer<B> {
    /// Where they lead.
    pub(crate) upstream: Arc<Upstream>,
    pools: Box<[Rc<Pool<B>>]>,
    /// Where the next search begins: behind the node that was chosen last, so that those that are as good get as much.
    turn: Cell<usize>,
}

/// The nodes that a request need not be tried at again: they could not be connected to, or gave no reply.
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

    /// The same under another configuration: connections to nodes that are still there stay, the others are closed.
    pub(crate) fn with(&self, upstream: Arc<Upstream>) -> Self {
        let kept = |node: &Arc<Node>| self.pools.iter().find(|pool| Arc::ptr_eq(pool.shared_node(), node));
        let pools = upstream.nodes.iter().enumerate().map(|(at, node)| match kept(node) {
            Some(pool) => Rc::new(pool.with(Arc::clone(&upstream), at)),
            None => Rc::new(Pool::new(Arc::clone(&upstream), at)),
        });
        let pools = pools.collect();
        let is_gone = |pool: &&Rc<Pool<B>>| !upstream.nodes.iter().any(|node| Arc::ptr_eq(pool.shared_node(), node));
        self.pools.iter().filter(is_gone).for_each(|pool| pool.abandon());
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

    /// The node for a request that `failed` does not serve. `None`: all were tried.
    pub(crate) fn other(&self, failed: &Chosen<B>, tried: &mut Tried) -> Option<Chosen<B>> {
        tried.0 |= 1 << failed.pool.node;
        self.best(*tried).map(|best| Chosen::counted(&self.pools[best]))
    }

    fn best(&self, tried: Tried) -> Option<usize> {
        let nodes = &self.upstream.nodes;
        let begin = self.turn.get();
        let in_turn = (begin..nodes.len()).chain(0..begin).filter(|at| tried.0 & (1 << at) == 0);
        let best = in_turn.min_by_key(|at| (nodes[*at].standing(), nodes[*at].in_flight()))?;
        self.turn.set((best + 1) % nodes.len());
        Some(best)
    }

    /// An unused connection to another node that is as good as `chosen`.
    pub(crate) fn reuse_elsewhere(
        &self,
        chosen: &Chosen<B>,
        tried: Tried,
        now: WorkerTime,
    ) -> Option<(Chosen<B>, Lease<B>)> {
        let standing = chosen.pool.node().standing();
        let others = self.pools.iter().filter(|pool| tried.0 & (1 << pool.node) == 0);
        let mut as_good = others.filter(|pool| pool.node != chosen.pool.node && pool.node().standing() <= standing);
        as_good.find_map(|pool| pool.reuse(now).map(|lease| (Chosen::counted(pool), lease)))
    }

    /// Leave to make one more connection, unless there are as many as may be.
    pub(crate) fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.upstream.connections.take_now()
    }

    /// Leave to make one more connection. Where there are as many as may be, some are unused, maybe other workers': one of
    /// them is closed. Cancel-safe.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        let Upstream { connections, room, .. } = &*self.upstream;
        let _wanted = room.want();
        if !self.close_spare() {
            room.ask();
        }
        connections.take().await
    }

    /// Closes unused connections, as many as other workers need room for. Never ends.
    pub(crate) async fn make_room(&self) {
        loop {
            let mut asked = pin!(self.upstream.room.asked());
            // From here on it is noticed: who asks while spare ones are closed is not missed.
            asked.as_mut().enable();
            while self.close_spare() {}
            asked.await;
        }
    }

    /// Closes the connection that is unused for the longest time, if somebody waits for room. Whether one was closed.
    fn close_spare(&self) -> bool {
        let unused = self.pools.iter().filter_map(|pool| Some((pool.oldest()?, pool)));
        let oldest = unused.min_by_key(|(since, _)| *since);
        oldest.filter(|_| self.upstream.room.serve()).map(|(_, pool)| pool.close_oldest()).is_some()
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

    /// A request that was sent there got no reply.
    pub(crate) fn unanswered(&self, error: &dyn Display) {
        if self.counts {
            self.pool.upstream.unanswered(self.pool.node(), error);
        }
    }

    /// The head of a reply has come.
    pub(crate) fn answered(&self) {
        if self.counts {
            self.pool.upstream.answered(self.pool.node());
        }
    }

    /// It goes last.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.pool.node().standing() == Condition::Unhealthy
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
