//! A worker's connections to one node of an upstream, carried by hyper. Whether one can be used again is hyper's to say: both messages
//! ended, nothing unread, nothing owed.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt::Display;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

use super::connect::{Address, ConnectError};
use super::io::{Io, Signs};
use super::{Node, Step, Upstream};
use crate::socket::Socket;
use crate::worker::Worker;
use crate::worker::alarm::{Alarm, WorkerTime};
use crate::worker::panic::Guard;

/// Most that is read ahead of an upstream's reply, and so the largest reply head. It bounds what an idle connection holds.
const MAX_READ_AHEAD: usize = 32 * 1024;

/// A worker's connections to one node of an upstream, for requests with bodies of type `B`. The last used is used first, so that spare ones age and go.
pub(crate) struct Pool<B> {
    /// Where they lead.
    pub upstream: Arc<Upstream>,
    /// To which of its nodes.
    pub(super) node: usize,
    /// The same for the pools of one node, whichever configuration they are of.
    idle: Rc<RefCell<Vec<Idle<B>>>>,
    /// The configuration has no such node any more.
    is_abandoned: Cell<bool>,
}

/// One that is unused, and since when.
type Idle<B> = (Connection<B>, WorkerTime);

/// A connection, held by nobody else. It is closed when this is dropped.
struct Connection<B> {
    sender: SendRequest<B>,
    address: Address,
    /// Gone with the task: what is over holds no descriptor, though it may stay here for a while.
    socket: Weak<Socket>,
    /// Ends the task that carries it: whatever is under way ends with it.
    task: AbortHandle,
    signs: Rc<Signs>,
    generation: u64,
}

/// A connection that carries one request. Dropping it closes the connection; [`Lease::give_back`] returns it to the pool.
pub(crate) struct Lease<B> {
    pool: Rc<Pool<B>>,
    connection: Connection<B>,
    /// Whether it has carried a request before: then it may have died since.
    pub reused: bool,
}

