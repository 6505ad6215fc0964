//! A worker's thread from start to stop: its accept loops, what looks after its connections, and its drain.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::service::Pulse;
use super::supervise::Supervisor;
use crate::connection::ConnectionLimits;
use crate::health::Health;
use crate::listener::{self, Listener, ListeningSocket, Opening};
use crate::proxy::{Gate, Proxy};

/// What a worker's thread starts with.
pub(super) struct WorkerThread {
    pub(super) gate: Arc<Gate>,
    pub(super) health: Arc<Health>,
    pub(super) sockets: Vec<(ListeningSocket, Arc<Opening>)>,
    pub(super) connection_limits: Arc<ConnectionLimits>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) drain: Duration,
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
        let proxy = Proxy::new(self.gate, Arc::clone(uses), tallies.worker(), connections, panics);
        let supervisor = || self.supervisor.clone();
        let (swept, rechecked, roomy) = (Rc::clone(&proxy), Rc::clone(&proxy), Rc::clone(&proxy));
        tokio::task::spawn_local(supervisor().supervise("sweep", move || Rc::clone(&swept).sweep()));
        tokio::task::spawn_local(supervisor().supervise("recheck", move || Rc::clone(&rechecked).recheck()));
        tokio::task::spawn_local(supervisor().supervise("make room", move || Rc::clone(&roomy).make_room()));
        let pulse = Arc::clone(&self.pulse);
        let answer = move || Arc::clone(&pulse).answer(index);
        tokio::task::spawn_local(supervisor().supervise("pulse", answer));
        let mut accepting = Vec::new();
        for (socket, opening) in self.sockets {
            match Listener::new(socket) {
                Ok(socket) => {
                    let (connection_limits, stopped) = (Arc::clone(&self.connection_limits), self.stopped.clone());
                    let (proxy, socket) = (Rc::clone(&proxy), Rc::new(socket));
                    let accept = move || {
                        let (proxy, socket, connection_limits) =
                            (Rc::clone(&proxy), Rc::clone(&socket), Arc::clone(&connection_limits));
                        listener::accept(proxy, socket, Arc::clone(&opening), connection_limits, stopped.clone())
                    };
                    accepting.push(tokio::task::spawn_local(supervisor().supervise("accept loop", accept)));
                }
                Err(error) => {
                    tracing::error!(%error, "a worker cannot listen");
                    self.supervisor.fail("accept loop");
                }
            }
        }
        // An error means that the sidecar was dropped, which is a stop too.
        drop(self.stopped.wait_for(|stopped| *stopped).await);
        proxy.worker.drain();
        for task in accepting {
            // It ends with the stop, and by a panic at worst: in-flight requests are finished all the same.
            drop(task.await);
        }
        if tokio::time::timeout(self.drain, proxy.worker.idle()).await.is_err() {
            tracing::warn!("drain timeout: closing in-flight requests");
        }
    }
}
