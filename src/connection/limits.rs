//! How many client connections there may be: in all, and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::proxy_protocol::HeaderError;
use crate::lock::Mutex;
use crate::proxy::Limits;
use crate::proxy::network::client_network;
use crate::sampler::Sampler;
use crate::tls::handshake::Handshakes;

/// The limits of client connections, over all listeners and workers.
pub(crate) struct ConnectionLimits {
    slots: Arc<Semaphore>,
    clients: Option<Arc<Clients>>,
    /// Connections that were closed because their address had too many.
    refused: Arc<AtomicU64>,
    /// Connections that were closed because they did not begin with a PROXY header.
    without_header: Arc<AtomicU64>,
    /// TLS handshakes that failed.
    pub(super) handshakes: Arc<Handshakes>,
    /// For the log: each of these, and failures to accept.
    refusals: Sampler,
    headers: Sampler,
    failures: Sampler,
}

/// One connection's share of the limits. Freed when dropped.
pub(crate) struct ConnectionSlot {
    _slot: OwnedSemaphorePermit,
    _client: Option<ClientSlot>,
}

/// Connections by address.
struct Clients {
    most: NonZeroUsize,
    counts: Mutex<HashMap<u128, usize>>,
}

struct ClientSlot {
    clients: Arc<Clients>,
    key: u128,
}

impl ConnectionLimits {
    /// All free. Counts here connections that were refused, those without the PROXY header that they must have, and those whose
    /// TLS handshake failed.
    pub(crate) fn new(
        limits: &Limits,
        refused: Arc<AtomicU64>,
        without_header: Arc<AtomicU64>,
        handshakes: Arc<Handshakes>,
    ) -> Self {
        let clients = limits.max_connections_per_client.map(|most| Clients { most, counts: Mutex::default() });
        Self {
            slots: Arc::new(Semaphore::new(limits.max_connections.get().min(Semaphore::MAX_PERMITS))),
            clients: clients.map(Arc::new),
            refused,
            without_header,
            handshakes,
            refusals: Sampler::default(),
            headers: Sampler::default(),
            failures: Sampler::default(),
        }
    }

    /// Waits until there is one more.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.slots).acquire_owned().await {
            Ok(slot) => slot,
            // They are never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// One more, if there is one now.
    pub(crate) fn slot_now(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// The slot of a connection from this address; `None`: there are too many from it.
    pub(crate) fn admit(&self, slot: OwnedSemaphorePermit, address: IpAddr) -> Option<ConnectionSlot> {
        let Some(clients) = &self.clients else { return Some(ConnectionSlot { _slot: slot, _client: None }) };
        if let Some(client) = Clients::admit(clients, address) {
            return Some(ConnectionSlot { _slot: slot, _client: Some(client) });
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.refusals.admit() {
            let most = clients.most;
            tracing::warn!(%address, most, left_out, "a client has too many connections: closing the new one");
        }
        None
    }

    /// Counts a connection that has to begin with a PROXY header and does not, and says so, unless that was said often lately.
    pub(super) fn no_proxy_header(&self, peer: IpAddr, error: &HeaderError) {
        self.without_header.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.headers.admit() {
            tracing::warn!(
                %peer, %error, left_out,
                "connection closed: it comes from an address in `proxy_protocol` of its listener, and must begin with a PROXY header"
            );
        }
    }

    /// Says that accepting fails, unless that was said often lately.
    pub(crate) fn failed(&self, error: &std::io::Error) {
        if let Some(left_out) = self.failures.admit() {
            tracing::error!(%error, left_out, "cannot accept connections");
        }
    }
}

impl Clients {
    fn admit(this: &Arc<Self>, address: IpAddr) -> Option<ClientSlot> {
        let key = client_network(address);
        let mut counts = this.counts.lock();
        let count = counts.entry(key).or_default();
        if *count >= this.most.get() {
            return None;
        }
        *count += 1;
        Some(ClientSlot { clients: Arc::clone(this), key })
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut counts = self.clients.counts.lock();
        let Some(count) = counts.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.key);
            // After a flood from many addresses, give back what it took.
            if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
                counts.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_free_again_leaves_nothing_behind() {
        let most = NonZeroUsize::new(2).expect("not 0");
        let clients = Arc::new(Clients { most, counts: Mutex::default() });
        let address = "192.0.2.1".parse().expect("an address");
        let admit = || Clients::admit(&clients, address);
        let held = (admit().expect("the first"), admit().expect("the second"));
        assert!(admit().is_none());
        drop(held.0);
        assert!(admit().is_some(), "one was free again");
        drop(held.1);
        assert!(clients.counts.lock().is_empty());
    }
}