impl<B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + 'static> Pool<B> {
    /// No connections yet.
    pub(super) fn new(upstream: Arc<Upstream>, node: usize) -> Self {
        Self { upstream, node, idle: Rc::default(), is_abandoned: Cell::new(false) }
    }

    /// The pool of the same node under another configuration, with the same connections.
    pub(super) fn with(&self, upstream: Arc<Upstream>, node: usize) -> Self {
        Self { upstream, node, idle: Rc::clone(&self.idle), is_abandoned: Cell::new(false) }
    }

    /// Closes what is unused, and from now on everything that becomes so.
    pub(super) fn abandon(&self) {
        self.is_abandoned.set(true);
        self.forget();
    }

    /// A connection that was used before and can be used again, as far as is known.
    pub(crate) fn reuse(self: &Rc<Self>, now: WorkerTime) -> Option<Lease<B>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            // One whose last exchange is not quite over, as hyper sees it, is left for later.
            let at = idle.iter().rposition(|(connection, _)| connection.sender.is_ready())?;
            let (connection, since) = idle.remove(at);
            // hyper looks at idle connections too, but its turn may come after this one: what was received by then would be
            // taken for the reply to this request.
            let is_current = connection.generation == self.node().connector.generation();
            let is_fresh = now.since(since) < self.upstream.config.pool_idle_timeout;
            let is_quiet = connection.socket.upgrade().is_some_and(|socket| socket.is_quiet());
            if is_current && is_fresh && is_quiet {
                return Some(Lease { pool: Rc::clone(self), connection, reused: true });
            }
        }
    }

    /// A new connection, once there may be one more.
    ///
    /// # Errors
    /// [`ConnectError`] says how far it came.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Lease<B>, ConnectError> {
        // Before connecting: what is reloaded meanwhile makes this one of the former.
        let generation = self.node().connector.generation();
        let (stream, address) = self.node().connector.connect().await?;
        let socket = Rc::new(Socket::new(stream));
        let weak = Rc::downgrade(&socket);
        let signs = Rc::default();
        let pause = self.upstream.config.idle_timeout;
        let io = Io::new(socket, Alarm::new(worker), pause, Rc::clone(&signs), slot);
        // Most requests are small: copying their body behind the head costs less than handing the kernel two pieces.
        let handshake = Builder::new().max_buf_size(MAX_READ_AHEAD).writev(false).handshake(TokioIo::new(io)).await;
        // Nothing is exchanged yet, so nothing can fail.
        let (sender, carried) = handshake
            .map_err(|error| ConnectError::new(Step::Connect, Some(address.clone()), std::io::Error::other(error)))?;
        let guard = Guard::new(&worker.panics);
        let leads_to = address.clone();
        let task = tokio::task::spawn_local(async move {
            let _guard = guard;
            if let Err(error) = carried.await {
                tracing::debug!(address = %leads_to, %error, "an upstream connection ended");
            }
        });
        let connection = Connection { sender, address, socket: weak, task: task.abort_handle(), signs, generation };
        Ok(Lease { pool: Rc::clone(self), connection, reused: false })
    }

    /// Closes every idle connection: one was found dead, so the others are suspect.
    pub(crate) fn forget(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Since when the connection is unused that is so for the longest time.
    pub(super) fn oldest(&self) -> Option<WorkerTime> {
        let mut idle = self.idle.borrow_mut();
        // What has ended already makes no room.
        idle.retain(|(connection, _)| !connection.sender.is_closed());
        idle.first().map(|(_, since)| *since)
    }

    /// Closes that one.
    pub(super) fn close_oldest(&self) {
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            drop(idle.remove(0));
        }
    }

    /// Closes those that were idle for too long. How many are left.
    pub(super) fn drop_idle(&self, now: WorkerTime) -> usize {
        let timeout = self.upstream.config.pool_idle_timeout;
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(connection, since)| !connection.sender.is_closed() && now.since(*since) < timeout);
        idle.len()
    }
}

impl<B> Pool<B> {
    /// Where they lead.
    pub(crate) fn node(&self) -> &Node {
        self.shared_node()
    }

    pub(super) fn shared_node(&self) -> &Arc<Node> {
        &self.upstream.nodes[self.node]
    }

    /// Counts a failure and logs it, unless there were many lately.
    pub(crate) fn report(&self, address: Option<&Address>, step: Step, request_id: &str, error: &dyn Display) {
        self.upstream.report(self.node(), address, step, request_id, error);
    }
}

impl<B: Body + 'static> Lease<B> {
    /// Sends a request and waits for the head of the reply. Dropping the future closes the connection.
    ///
    /// # Errors
    /// hyper's, with the request if nothing of it was written.
    pub(crate) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.connection.signs.answered.set(false);
        self.connection.sender.try_send_request(request)
    }

    /// Whether anything came back since the request was sent.
    pub(crate) fn is_answered(&self) -> bool {
        self.connection.signs.answered.get()
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &Address {
        &self.connection.address
    }

    /// Counts a failure and logs it, unless there were many lately.
    pub(crate) fn report(&self, step: Step, request_id: &str, error: &dyn Display) {
        self.pool.report(Some(self.address()), step, request_id, error);
    }

    /// Returns the connection to the pool for the next request, once the reply was read to its end. It is used again when hyper has seen
    /// both messages end.
    pub(crate) fn give_back(self, now: WorkerTime) {
        let Self { pool, connection, .. } = self;
        let mut idle = pool.idle.borrow_mut();
        let Upstream { config, room, .. } = &*pool.upstream;
        let is_wanted = !pool.is_abandoned.get() && idle.len() < config.pool_max_idle;
        // One that is deaf has got only a part of the last request; and where somebody waits for room, this makes it.
        if !connection.signs.deaf.get() && is_wanted && !room.serve() {
            idle.push((connection, now));
        }
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
