//! The configuration cache: agents boot while the Controller is away.
//!
//! ```text
//! permitted fetch ─► join the flight ──► whole 200 ────────► stored, and given to all of the flight
//!                    (one at a time)  ├► the Controller is away, or says nothing for 3 s ─► the stored answer, if there is one
//!                                     └► any other reply ──► to who asked first; the others ask by themselves
//! ```
//!
//! Nobody is given an answer that the token's permissions do not cover at that moment: what is here begins behind the gate, and
//! each request that waits or reads is interrupted by a revocation, as one that is forwarded. It is not a browser's cache
//! (RFC 9111): an answer is stored to be given *in place of none*, so `Cache-Control` of the request means nothing, and
//! `no-store` and `private` of the reply were overruled by who turned it on.

mod blocks;
mod breaker;
mod disk;
mod entry;
mod fetch;
mod first_look;
mod flight;
mod keep;
mod key;
mod memory;
mod outdated;
mod readings;
mod seal;
mod settings;
mod shared;
mod status;
mod unsaved;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::Notify;

use super::body::{Relayed, Upload};
use super::exchange::Exchange;
use super::forward::forward;
use super::path::normalise;
use super::refusal::Refusal;
use super::{Permit, usage};
use crate::clock::Instant;
use crate::lock::Mutex;
use crate::sampler::Sampler;
use crate::upstream::{CredentialMode, UpstreamConfig, UpstreamName};
use breaker::{Attempt, Breaker};
use disk::Disk;
use entry::Entry;
use fetch::Fetch;
use first_look::{Agent, FirstLooks};
use flight::Flights;
use key::{Key, Part, path_part};
use memory::Memory;
use outdated::Answered;
use readings::Readings;

pub(super) use blocks::Blocks;
pub use settings::CacheConfig;
pub use status::{CacheStatus, StoredConfiguration};

/// Why a stored answer is given, as `Cache-Status` says it (RFC 9211): the Controller was asked, and is away,
const AWAY: &str = "fwd=stale; detail=away";
/// or says nothing,
const SILENT: &str = "fwd=stale; detail=timeout";
/// or it could not be asked, since the sidecar has as many requests under way there as it may,
const OVERLOADED: &str = "fwd=stale; detail=overloaded";
/// or it was not asked, since it is away.
const UNASKED: &str = "hit; detail=away";

/// How long a Controller may say nothing before the stored answer is given; and the longest wait for somebody else's fetch.
const PATIENCE: Duration = Duration::from_secs(3);

/// The stored answers, and the fetches under way. Shared by all workers; only fetches of configurations come here.
#[derive(Debug)]
pub struct Cache {
    config: CacheConfig,
    memory: Mutex<Memory>,
    disk: Option<Disk>,
    /// Why there is no disk although there should be.
    without_disk: Option<String>,
    /// Something has to be written or removed.
    changed: Notify,
    readings: Arc<Readings>,
    flights: Arc<Flights>,
    breaker: Arc<Breaker>,
    first_looks: FirstLooks,
    counts: Counts,
    log: Sampler,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Counts {
    served: AtomicU64,
    shared: AtomicU64,
    damaged: AtomicU64,
    disk_failures: AtomicU64,
}

impl Cache {
    /// One for the answers of this Controller, with what an earlier run left in the directory. A directory that cannot be used is
    /// said, and done without: agents shall be served all the same. Reads the directory.
    pub(crate) fn open(config: CacheConfig, upstream: &UpstreamConfig) -> Self {
        let opened = config.directory.as_deref().map(|directory| {
            let disk = Disk::open(directory, origin(upstream))?;
            let claim = disk.claim.lock();
            let files = disk.list(&claim)?;
            let memory = Memory::with_files(claim.is_held());
            drop(claim);
            Ok::<_, io::Error>((disk, memory, files))
        });
        let (mut memory, mut disk, mut without_disk) = (Memory::default(), None, None);
        match opened {
            Some(Ok((opened, with_files, files))) => {
                memory = with_files;
                for (place, bytes) in files {
                    memory.found(place, usize::try_from(bytes).unwrap_or(usize::MAX), &config);
                }
                disk = Some(opened);
            }
            Some(Err(error)) => {
                let directory = config.directory.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
                let problem = format!(
                    "config_cache.directory {directory} cannot be used, so nothing stored survives a restart: {error}"
                );
                tracing::error!("{problem}");
                without_disk = Some(problem);
            }
            None => {}
        }
        Self {
            config,
            memory: Mutex::new(memory),
            disk,
            without_disk,
            changed: Notify::new(),
            readings: Arc::default(),
            flights: Arc::default(),
            breaker: Arc::default(),
            first_looks: FirstLooks::default(),
            counts: Counts::default(),
            log: Sampler::default(),
        }
    }

    /// Whether these are the same Controller, seen with the same kind of credential, so that the answers of one are the other's.
    pub(crate) fn is_of_same(one: &UpstreamConfig, other: &UpstreamConfig) -> bool {
        origin(one) == origin(other)
    }

    /// What is stored for a request with these fields.
    async fn find(self: &Arc<Self>, key: &Key, asked: &HeaderMap) -> Option<Arc<Entry>> {
        self.load(key).await;
        self.memory.lock().find(key, asked, &self.config)
    }

