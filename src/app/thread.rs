//! A worker's thread from start to stop: its accept loops, what looks after its connections, and its drain.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::live::{Live, Renewal};
use super::service::Pulse;
use super::supervise::Supervisor;
use crate::health::Health;
use crate::listener::{self, Listener, ListeningSocket, Opening, Stage};
use crate::lock::RwLock;
use crate::proxy::Current;
use crate::worker::Worker;

/// What a worker's thread starts with.
pub(super) struct WorkerThread {
    pub(super) live: Arc<Live>,
    pub(super) health: Arc<Health>,
    pub(super) sockets: Vec<(ListeningSocket, Arc<RwLock<Opening>>)>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) supervisor: Supervisor,
}

impl WorkerThread {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn spawn(self, index: usize) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _guard = self.supervisor.guard("worker thread");
            let mut runtime = runtime;
            match runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()) {
                Ok(runtime) => {
                    let pulse = Arc::clone(&self.pulse);
                    runtime.block_on(self.run(index));
                    pulse.end(index);
                    // A lookup of a name may hang in a thread of its own.
                    runtime.shutdown_background();
                }
                Err(error) => {
                    tracing::error!(%error, "cannot start a worker");
                    self.supervisor.fail("worker thread");
                }
            }
        })
    }

    async fn run(mut self, index: usize) {
        let Health { uses, tallies, connections, panics, .. } = &*self.health;
        let (connections, panics) = (Arc::clone(connections), Arc::clone(panics));
        let mut gates = self.live.gates();
        let gate = Arc::clone(&gates.borrow_and_update().gate);
        let worker = Worker::new(gate.buffer_bytes(), connections, panics);
        let current = Current::new(worker, gate, Arc::clone(uses), tallies.worker());
        let supervisor = || self.supervisor.clone();
        let (swept, rechecked, roomy) = (Rc::clone(&current), Rc::clone(&current), Rc::clone(&current));
        let renewed = Rc::clone(&current);
        tokio::task::spawn_local(supervisor().supervise("sweep", move || Rc::clone(&swept).sweep()));
        tokio::task::spawn_local(supervisor().supervise("recheck", move || Rc::clone(&rechecked).recheck()));
        tokio::task::spawn_local(supervisor().supervise("make room", move || Rc::clone(&roomy).make_room()));
        let renew = move || renew(Rc::clone(&renewed), gates.clone());
        tokio::task::spawn_local(supervisor().supervise("reload", renew));
        let pulse = Arc::clone(&self.pulse);
        let answer = move || Arc::clone(&pulse).answer(index);
        tokio::task::spawn_local(supervisor().supervise("pulse", answer));
        // An error means that the sidecar was dropped before it accepted: what waits in the sockets is not for it.
        if self.stage.wait_for(|stage| *stage >= Stage::Accepting).await.is_err() {
            return;
        }
        let mut accepting = JoinSet::new();
        for (socket, opening) in self.sockets {
            match Listener::new(socket) {
                Ok(socket) => {
                    let (connection_limits, stage) = (Arc::clone(self.live.connection_limits()), self.stage.clone());
                    let (current, socket) = (Rc::clone(&current), Rc::new(socket));
                    let accept = move || {
                        let (current, socket, connection_limits) =
                            (Rc::clone(&current), Rc::clone(&socket), Arc::clone(&connection_limits));
                        listener::accept(current, socket, Arc::clone(&opening), connection_limits, stage.clone())
                    };
                    accepting.spawn_local(supervisor().supervise("accept loop", accept));
                }
                Err(error) => {
                    tracing::error!(%error, "a worker cannot listen");
                    self.supervisor.fail("accept loop");
                }
            }
        }
        // And here, that it was dropped, which is a stop too.
        let stage =
            self.stage.wait_for(|stage| *stage > Stage::Accepting).await.map_or(Stage::Stopping, |stage| *stage);
        match stage {
            Stage::Ceding => current.worker.take_leave(),
            _ => current.worker.drain(),
        }
        let drain = current.proxy().gate.timeouts.drain;
        let mut idle = async || {
            let finished = async {
                // Each ends when nobody waits any more, and by a panic at worst: in-flight requests are finished all the same.
                while accepting.join_next().await.is_some() {}
                current.worker.idle().await;
            };
            tokio::time::timeout(drain, finished).await.is_ok()
        };
        if stage == Stage::Ceding {
            if idle().await {
                return;
            }
            // They had their time.
            current.worker.drain();
        }
        if !idle().await {
            tracing::warn!("drain timeout: closing in-flight requests");
        }
    }
}

/// Has the worker's new requests served by each gate that takes the place of the one before. Never ends.
async fn renew(current: Rc<Current>, mut gates: watch::Receiver<Renewal>) {
    // Also one that came while an earlier run of this task ended by a panic.
    loop {
        let renewal = gates.borrow_and_update().clone();
        if !Arc::ptr_eq(&renewal.gate, &current.proxy().gate) {
            current.renew(Arc::clone(&renewal.gate));
        }
        renewal.is_taken();
        drop(renewal);
        if gates.changed().await.is_err() {
            // The sidecar was dropped.
            std::future::pending::<()>().await;
        }
    }
}
