//! What only this host may ask for: the commands that show what a sidecar has, or change what it does, without a token.
//!
//! They come by a Unix socket and not by the admin listener. There a proxy looks like this host whoever its clients are, and so does a
//! page in somebody's browser. The socket is in the abstract namespace, named after the admin listener: no directory has to be
//! there, nothing is left when the process ends, and the kernel says who is at the other end. Root is answered, and the user that
//! the process runs as. Anybody on the host can take the name while nobody has it: so whoever commands looks who answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{ACCEPT_PAUSE, config_cache, drain, effective, json};
use crate::health::Health;
use crate::worker::panic::Guard;

/// Commands at once.
const MAX_CONNECTIONS: u32 = 4;

/// Longest wait for a command: whoever connects has one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time for a command and its answer: whoever gave it waits no longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A process that is replaced has the name for a moment longer.
const UNNAMED_FOR: Duration = Duration::from_secs(5);

/// Where the process with this admin listener takes commands: a path as the standard library has it, of an abstract name.
pub(crate) fn name(admin: SocketAddr) -> String {
    format!("\0tollgate/{admin}")
}

/// Commands that are carried out.
#[derive(Debug, Clone)]
pub(super) struct Commands(Arc<Semaphore>);

impl Commands {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)))
    }

    /// Takes no more. Waits until the others have ended.
    pub(super) async fn close(&self) {
        // An error means that they were closed before.
        drop(self.0.acquire_many(MAX_CONNECTIONS).await);
        self.0.close();
    }

    /// Takes them. Never ends.
    pub(super) async fn serve(self, health: Arc<Health>, admin: SocketAddr) {
        let listener = bound(admin, &health).await;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Others are not heard, so that they take no place from those who are. They see whose sidecar it is.
            if !stream.peer_cred().is_ok_and(|peer| may_command(peer.uid())) {
                continue;
            }
            // Errors mean that it was closed, which nobody does.
            let Ok(place) = Arc::clone(&self.0).acquire_owned().await else { return };
            let health = Arc::clone(&health);
            tokio::spawn(async move {
                let _place = place;
                let _guard = Guard::new(&health.panics);
                if tokio::time::timeout(TIMEOUT, requests(stream, &health)).await.is_err() {
                    tracing::warn!("a command was not over after {TIMEOUT:?}: closed");
                }
            });
        }
    }
}

async fn bound(admin: SocketAddr, health: &Health) -> UnixListener {
    let since = Instant::now();
    let mut is_said = false;
    loop {
        let error = match UnixListener::bind(name(admin)) {
            Ok(listener) => {
                if is_said {
                    tracing::info!("commands on this host reach this process from now on");
                }
                health.without_commands.store(false, Ordering::Relaxed);
                return listener;
            }
            Err(error) => error,
        };
        if !is_said {
            let holder = Holder::of(admin).await.ok();
            // Of one that may command it is expected that it goes: this process takes over from it.
            is_said = holder.as_ref().is_some_and(|holder| !may_command(holder.user)) || since.elapsed() > UNNAMED_FOR;
            if is_said {
                say_who_has_it(admin, &error, holder);
                health.without_commands.store(true, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn say_who_has_it(admin: SocketAddr, error: &io::Error, holder: Option<Holder>) {
    let (user, process) = holder.map(|Holder { user, process }| (user, process)).unzip();
    tracing::error!(
        %error, name = format!("@tollgate/{admin}"), user, process = process.flatten(),
        "another process has the name of the socket for commands: `tollgate drain`, `tollgate cache` and `tollgate check --running` do \
         not reach this one until that process ends"
    );
}

/// Who has the name.
struct Holder {
    user: u32,
    process: Option<i32>,
}

impl Holder {
    async fn of(admin: SocketAddr) -> io::Result<Self> {
        let peer = UnixStream::connect(name(admin)).await?.peer_cred()?;
        Ok(Self { user: peer.uid(), process: peer.pid() })
    }
}

/// Whether this user may.
fn may_command(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

async fn requests(stream: UnixStream, health: &Health) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, health).await) });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a command");
    }
}

async fn answer(request: &Request<Incoming>, health: &Health) -> Response<Body> {
    match request.uri().path() {
        drain::PATH => drain::answer(request.method(), health),
        effective::PATH => effective::answer(request, health),
        path => match path.strip_prefix(config_cache::PATH) {
            Some(path) if path.is_empty() || path.starts_with('/') => config_cache::answer(request, path, health).await,
            _ => json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "Not found" })),
        },
    }
}