    /// Whether that is anything.
    async fn has(self: &Arc<Self>, key: &Key, asked: &HeaderMap) -> bool {
        self.load(key).await;
        self.memory.lock().has(key, asked, &self.config)
    }

    /// The `Last-Modified` of what is stored, in any form: a watcher does not say which one its agent fetched.
    async fn last_modified(self: &Arc<Self>, key: &Key) -> Option<(HeaderValue, Arc<Entry>)> {
        self.load(key).await;
        self.memory.lock().last_modified(key, &self.config)
    }

    /// Unless it is outdated by now. Files that were not read yet are compared with it when they are.
    fn store(&self, key: &Key, entry: &Arc<Entry>) {
        self.memory.lock().insert(key, Arc::clone(entry), &self.config);
        self.changed.notify_one();
    }

    /// Somebody was answered something else than a configuration: so the Controller is there.
    pub(super) fn overhear(&self, permit: &Permit, reply: &Result<Response<Relayed>, Refusal>) {
        if permit.upstream() == UpstreamName::Api && is_answer(reply) {
            self.breaker.answered();
        }
    }

    /// Takes note of what the Controller says of a path: what is gone there is gone here.
    fn heard(&self, path: Part, status: StatusCode) {
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            self.memory.lock().forget(Some(path));
            self.changed.notify_one();
        }
    }

    /// Another answer was given than can be stored: what was stored before is not true any more, in whatever form.
    fn supersede(&self, key: &Key) {
        self.memory.lock().outdate(key, Answered::another());
        self.changed.notify_one();
    }

    /// An answer was given that is not stored: what was modified at another time is not true any more.
    async fn outdate(self: &Arc<Self>, key: &Key, asked_at: Instant, modified: Option<&HeaderValue>) {
        self.load(key).await;
        self.memory.lock().outdate(key, Answered { asked_at, modified: Some(modified.cloned()) });
        self.changed.notify_one();
    }
}

/// Which Controller an answer is from, and whose credential it sees: with others it says something else.
fn origin(upstream: &UpstreamConfig) -> String {
    let nodes: Vec<String> = upstream.nodes.iter().map(ToString::to_string).collect();
    let credential = match upstream.credential {
        CredentialMode::Forward => "forward",
        // What one fetches the other may give.
        CredentialMode::Strip | CredentialMode::Replace { .. } => "own",
    };
    format!("{} {credential}", nodes.join(","))
}

/// Serves a permitted `GET` or `HEAD` for a configuration.
///
/// # Errors
/// [`Refusal`], when there is no reply.
pub(super) async fn serve(
    cache: &Arc<Cache>,
    exchange: &Rc<Exchange>,
    permit: Permit,
    request: &mut Request<Upload>,
) -> Result<Response<Relayed>, Refusal> {
    let credential = &exchange.proxy.gate.api.config.credential;
    let Some(key) = Key::of(request, &permit, credential) else {
        return pass(cache, exchange, &permit, request).await;
    };
    usage::note(exchange, &permit, request);
    let agent = Agent::of(exchange, &permit, &key, request.headers());
    let fetch = Fetch { cache, exchange, agent, permit: Rc::new(permit), key: Rc::new(key) };
    match *request.method() == Method::HEAD {
        true => fetch.head(request).await,
        false => fetch.get(request).await,
    }
}

/// Serves a fetch whose answer is nobody else's. What it shows of the Controller is for all.
async fn pass(
    cache: &Arc<Cache>,
    exchange: &Rc<Exchange>,
    permit: &Permit,
    request: &mut Request<Upload>,
) -> Result<Response<Relayed>, Refusal> {
    let (path, mut attempt) = (normalise(request.uri().path()).map(|path| path_part(&path)), cache.breaker.must_ask());
    let reply = forward(exchange, permit, request).await;
    if permit.upstream() == UpstreamName::Api {
        learn(&mut attempt, &reply);
        if let (Ok(reply), Ok(path)) = (&reply, path) {
            cache.heard(path, reply.status());
        }
    }
    reply
}

/// Why the stored answer is given in the place of this, as `Cache-Status` says it; `None`: it is not.
fn replaced(reply: &Result<Response<Relayed>, Refusal>) -> Option<&'static str> {
    match reply {
        Ok(reply) => says_away(reply.status()).then_some(AWAY),
        Err(refusal) => unserved(refusal),
    }
}

/// The same of a refusal. Not where the Controller refuses the sidecar's credential: that is an answer.
fn unserved(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::Upstream | Refusal::UpstreamTimeout => Some(AWAY),
        Refusal::Overloaded => Some(OVERLOADED),
        _ => None,
    }
}

/// What an attempt shows of the Controller.
fn learn(attempt: &mut Attempt, reply: &Result<Response<Relayed>, Refusal>) {
    if replaced(reply) == Some(AWAY) {
        attempt.failed();
    } else if is_answer(reply) {
        attempt.answered();
    }
    // Else it ended for another reason.
}

/// Whether the Controller is there.
fn is_answer(reply: &Result<Response<Relayed>, Refusal>) -> bool {
    match reply {
        Ok(reply) => !says_away(reply.status()),
        Err(refusal) => matches!(refusal, Refusal::UpstreamCredential),
    }
}

fn says_away(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}
