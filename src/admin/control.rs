//! What only this host may ask for: the commands that show what a sidecar has, or change what it does, without a token.
//!
//! They come by a Unix socket and not by the admin listener. There a proxy looks like this host whoever its clients are, and so does a
//! page in somebody's browser. The socket is in the abstract namespace, named after the admin listener: no directory has to be
//! there, nothing is left when the process ends, and the kernel says who is at the other end. Root is answered, and the user that
//! the process runs as.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{ACCEPT_PAUSE, HEAD_TIMEOUT, config_cache, drain, effective, json};
use crate::health::Health;
use crate::worker::panic::Guard;

/// Commands at once.
const MAX_CONNECTIONS: usize = 4;

/// A process that is replaced has the name for a moment longer.
const UNNAMED_FOR: Duration = Duration::from_secs(5);

/// Where the process with this admin listener takes commands.
///
/// # Errors
/// None: such a name is short enough.
pub(crate) fn address(admin: SocketAddr) -> io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(format!("tollgate/{admin}"))
}

/// Takes commands. Never ends.
pub(super) async fn serve(health: Arc<Health>, admin: SocketAddr) {
    let listener = bound(admin).await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Errors mean that it was closed, which nobody does.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let _place = place;
            let _guard = Guard::new(&health.panics);
            let may_command = stream.peer_cred().is_ok_and(|peer| may_command(peer.uid()));
            requests(stream, may_command, &health).await;
        });
    }
}

async fn bound(admin: SocketAddr) -> UnixListener {
    let since = tokio::time::Instant::now();
    let mut is_said = false;
    loop {
        match bind(admin) {
            Ok(listener) => return listener,
            Err(error) if !is_said && since.elapsed() > UNNAMED_FOR => {
                is_said = true;
                tracing::warn!(%error, "commands on this host, such as `tollgate cache`, do not reach this process");
            }
            Err(_) => {}
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn bind(admin: SocketAddr) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&address(admin)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Whether this user may.
fn may_command(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

async fn requests(stream: UnixStream, may_command: bool, health: &Health) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(may_command, &request, health).await) });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a command");
    }
}

async fn answer(may_command: bool, request: &Request<Incoming>, health: &Health) -> Response<Body> {
    let refused = |status, error| json(status, &serde_json::json!({ "error": error }));
    if !may_command {
        return refused(StatusCode::FORBIDDEN, "Only root, and the user that the sidecar runs as, may do this");
    }
    match request.uri().path() {
        drain::PATH => drain::answer(request.method(), health),
        effective::PATH => effective::answer(request, health),
        path => match path.strip_prefix(config_cache::PATH) {
            Some(path) if path.is_empty() || path.starts_with('/') => config_cache::answer(request, path, health).await,
            _ => refused(StatusCode::NOT_FOUND, "Not found"),
        },
    }
}
