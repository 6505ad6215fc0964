//! How a sidecar is: what the admin listener shows, and what its reports say.

mod reloads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::listener::Tls;
use crate::prove::Proofs;
use crate::proxy::failed_auth::FailedAuth;
use crate::proxy::{Cache, FailedAuthLimit, LateUses, Tallies};
use crate::readiness::Readiness;
use crate::replica::{MaxStaleness, Replica};
use crate::tls::handshake::Handshakes;
use crate::upstream::Upstream;
use crate::usage::Uses;

pub(crate) use reloads::{ReloadOutcome, Reloads};

/// See [`Health::without_commands`].
const WITHOUT_COMMANDS: &str = "another process has the name of the socket for commands: `tollgate drain`, `tollgate cache` and \
                                `tollgate check --running` do not reach this one; the log says which process";

/// What a reload exchanges, as far as it is seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Configured {
    /// The upstreams.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The certificates of the listeners.
    pub listener_tls: Vec<Arc<Tls>>,
    /// Client connections that may be open.
    pub max_connections: usize,
    /// Every key of the configuration that has a value, as it is in effect.
    pub values: BTreeMap<String, String>,
}

/// How a sidecar is. Everything is counted here or by whom it is shared with.
#[derive(Debug)]
pub struct Health {
    /// What requests are decided by.
    pub replica: Arc<Replica>,
    /// Whether it wants requests.
    pub readiness: Arc<Readiness>,
    /// Open client connections.
    pub connections: Arc<AtomicUsize>,
    /// What workers count of requests.
    pub tallies: Tallies,
    /// Reports that the store did not take.
    pub reports_failed: AtomicU64,
    /// What a reload exchanges.
    pub(crate) configured: watch::Sender<Arc<Configured>>,
    /// How reloads went.
    pub(crate) reloads: Reloads,
    /// Tasks that ended by a panic.
    pub panics: Arc<AtomicU64>,
    /// Requests with tokens that had expired.
    pub late: Arc<LateUses>,
    /// Connections that were closed because their address had too many.
    pub refused: Arc<AtomicU64>,
    /// Connections that were closed because they did not begin with the PROXY header that they must have.
    pub without_proxy_header: Arc<AtomicU64>,
    /// Lines that the access log has lost.
    pub access_log_lost: Arc<AtomicU64>,
    /// Spans that were not exported.
    pub spans_lost: Arc<AtomicU64>,
    /// TLS handshakes of clients that failed.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Requests that nobody could be let in for.
    pub(crate) failed_auth: Arc<FailedAuth>,
    /// Which tokens are used here.
    pub(crate) uses: Arc<Uses>,
    /// Configurations for when the Controller is away, if they are stored.
    pub cache: Option<Arc<Cache>>,
    /// Times that their use could not be recorded.
    pub flushes_failed: Arc<AtomicU64>,
    /// What proofs made here came to.
    pub(crate) proofs: Arc<Proofs>,
    /// Another process has the name of the socket for commands.
    pub(crate) without_commands: AtomicBool,
}

impl Health {
    /// Of a sidecar that starts.
    pub fn new(
        replica: Arc<Replica>,
        max_staleness: MaxStaleness,
        failed_auth: FailedAuthLimit,
        cache: Option<Arc<Cache>>,
    ) -> Self {
        Self {
            readiness: Arc::new(Readiness::new(Arc::clone(&replica), max_staleness)),
            replica,
            connections: Arc::default(),
            tallies: Tallies::default(),
            reports_failed: AtomicU64::new(0),
            configured: watch::Sender::default(),
            reloads: Reloads::default(),
            panics: Arc::default(),
            late: Arc::default(),
            refused: Arc::default(),
            without_proxy_header: Arc::default(),
            access_log_lost: Arc::default(),
            spans_lost: Arc::default(),
            handshakes: Arc::default(),
            failed_auth: Arc::new(FailedAuth::new(failed_auth)),
            uses: Arc::default(),
            cache,
            flushes_failed: Arc::default(),
            proofs: Arc::default(),
            without_commands: AtomicBool::new(false),
        }
    }

    /// What is configured now.
    pub(crate) fn configured(&self) -> Arc<Configured> {
        Arc::clone(&self.configured.borrow())
    }

    /// What is wrong and makes the sidecar no less ready: it would be no better elsewhere.
    pub fn warnings(&self) -> Vec<String> {
        let configured = self.configured();
        let upstreams = &configured.upstreams;
        let credentials = upstreams.iter().flat_map(|upstream| upstream.credential_problems());
        let nodes = upstreams.iter().flat_map(|upstream| upstream.node_problems());
        let cache = self.cache.iter().flat_map(|cache| cache.problems());
        let without_commands = self.without_commands.load(Ordering::Relaxed).then(|| WITHOUT_COMMANDS.to_owned());
        credentials.chain(nodes).chain(cache).chain(without_commands).collect()
    }
}
