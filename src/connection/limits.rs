//! How many client connections there may be: in all, and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use super::proxy_protocol::HeaderError;
use crate::lock::Mutex;
use crate::proxy::Limits;
use crate::proxy::network::client_network;
use crate::sampler::Sampler;
use crate::slots::Slots;
use crate::tls::handshake::Handshakes;

/// The limits of client connections, over all listeners and workers.
pub(crate) struct ConnectionLimits {
    slots: Arc<Slots>,
    clients: Arc<Clients>,
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
#[derive(Default)]
struct Clients {
    /// 0: as many as there may be in all. Then they are not counted, so that they count once there is a limit only from then on.
    most: AtomicUsize,
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
        let clients = Arc::<Clients>::default();
        clients.set_most(limits);
        Self {
            slots: Slots::new(limits.max_connections.get()),
            clients,
            refused,
            without_header,
            handshakes,
            refusals: Sampler::default(),
            headers: Sampler::default(),
            failures: Sampler::default(),
        }
    }

    /// These count from now on. Whoever is connected stays so. Within a runtime.
    pub(crate) fn set(&self, limits: &Limits) {
        self.slots.resize(limits.max_connections.get());
        self.clients.set_most(limits);
    }

    /// Waits until there is one more.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        self.slots.take().await
    }

    /// The slot of a connection from this address; `None`: there are too many from it.
    pub(crate) fn admit(&self, slot: OwnedSemaphorePermit, address: IpAddr) -> Option<ConnectionSlot> {
        let most = self.clients.most.load(Ordering::Relaxed);
        if most == 0 {
            return Some(ConnectionSlot { _slot: slot, _client: None });
        }
        if let Some(client) = Clients::admit(&self.clients, most, address) {
            return Some(ConnectionSlot { _slot: slot, _client: Some(client) });
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.refusals.admit() {
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
    fn set_most(&self, limits: &Limits) {
        let most = limits.max_connections_per_client.map_or(0, std::num::NonZeroUsize::get);
        self.most.store(most, Ordering::Relaxed);
    }

    fn admit(this: &Arc<Self>, most: usize, address: IpAddr) -> Option<ClientSlot> {
        let key = client_network(address);
        let mut counts = this.counts.lock();
        let count = counts.entry(key).or_default();
        if *count >= most {
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
        let clients = Arc::<Clients>::default();
        let address = "192.0.2.1".parse().expect("an address");
        let admit = || Clients::admit(&clients, 2, address);
        let held = (admit().expect("the first"), admit().expect("the second"));
        assert!(admit().is_none());
        drop(held.0);
        assert!(admit().is_some(), "one was free again");
        drop(held.1);
        assert!(clients.counts.lock().is_empty());
    }
}
