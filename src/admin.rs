//! The admin listener: `/livez`, `/readyz` and `/metrics`, and the console.

mod config_cache;
pub(crate) mod control;
mod drain;
mod effective;
mod places;
mod settings;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::console::{self, OverTls, Peer};
use crate::health::Health;
use crate::listener::Tls;
use crate::lock::RwLock;
use crate::metrics;
use crate::sampler::Sampler;
use crate::worker::panic::Guard;

pub(crate) use settings::{AdminConfig, ConsoleStore};

use control::Commands;
use places::{Exchange, Place, Places, Refused, Sending};

/// Longest wait for a request head, and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the other side may leave what it is sent unread.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The TLS of the admin listener.
pub(crate) type AdminTls = Arc<RwLock<Option<Arc<Tls>>>>;

/// What the admin listener has.
#[derive(Clone)]
pub(crate) struct Admin {
    /// How the process is.
    pub health: Arc<Health>,
    /// Without it, plain HTTP. A reload may change it.
    pub tls: AdminTls,
    /// Everything but health and metrics; `None`: nothing.
    pub console: Option<Router>,
    /// What is under way.
    pub under_way: UnderWay,
}

/// What the admin listener answers, and the commands of this host.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay {
    places: Places,
    commands: Commands,
}

impl UnderWay {
    /// Nothing yet. At most so many connections at once: descriptors are reserved for them.
    pub(crate) fn new(max_connections: usize) -> Self {
        Self { places: Places::new(max_connections), commands: Commands::new() }
    }

    /// Takes no more, and finishes what is under way, until `deadline` at most.
    pub(crate) async fn finish(&self, deadline: tokio::time::Instant) {
        let finish = async { tokio::join!(self.places.close(), self.commands.close()) };
        if tokio::time::timeout_at(deadline, finish).await.is_err() {
            let connections = self.places.count();
            tracing::warn!(connections, "drain timeout: closing requests and commands in flight of the admin listener");
        }
    }
}

impl Admin {
    /// Serves, and takes the commands of this host. Never ends.
    pub(crate) async fn serve(self, listener: Arc<TcpListener>) {
        let health = Arc::clone(&self.health);
        let commands = async {
            match listener.local_addr() {
                Ok(address) => self.under_way.commands.clone().serve(health, address).await,
                Err(error) => tracing::error!(%error, "without an address there are no commands"),
            }
        };
        tokio::join!(commands, self.clone().accept(&listener));
    }

    async fn accept(self, listener: &TcpListener) {
        let failures = Sampler::default();
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(left_out) = failures.admit() {
                        tracing::error!(%error, left_out, "cannot accept admin connections");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Whoever gets none sees the end of the connection.
            let Some(place) = self.under_way.places.take(peer.ip().to_canonical()).await else { continue };
            let admin = self.clone();
            tokio::spawn(async move {
                let _guard = Guard::new(&admin.health.panics);
                bound_writes(&stream);
                tokio::select! {
                    () = admin.connection(stream, peer, &place) => {}
                    () = place.leave() => {}
                }
            });
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, place: &Place) {
        let acceptor = self.tls.read().as_deref().map(Tls::acceptor);
        let Some(acceptor) = acceptor else { return self.requests(stream, peer, OverTls(false), place).await };
        let mut first = [0];
        let accept = async {
            if stream.peek(&mut first).await? == 0 {
                return Ok(None);
            }
            acceptor.accept(stream).await.map(Some)
        };
        let accepted = tokio::time::timeout(HEAD_TIMEOUT, accept).await;
        match accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Some(stream)) => self.requests(stream, peer, OverTls(true), place).await,
            Ok(None) => {}
            Err(error) => self.health.handshakes.failed(peer.ip(), &error, first[0]),
        }
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: SocketAddr,
        over: OverTls,
        place: &Place,
    ) {
        let service = service_fn(|request| self.exchange(request, peer, over, place));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = place.closing() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "admin connection");
        }
    }

    /// Answers, if the connection is to have one more answer.
    async fn exchange(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        over: OverTls,
        place: &Place,
    ) -> Result<Response<Sending>, Infallible> {
        let console = self.console.as_ref().filter(|_| !is_of_health(request.uri().path()));
        let answered = match console {
            Some(console) => call(console, request, peer, over, place).await,
            None => match place.begin(false) {
                Ok(exchange) => Ok((exchange, self.answer(request).await)),
                Err(refused) => Err(refused),
            },
        };
        let (exchange, reply) = match answered {
            Ok(answered) => answered,
            Err(Refused::Busy) => match place.begin(false) {
                Ok(exchange) => (exchange, console::busy()),
                Err(_) => return std::future::pending().await,
            },
            // It ends here.
            Err(Refused::Leaving) => return std::future::pending().await,
        };
        let mut reply = reply.map(|body| exchange.sending(body));
        if self.health.readiness.is_succeeded() {
            // The next one is for the process that has taken over.
            reply.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        Ok(reply)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            "/livez" => read_only(&request, || json(StatusCode::OK, &serde_json::json!({ "live": true }))),
            "/readyz" => read_only(&request, || readiness(&self.health)),
            "/metrics" if is_read(&request) => exposition(&self.health).await,
            "/metrics" => not_allowed("GET, HEAD"),
            _ => read_only(&request, || json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "Not found" }))),
        }
    }
}

fn is_of_health(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics")
}

/// Has the console answer.
async fn call(
    console: &Router,
    request: Request<Incoming>,
    peer: SocketAddr,
    over: OverTls,
    place: &Place,
) -> Result<(Exchange, Response<Body>), Refused> {
    let (head, body) = request.into_parts();
    let (exchange, body) = place.begin_receiving(body)?;
    let mut request = Request::from_parts(head, Body::new(body));
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(over);
    match TowerToHyperService::new(console.clone()).call(request).await {
        Ok(reply) => Ok((exchange, reply)),
        Err(never) => match never {},
    }
}

fn read_only(request: &Request<Incoming>, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    if is_read(request) { answer() } else { not_allowed("GET, HEAD") }
}

fn is_read(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut reply = json(StatusCode::METHOD_NOT_ALLOWED, &serde_json::json!({ "error": "Method not allowed" }));
    reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    reply
}

/// The metrics, made on a thread where nobody waits: neither probes nor health.
async fn exposition(health: &Arc<Health>) -> Response<Body> {
    let health = Arc::clone(health);
    match tokio::task::spawn_blocking(move || metrics::render(&health)).await {
        Ok(text) => reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "error": "The sidecar ends" })),
        },
    }
}

/// A scraper that asks and does not read would keep its place for good.
fn bound_writes(stream: &TcpStream) {
    let timeout = u32::try_from(READ_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, timeout) {
        tracing::debug!(%error, "a connection without a bound of what it leaves unread");
    }
}

fn readiness(health: &Health) -> Response<Body> {
    let (status, mut body) = match health.readiness.problem() {
        None => (StatusCode::OK, serde_json::json!({ "ready": true })),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, serde_json::json!({ "ready": false, "reason": reason })),
    };
    let warnings = health.warnings();
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    json(status, &body)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    reply(status, "application/json", body.to_string())
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    reply
}
